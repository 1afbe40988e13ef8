"""Footprints as the Virtual Observatory writes them: ``POLYGON ICRS ra dec ra dec ...``."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from survey_gampen.images.pixels.grid import unit_vectors


@dataclass(frozen=True)
class Region:
    """A convex polygon of great circles, as a coadd's footprint is one.

    Attributes
    ----------
    sides : ndarray of float64, shape (n, 3)
        Normals of the sides' planes, inwards.
    """

    sides: NDArray[np.float64]

    def depth(self, ra: float, dec: float) -> float:
        """Degrees from the nearest side; negative outside."""
        sines = self.sides @ unit_vectors(ra, dec)
        return float(np.degrees(np.arcsin(np.clip(sines.min(), -1.0, 1.0))))


def parse_region(text: str) -> Region | None:
    """Read an ``s_region`` (ObsCore 1.1, in STC-S or DALI); None where it is no polygon.

    Parameters
    ----------
    text : str
        ``POLYGON ICRS 149.9 2.1 150.1 2.1 ...``, with or without the frame.
    """
    words = text.replace("(", " ").replace(")", " ").replace(",", " ").split()
    if words and words[0].upper() == "POLYGON":
        words = words[1:]
        if words and words[0].upper() in ("ICRS", "J2000", "FK5", "UNION"):
            words = words[1:]
    try:
        numbers = np.array([float(word) for word in words])
    except ValueError:
        return None
    if len(numbers) < 6 or len(numbers) % 2 or not np.isfinite(numbers).all():
        return None
    corners = unit_vectors(numbers[0::2], numbers[1::2])
    if np.allclose(corners[0], corners[-1]):
        corners = corners[:-1]
    sides = np.cross(corners, np.roll(corners, -1, axis=0))
    length = np.linalg.norm(sides, axis=1)
    sides = sides[length > 1e-12] / length[length > 1e-12, None]
    if len(sides) < 3:
        return None
    # Whichever way round the corners go, the middle is inside.
    inwards = 1.0 if np.sum(sides @ corners.mean(axis=0)) > 0 else -1.0
    return Region(inwards * sides)
