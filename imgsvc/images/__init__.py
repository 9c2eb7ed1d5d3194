"""Compression of one image. It runs in a worker and does no I/O."""
