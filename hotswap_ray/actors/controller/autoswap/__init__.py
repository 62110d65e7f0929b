"""Acts on what the learning actor decides."""
