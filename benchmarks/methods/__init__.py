"""One file for each tool that `alternatives.py` compares, and what they have in common."""
