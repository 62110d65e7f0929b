"""The Python handle: what a process outside of the cluster asks of it."""
