"""The pixel grid of one image on the sky."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.io import fits
from astropy.utils.exceptions import AstropyWarning
from astropy.wcs import WCS
from astropy.wcs.utils import wcs_to_celestial_frame
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


@contextmanager
def quiet() -> Iterator[None]:
    """Silence astropy's remarks about headers; what matters is checked here."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", AstropyWarning)
        yield


def celestial_text(header: fits.Header) -> str | None:
    """The celestial part of a header's WCS as header text, or None where there is none."""
    try:
        wcs = WCS(header)
    except KeyError:  # only an alternate WCS, as HSC's PSF images have
        return None
    if not wcs.has_celestial:
        return None
    return str(wcs.celestial.to_header_string(relax=True))


class Grid:
    """Pixels of an image of ``ny`` rows and ``nx`` columns on the sky.

    Pixel coordinates are 0-based: the centre of the first pixel is (0, 0).

    Parameters
    ----------
    text : str
        Header text from :func:`celestial_text`. Always the stored text and not the file's own
        header, so that a position is the same pixel whether the index was just made or read.
    nx, ny : int
        Pixels along x and y.
    """

    def __init__(self, text: str, nx: int, ny: int) -> None:
        self.nx, self.ny = nx, ny
        self._scales: tuple[float, float] | None = None
        self._wcs = WCS(fits.Header.fromstring(text))
        frame = wcs_to_celestial_frame(self._wcs)
        # FK5 (J2000) agrees with ICRS to 0.02 arcsec: an eighth of a pixel at most, and HSC's
        # headers of either name hold ICRS positions from Gaia or Pan-STARRS anyway.
        j2000 = frame.name == "fk5" and abs(frame.equinox.jyear - 2000.0) < 1e-6
        self._frame = None if frame.name == "icrs" or j2000 else frame

    def to_pixel(self, ra: ArrayLike, dec: ArrayLike) -> tuple[Floats, Floats]:
        """Positions in degrees (ICRS) to pixels; NaN where the projection does not reach."""
        lon, lat = np.asarray(ra, float), np.asarray(dec, float)
        if self._frame is not None:
            there = SkyCoord(lon, lat, unit="deg").transform_to(self._frame)
            lon, lat = there.spherical.lon.deg, there.spherical.lat.deg
        if self._wcs.has_distortion:
            # All positions are iterated until the worst is within the tolerance, so the others'
            # last digits depend on it: those digits must lie far below what is rounded away.
            x, y = self._wcs.all_world2pix(lon, lat, 0, tolerance=1e-10, maxiter=50, quiet=True)
        else:
            x, y = self._wcs.wcs_world2pix(lon, lat, 0)
        return np.asarray(x, float), np.asarray(y, float)

    def to_sky(self, x: ArrayLike, y: ArrayLike) -> tuple[Floats, Floats]:
        """Pixels to positions in degrees (ICRS)."""
        lon, lat = self._wcs.all_pix2world(np.asarray(x, float), np.asarray(y, float), 0)
        if self._frame is not None:
            here = SkyCoord(lon, lat, unit="deg", frame=self._frame).icrs
            lon, lat = here.ra.deg, here.dec.deg
        return np.asarray(lon, float), np.asarray(lat, float)

    def shares_projection(self, other: Grid) -> bool:
        """Whether both lie in one tangent plane, as patches of a tract do."""
        mine, theirs = self._wcs.wcs, other._wcs.wcs
        return (
            tuple(mine.ctype) == tuple(theirs.ctype)
            and np.allclose(mine.crval, theirs.crval, rtol=0, atol=1e-9)
            and np.allclose(self._wcs.pixel_scale_matrix, other._wcs.pixel_scale_matrix, rtol=1e-7)
        )

    def pixel_scales(self) -> tuple[float, float]:
        """Arcsec a pixel along x and y, measured at the middle of the image."""
        if self._scales is not None:
            return self._scales
        x, y = (self.nx - 1) / 2, (self.ny - 1) / 2
        ra, dec = self.to_sky([x - 0.5, x + 0.5, x, x], [y, y, y - 0.5, y + 0.5])
        point = SkyCoord(ra, dec, unit="deg")
        self._scales = (
            float(point[0].separation(point[1]).to_value(u.arcsec)),
            float(point[2].separation(point[3]).to_value(u.arcsec)),
        )
        return self._scales

    def circle(self) -> tuple[float, float, float]:
        """The circle around the image on the sky: ra, dec, radius, all in degrees."""
        right, top = self.nx - 0.5, self.ny - 0.5
        middle_x, middle_y = (self.nx - 1) / 2, (self.ny - 1) / 2
        x = [middle_x, -0.5, -0.5, right, right, middle_x, middle_x, -0.5, right]
        y = [middle_y, -0.5, top, -0.5, top, -0.5, top, middle_y, middle_y]
        ra, dec = self.to_sky(x, y)
        rim = SkyCoord(ra, dec, unit="deg")
        radius = float(rim[0].separation(rim[1:]).max().deg)
        return float(ra[0]), float(dec[0]), radius

    def depth(self, x: Floats, y: Floats) -> Floats:
        """Pixels to the nearest border; negative outside, -inf where the position is NaN."""
        depth = np.minimum(
            np.minimum(x + 0.5, y + 0.5), np.minimum(self.nx - 0.5 - x, self.ny - 0.5 - y)
        )
        return np.where(np.isnan(depth), -np.inf, depth)


def unit_vectors(ra: ArrayLike, dec: ArrayLike) -> Floats:
    """Positions in degrees to unit vectors, shape (n, 3)."""
    lon, lat = np.radians(np.asarray(ra, float)), np.radians(np.asarray(dec, float))
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=-1)


def chord(angle: ArrayLike) -> Floats:
    """Length of the straight line between two points on the unit sphere `angle` degrees apart."""
    return np.asarray(2.0 * np.sin(np.radians(np.minimum(np.asarray(angle, float), 180.0)) / 2.0))
