"""What is known of tasks and models."""
