"""The process that runs the checks of answers."""
