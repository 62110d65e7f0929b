"""Golden prompts asked of models on purpose."""
