"""Spreadsheets in and out. No I/O."""
