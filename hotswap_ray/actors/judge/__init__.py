"""The process that runs checks, and the link of others to it."""
