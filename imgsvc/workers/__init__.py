"""Processes that run a function on bytes, and their supervision."""
