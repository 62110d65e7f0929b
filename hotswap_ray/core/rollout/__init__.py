"""Is the candidate worse, better, or done with: guardrails, canary, A/B test."""
