"""One class for each group of API calls."""
