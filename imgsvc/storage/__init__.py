"""Stored outputs, and the data folder: its lock, scratch files and free space."""
