"""The documents: pages made from the code, and the chart of the README. `python3 run.py docs`."""
