"""The shell: actors and replicas; the only package besides ``app`` that talks to Ray."""
