"""Passes to draws, draws to the columns of the catalogue."""
