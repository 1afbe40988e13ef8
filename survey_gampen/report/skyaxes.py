"""Axes of a map: the whole sky, or a close view where all lies within 40 degrees."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
from astropy import units as u
from astropy.wcs import WCS
from cdshealpix.nested import vertices
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure

from survey_gampen.images.pixels.grid import unit_vectors
from survey_gampen.report.style import picture
from survey_gampen.report.tally import Floats

#: Degrees from the middle to the farthest place up to which the map is a close view.
_CLOSE = 40.0


def outlines(pixels: Iterable[int], norder: int) -> Floats:
    """Borders of HEALPix pixels (nested) of one order: (pixels, points, 2) of ra and dec [deg]."""
    # The border of a large pixel is bent; that of a small one is straight to the eye.
    step = max(1, 16 >> norder)
    lon, lat = vertices(np.array(sorted(pixels), np.uint64), norder, step=step)
    return np.stack([lon.to_value(u.deg), lat.to_value(u.deg)], axis=-1)


def sky_picture(every: Floats, draw: Callable[[SkyAxes], None]) -> bytes:
    """Draw a map.

    Parameters
    ----------
    every : ndarray, (n, 2)
        ra and dec [deg] of all that must be seen.
    draw : callable
        Draws on the axes it is given.

    Returns
    -------
    bytes
        PNG.
    """
    vectors = unit_vectors(every[:, 0], every[:, 1])
    middle = vectors.mean(axis=0)
    length = float(np.linalg.norm(middle))
    radius = 180.0
    if length > 1e-3:
        radius = float(np.degrees(np.arccos(np.clip((vectors @ middle / length).min(), -1, 1))))
    ra = float(np.degrees(np.arctan2(middle[1], middle[0])) % 360)
    dec = float(np.degrees(np.arcsin(np.clip(middle[2] / max(length, 1e-9), -1, 1))))
    if radius <= _CLOSE:
        return picture(lambda figure: draw(_Close(figure, ra, dec, every)), 6.4, 5.6)
    return picture(lambda figure: draw(_Whole(figure, ra)), 9.6, 5.2)


class SkyAxes:
    """Axes that take places on the sky.

    Attributes
    ----------
    axis : matplotlib Axes
        For a legend or a title.
    """

    axis: Any

    def project(self, points: Floats) -> Floats:
        """(..., 2) of ra and dec [deg] to coordinates of the axes."""
        raise NotImplementedError

    def fill(self, rings: Floats, **look: Any) -> None:
        """Fill outlines, (pixels, points, 2) of ra and dec [deg]."""
        self.axis.add_collection(PolyCollection(list(self._shapes(rings)), **look), autolim=False)

    def points(self, ra: Floats, dec: Floats, **look: Any) -> None:
        """Draw markers."""
        x, y = self.project(np.stack([ra, dec], -1)).T
        self.axis.plot(x, y, ls="", **look)

    def _shapes(self, rings: Floats) -> Floats:
        return self.project(rings)


class _Close(SkyAxes):
    """A zenithal equal-area projection around a middle [deg]."""

    def __init__(self, figure: Figure, ra: float, dec: float, every: Floats) -> None:
        self._wcs = WCS(naxis=2)
        self._wcs.wcs.ctype = ["RA---ZEA", "DEC--ZEA"]
        self._wcs.wcs.crval, self._wcs.wcs.crpix = [ra, dec], [1, 1]
        self._wcs.wcs.cdelt = [-1e-3, 1e-3]
        self.axis = figure.add_subplot(projection=self._wcs)
        low, high = self.project(every).min(axis=0), self.project(every).max(axis=0)
        side = 1.06 * float((high - low).max()) / 2
        x, y = (low + high) / 2
        self.axis.set(xlim=(x - side, x + side), ylim=(y - side, y + side), aspect="equal")
        digits = "d." + "d" * int(np.clip(np.ceil(1 - np.log10(side * 1e-3)), 1, 5))
        for coordinate, label in zip(self.axis.coords, ("RA [deg]", "Dec [deg]"), strict=True):
            coordinate.set_axislabel(label)
            coordinate.set_major_formatter(digits)
            coordinate.set_ticks(number=5)
            coordinate.grid(color="#888888", alpha=0.25, lw=0.5)

    def project(self, points: Floats) -> Floats:
        flat = points.reshape(-1, 2)
        there = self._wcs.all_world2pix(flat[:, 0], flat[:, 1], 0)
        return np.stack(there, -1).reshape(points.shape)


class _Whole(SkyAxes):
    """Aitoff's projection with east to the left, a longitude [deg] near its middle."""

    def __init__(self, figure: Figure, ra: float) -> None:
        self._centre = round(ra / 30) * 30
        self.axis = figure.add_subplot(projection="aitoff")
        self.axis.set_axisbelow(False)  # the labels of RA stand in the middle of the map
        self.axis.grid(color="#888888", alpha=0.3, lw=0.5)
        hours = np.arange(-150, 151, 30)
        names = [f"{(self._centre - h) % 360}°" for h in hours]
        self.axis.set_xticks(np.radians(hours), names, fontsize=7)
        self.axis.tick_params(axis="y", labelsize=7)
        self.axis.set(xlabel="RA [deg]", ylabel="Dec [deg]")

    def project(self, points: Floats) -> Floats:
        """Radians, east to the left."""
        lon = (points[..., 0] - self._centre + 180) % 360 - 180
        return np.radians(np.stack([-lon, points[..., 1]], axis=-1))

    def _shapes(self, rings: Floats) -> Floats:
        return np.concatenate(list(_split(self.project(rings))))


def _split(rings: Floats) -> Iterator[Floats]:
    """Outlines that reach over the seam of the map, drawn at both of its ends."""
    wide = np.ptp(rings[..., 0], axis=1) > np.pi
    # Around a pole all longitudes are there, and no end is the right one: left as they are.
    yield rings[~wide]
    if wide.any():
        for sign in (1, -1):
            part = rings[wide].copy()
            lon = part[..., 0]
            # Just short of the end, where the projection would jump to the other one.
            part[..., 0] = np.where(lon * sign > 0, lon, sign * (np.pi - 1e-6))
            yield part
