"""Millions of hostile messages through the real path: `python -m tests.fuzz`."""
