"""Runs of one catalogue in several bands, joined into one catalogue."""
