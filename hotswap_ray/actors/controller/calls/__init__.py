"""What the controller answers, by subject."""
