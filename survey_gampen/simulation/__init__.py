"""Galaxies with known truth: populations, light, noise, cutouts and whole tiles."""
