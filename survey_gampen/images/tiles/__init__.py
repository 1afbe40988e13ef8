"""Coadds of a survey: which tiles there are, which of them hold a galaxy, cutouts from them."""
