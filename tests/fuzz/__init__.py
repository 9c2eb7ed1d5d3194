"""Programs that run code on many damaged files."""
