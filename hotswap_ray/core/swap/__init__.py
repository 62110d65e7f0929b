"""A swap's table, record and history."""
