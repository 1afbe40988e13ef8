"""Tracts and patches of the "rings" sky map, in which HSC and Rubin store their coadds.

The sky is cut into rings of declination and each ring into *tracts*; every tract is one tangent
plane (TAN) with one WCS, cut into square *patches* whose pixels are whole pixels of that plane.
Tracts overlap each other, and a patch overlaps the next by its border.

The geometry follows the LSST Science Pipelines, package ``skymap`` (``ringsSkyMap.py``,
``tractInfo.py``, ``tractBuilder.py``, ``detail/wcsFactory.py`` of github.com/lsst/skymap), whose
numbers the surveys' file names hold.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, NamedTuple

import numpy as np
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from survey_gampen.errors import InputError
from survey_gampen.images.pixels.grid import celestial_text, chord, quiet, unit_vectors

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]


class Bounds(NamedTuple):
    """The pixels of a patch in its tract: first pixel (x0, y0), 0-based, and numbers of pixels."""

    x0: int
    y0: int
    nx: int
    ny: int


@dataclass(frozen=True)
class RingsSkymap:
    """A rings sky map.

    Attributes
    ----------
    rings : int
        Rings between the two polar caps, which are a tract each.
    ra_start : float
        Centre of the first tract of each ring, degrees.
    pixel_scale : float
        Arcsec a pixel at a tract's centre.
    tract_overlap : float
        By how much a tract reaches beyond its share of the sky, degrees.
    patch_inner, patch_border : int
        Pixels a side of a patch without its border, and width of the border.
    clipped : bool
        Whether patches end at the border of their tract ("legacy" builder), or have all of their
        border everywhere ("cells").
    version : {0, 1}
        Numbering of tracts. In version 0 the tract at `ra_start` of a ring has the number of the
        next ring's, as if it were the last of its own (an error that was kept for the files that
        had been named by it; LSST's ticket DM-14809).
    """

    rings: int = 120
    ra_start: float = 0.0
    pixel_scale: float = 0.168
    tract_overlap: float = 1.0 / 60.0
    patch_inner: int = 4000
    patch_border: int = 100
    clipped: bool = True
    version: int = 1

    @classmethod
    def from_table(cls, table: Mapping[str, Any], where: str) -> RingsSkymap:
        """The sky map that a survey profile's ``[skymap]`` describes.

        Raises
        ------
        InputError
            It describes none that is known here.
        """
        if table.get("projection", "TAN") != "TAN":
            raise InputError(f"{where}: projection of the sky map must be TAN")
        number = ("rings", "ra_start", "pixel_scale", "tract_overlap", "patch_inner")
        values = {k: table[k] for k in (*number, "patch_border", "version") if k in table}
        if any(values.get(k, 1) <= 0 for k in ("rings", "pixel_scale", "patch_inner")):
            raise InputError(f"{where}: rings, pixel_scale and patch_inner must be above 0")
        return cls(**values, clipped=table.get("tract_builder", "legacy") == "legacy")

    # --- Tracts -----------------------------------------------------------------------------------

    @cached_property
    def _height(self) -> float:
        """Of a ring, radians; the two caps are half a ring each."""
        return math.pi / (self.rings + 1)

    @cached_property
    def _per_ring(self) -> Integers:
        """Tracts of each ring: as many as cover it where it is longest."""
        start = self._height * (np.arange(self.rings) + 0.5) - 0.5 * math.pi
        nearest = np.minimum(np.abs(start), np.abs(start + self._height))
        return (2.0 * math.pi * np.cos(nearest) / self._height).astype(np.int64) + 1

    @cached_property
    def _before(self) -> Integers:
        """Number of the first tract of each ring; the last entry is the northern cap."""
        return np.concatenate([[0], np.cumsum(self._per_ring)]) + 1

    def __len__(self) -> int:
        """Return the number of tracts."""
        return int(self._before[-1]) + 1

    @cached_property
    def _centres(self) -> tuple[Floats, Floats]:
        """Right ascension and declination of the centres of all tracts, degrees."""
        number = np.arange(1, len(self) - 1)
        # In version 0 the first number of a ring belongs to the one before, if there is one.
        late = 0 if self.version else 1
        ring = np.searchsorted(self._before, number - late, side="right") - 1
        ring = np.clip(ring, 0, self.rings - 1)
        along = number - self._before[ring]
        ra = (along * (2.0 * math.pi) / self._per_ring[ring] + math.radians(self.ra_start)) % (
            2.0 * math.pi
        )
        dec = self._height * (ring + 1) - 0.5 * math.pi
        caps = np.array([-0.5, 0.5]) * math.pi
        return (
            np.degrees(np.concatenate([[0.0], ra, [0.0]])),
            np.degrees(np.concatenate([caps[:1], dec, caps[1:]])),
        )

    @cached_property
    def _tree(self) -> cKDTree:
        return cKDTree(unit_vectors(*self._centres))

    def centre(self, tract: int) -> tuple[float, float]:
        """Right ascension and declination of a tract's centre, degrees.

        Raises
        ------
        IndexError
            There is no such tract.
        """
        if not 0 <= tract < len(self):
            raise IndexError(f"the sky map has no tract {tract}")
        ra, dec = self._centres
        return float(ra[tract]), float(dec[tract])

    def tract(self, ra: ArrayLike, dec: ArrayLike) -> Integers:
        """The tract whose share of the sky holds each position; -1 where it is not finite.

        Parameters
        ----------
        ra, dec : array_like, shape (n,)
            Degrees, ICRS.
        """
        lon, lat = np.radians(np.atleast_1d(ra)), np.radians(np.atleast_1d(dec))
        known = np.isfinite(lon) & np.isfinite(lat) & (np.abs(lat) <= 0.5 * math.pi)
        first = 0.5 * self._height - 0.5 * math.pi
        lat = np.where(known, lat, 0.0)
        ring = np.clip(((lat - first) / self._height).astype(np.int64), 0, self.rings - 1)
        share = 2.0 * math.pi / self._per_ring[ring]
        turn = np.where(known, lon - math.radians(self.ra_start), 0.0) % (2.0 * math.pi)
        along = (turn / share + 0.5).astype(np.int64)
        along[along == self._per_ring[ring]] = 0
        if self.version == 0:
            ring = ring + ((along == 0) & (ring != 0))
        number = self._before[ring] + along
        number[lat < first] = 0
        number[lat > -first] = len(self) - 1
        return np.where(known, number, -1)

    def tracts_near(self, ra: float, dec: float, radius: float = 0.0) -> list[int]:
        """All tracts that have pixels within `radius` degrees of a position, by number."""
        corner = math.hypot(0.5, 0.5) * self.side * self.pixel_scale / 3600.0
        reach = float(chord(min(corner + radius, 180.0)))
        grow = radius * 3600.0 / self.pixel_scale
        near = []
        for number in sorted(self._tree.query_ball_point(unit_vectors(ra, dec), reach)):
            x, y = self.to_pixel(number, ra, dec)
            low, high = self._edges
            if low - grow <= min(x[0], y[0]) and max(x[0], y[0]) <= high + grow:
                near.append(int(number))
        return near

    # --- Pixels of a tract ------------------------------------------------------------------------

    @cached_property
    def _half(self) -> int:
        """Pixels from the middle one of a tract to the last that its share and overlap need."""
        angle = 0.5 * self._height + math.radians(self.tract_overlap)
        return math.ceil(math.tan(angle) / math.radians(self.pixel_scale / 3600.0) - 0.5)

    @cached_property
    def patches(self) -> int:
        """Patches along one side of a tract."""
        return -(-(2 * self._half + 1) // self.patch_inner)

    @cached_property
    def side(self) -> int:
        """Pixels along one side of a tract: of all its patches without their borders."""
        return self.patches * self.patch_inner

    @cached_property
    def middle(self) -> int:
        """The pixel (0-based, on both axes) where a tract's tangent plane touches the sky."""
        return self._half + (self.side - 2 * self._half - 1) // 2

    @cached_property
    def _edges(self) -> tuple[float, float]:
        """Lowest and highest pixel coordinate that some patch has."""
        beyond = 0 if self.clipped else self.patch_border
        return -0.5 - beyond, self.side - 0.5 + beyond

    def to_pixel(self, tract: int, ra: ArrayLike, dec: ArrayLike) -> tuple[Floats, Floats]:
        """Positions in degrees to 0-based pixels of a tract; NaN on the far side of the sky.

        The gnomonic projection, Calabretta & Greisen 2002, A&A 395, 1077, section 5.1.3. As a WCS
        that says no LONPOLE is read, the one on the northern pole is turned by 180 degrees.
        """
        lon0, lat0 = (math.radians(v) for v in self.centre(tract))
        turned = -1.0 if self.centre(tract)[1] >= 90.0 else 1.0
        lon, lat = np.radians(np.atleast_1d(ra)), np.radians(np.atleast_1d(dec))
        apart = lon - lon0
        depth = math.sin(lat0) * np.sin(lat) + math.cos(lat0) * np.cos(lat) * np.cos(apart)
        depth = np.where(depth > 1e-6, depth, np.nan)
        scale = turned * math.radians(self.pixel_scale / 3600.0) * depth
        x = np.cos(lat) * np.sin(apart) / scale
        y = math.cos(lat0) * np.sin(lat) - math.sin(lat0) * np.cos(lat) * np.cos(apart)
        return self.middle - x, self.middle + y / scale

    # --- Patches ----------------------------------------------------------------------------------

    def find(self, ra: ArrayLike, dec: ArrayLike) -> tuple[Integers, Integers, Integers]:
        """The tract and patch whose inner regions hold each position.

        Parameters
        ----------
        ra, dec : array_like, shape (n,)
            Degrees, ICRS.

        Returns
        -------
        tract, patch_x, patch_y : ndarray of int64, shape (n,)
            -1 where a position is not finite.
        """
        lon, lat = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        tract = self.tract(lon, lat)
        patch = np.full((2, len(tract)), -1, np.int64)
        for number in np.unique(tract[tract >= 0]):
            mine = np.nonzero(tract == number)[0]
            for axis, pixel in enumerate(self.to_pixel(int(number), lon[mine], lat[mine])):
                index = np.floor((np.floor(pixel + 0.5)) / self.patch_inner).astype(np.int64)
                patch[axis, mine] = np.clip(index, 0, self.patches - 1)
        return tract, patch[0], patch[1]

    def bounds(self, patch: tuple[int, int]) -> Bounds:
        """The pixels of a patch (x, y) with its border, the same in every tract.

        Raises
        ------
        IndexError
            There is no such patch.
        """
        if not all(0 <= index < self.patches for index in patch):
            raise IndexError(f"a tract has no patch {patch[0]},{patch[1]}")
        low, high = (0, self.side) if self.clipped else (-self.patch_border, None)
        starts, sizes = [], []
        for index in patch:
            start = max(index * self.patch_inner - self.patch_border, low)
            end = (index + 1) * self.patch_inner + self.patch_border
            starts.append(start)
            sizes.append((end if high is None else min(end, high)) - start)
        return Bounds(*starts, *sizes)

    def patch_number(self, patch: tuple[int, int]) -> int:
        """The one number that newer pipelines give a patch (x, y)."""
        return patch[1] * self.patches + patch[0]

    def wcs(self, tract: int, patch: tuple[int, int]) -> str:
        """The WCS of a patch (x, y) as header text: that of its tract, moved by whole pixels.

        Raises
        ------
        IndexError
            There is no such tract or patch.
        """
        x0, y0, _, _ = self.bounds(patch)
        return _header_text(self, *self.centre(tract), x0, y0)


@lru_cache(maxsize=1024)
def _header_text(skymap: RingsSkymap, ra: float, dec: float, x0: int, y0: int) -> str:
    header = fits.Header()
    header["CTYPE1"], header["CTYPE2"] = "RA---TAN", "DEC--TAN"
    header["CRVAL1"], header["CRVAL2"] = ra, dec
    header["CRPIX1"] = float(skymap.middle + 1 - x0)  # FITS counts from 1
    header["CRPIX2"] = float(skymap.middle + 1 - y0)
    header["CD1_1"], header["CD2_2"] = -skymap.pixel_scale / 3600.0, skymap.pixel_scale / 3600.0
    header["CD1_2"] = header["CD2_1"] = 0.0
    header["RADESYS"] = "ICRS"
    with quiet():
        text = celestial_text(header)
    assert text is not None
    return text
