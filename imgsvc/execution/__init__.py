"""Fetching, compressing and storing one image."""
