"""The data path: one process that takes requests and hands them to models."""
