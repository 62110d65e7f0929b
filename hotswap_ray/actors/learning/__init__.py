"""The process that keeps what was learned and decides by it."""
