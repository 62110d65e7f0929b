"""The process that hosts one model's engine."""
