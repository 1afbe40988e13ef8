"""Cutouts that are there already: a FITS file a galaxy, or a Zarr group of many."""
