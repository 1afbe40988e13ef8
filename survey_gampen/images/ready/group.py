"""Cutouts that are ready: a Zarr group, as xarray writes it, with an image for each galaxy.

What must be there: ``image(object, y, x)``, or ``image(object, band, y, x)`` with the names of the
bands in ``band(band)``; ``object_id(object)``, numbers or text. What may be: ``mask``, of the same
shape, not zero where a pixel has no usable value; ``variance``; and as attributes of the group
``pixel_scale`` [arcsec] and ``zero_point`` (AB magnitude of one unit), or ``units`` of the image
(nJy, nanomaggy, ...). A galaxy stands in the middle of its image, pixel ``n // 2`` of both axes.
The ``cutouts/*.zarr`` of a run are such groups.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from survey_gampen import storage
from survey_gampen.catalog.ids import id_key, is_number
from survey_gampen.errors import GampenError, InputError, OutsideFault, UnreadableFile
from survey_gampen.generations import open_group
from survey_gampen.images.base import BATCH, Cutouts, NoSuchBand
from survey_gampen.images.pixels.finish import finish_into, native_size
from survey_gampen.images.pixels.planes import njy_per_unit, unit_of
from survey_gampen.images.pixels.tile import BAD, NO_DATA, OUTSIDE, Box
from survey_gampen.images.status import Status
from survey_gampen.outside import outside_faults
from survey_gampen.quiet import quiet_zarr
from survey_gampen.survey import Survey


def is_zarr(path: Path) -> bool:
    """Whether a place holds a Zarr group (format 2 or 3)."""
    return any((path / name).exists() for name in ("zarr.json", ".zgroup"))


class ReadySource:
    """One image a galaxy in a Zarr group.

    Parameters
    ----------
    path : Path
        The group; also one of an object store.
    survey : Survey
        Gives pixel scale and zero point where the group does not.
    band : str or None
        The band to take where there are several, else the label of the rows.
    pixel_scale : float or None
        Arcsec a pixel of the cutouts; None: the group's.
    variance : bool
        Whether cutouts come with variances.

    Raises
    ------
    InputError
        The group lacks what it must have.
    """

    def __init__(
        self,
        path: Path,
        survey: Survey,
        band: str | None,
        pixel_scale: float | None,
        *,
        variance: bool = False,
    ) -> None:
        self.path, self.band, self.variance = path, band, variance
        self.warnings: list[str] = []
        with outside_faults(path):
            self._open(survey, pixel_scale)

    def _open(self, survey: Survey, pixel_scale: float | None) -> None:
        quiet_zarr()
        try:
            group = open_group(self.path)
        except (FileNotFoundError, KeyError, ValueError) as error:
            raise InputError(f"{self.path}: no Zarr group there ({error})") from None
        for name in ("image", "object_id"):
            if name not in group:
                there = ", ".join(sorted(group.array_keys()))
                raise InputError(f"{self.path}: has no array {name!r}, only {there}")
        self._image = group["image"]
        self._mask = group.get("mask")
        self._variance = group.get("variance") if self.variance else None
        self._place = self._band_place(group)
        # Keys of 64 bits in order, and whose they are: 16 bytes a galaxy.
        names = np.asarray(group["object_id"][:]).tolist()
        keys = _keys(names, self.path)
        #: Whether its object_ids are whole numbers, and no text.
        self.numbers = all(isinstance(name, int) for name in names)
        self._order = np.argsort(keys, kind="stable")
        self._keys = keys[self._order]
        twice = np.flatnonzero(self._keys[1:] == self._keys[:-1])
        if twice.size:
            row = int(self._order[twice[0]])
            raise InputError(f"{self.path}: the object_id of row {row} stands there twice")
        about = {**dict(group.attrs), **dict(self._image.attrs)}
        own = about.get("pixel_scale", survey.pixel_scale)
        if own is None:
            raise InputError(f"{self.path}: give pixel_scale as its attribute or in the profile")
        self._own = float(own)
        self.pixel_scale = float(pixel_scale or self._own)
        self._zero_point, self._from = self._unit(about, survey)
        self._inventory = _inventory(self.path)

    def _band_place(self, group: Any) -> int | None:
        """Which of the bands; None where there is one without a name."""
        if self._image.ndim == 3:
            return None
        if self._image.ndim != 4 or "band" not in group:
            raise InputError(
                f"{self.path}: image has the shape {self._image.shape}; it must be (object, y, x),"
                " or (object, band, y, x) with the names of the bands in an array band"
            )
        names = [str(name) for name in group["band"][:]]
        if self.band not in names:
            raise NoSuchBand(self.path, self.band, names)
        return names.index(self.band)

    def _unit(self, about: dict[str, Any], survey: Survey) -> tuple[float, str]:
        """AB magnitude of one unit of the image, and who says so."""
        if "zero_point" in about:
            return float(about["zero_point"]), "zero_point"
        header = fits.Header({"BUNIT": str(about.get("units", ""))})
        found = unit_of(header, fits.Header(), self._own**2)
        if found is not None:
            return found[0], "units"
        if survey.zero_point is None:
            raise InputError(
                f"{self.path}: give zero_point or units as its attribute, or zero_point in the"
                " survey profile"
            )
        return survey.zero_point, "survey"

    @property
    def extent(self) -> tuple[float, float]:
        """Width and height of an image [arcsec]."""
        height, width = self._image.shape[-2:]
        return width * self._own, height * self._own

    @property
    def has_bands(self) -> bool:
        """Whether it says which bands its images are of."""
        return self._place is not None

    def inventory(self) -> str:
        """SHA-256 over names, sizes and times of the files of the group."""
        return self._inventory

    def describe(self) -> str:
        """One line: how many galaxies."""
        side = " x ".join(map(str, self._image.shape[-2:]))
        return f"{len(self._keys)} images of {side} pixels in {self.path}"

    def footprints(self) -> pa.Table:
        """Empty: images are found by name here, not by place."""
        return pa.table(
            {
                "tile": pa.array([], pa.string()),
                **{name: pa.array([], pa.float64()) for name in ("ra", "dec", "radius")},
            }
        )

    def has(self, object_id: Sequence[Any]) -> NDArray[np.bool_]:
        """Which galaxies have an image."""
        return self._find(object_id)[0]

    def _find(self, object_id: Sequence[Any]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
        """Whether galaxies are there, and their places among the keys.

        A number and its decimal digits as text are the same name.
        """
        names, named = list(object_id), np.ones(len(object_id), bool)
        if self.numbers and names and isinstance(names[0], str):
            named = np.array([is_number(name) for name in names])
            names = [int(name) if fits else 0 for name, fits in zip(names, named, strict=True)]
        elif not self.numbers:
            names = [str(name) for name in names]
        wanted = _keys(names, self.path)
        place = np.minimum(np.searchsorted(self._keys, wanted), max(len(self._keys) - 1, 0))
        there = self._keys[place] == wanted if len(self._keys) else np.zeros(len(wanted), bool)
        return there & named, place

    def cutouts(
        self, ra: ArrayLike, dec: ArrayLike, size: int, object_id: Sequence[Any] | None = None
    ) -> Iterator[Cutouts]:
        """Cut out galaxies by name; see :meth:`ImageSource.cutouts`."""
        if object_id is None:
            raise InputError(f"{self.path}: galaxies are found by object_id here, none given")
        there, place = self._find(object_id)
        absent = np.flatnonzero(~there)
        for start in range(0, len(absent), BATCH):
            batch = Cutouts.empty(absent[start : start + BATCH], size, self.variance)
            batch.status[:] = int(Status.NO_IMAGE)
            yield batch
        index = np.flatnonzero(there)
        rows = self._order[place[index]]
        nearest = np.argsort(rows, kind="stable")  # neighbours lie in one chunk
        index, rows = index[nearest], rows[nearest]
        for start in range(0, len(index), BATCH):
            some = slice(start, start + BATCH)
            yield self._cut(index[some], rows[some], size)

    def _cut(self, index: NDArray[np.int64], rows: NDArray[np.int64], size: int) -> Cutouts:
        batch = Cutouts.empty(index, size, self.variance)
        scales = (self._own, self._own)
        n = native_size(size, scales, self.pixel_scale)
        try:
            with outside_faults(self.path):
                image = self._read(self._image, rows)
                mask = None if self._mask is None else self._read(self._mask, rows)
                variance = None if self._variance is None else self._read(self._variance, rows)
                self._see_that_it_stands()
        except (GampenError, MemoryError):
            raise
        except Exception as error:
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            raise UnreadableFile(
                f"{self.path}: rows {rows.min()} to {rows.max()} can't be read ({reason})"
            ) from error
        unit = njy_per_unit(self._zero_point)
        for slot in range(len(index)):
            box = _box(
                image[slot].astype(np.float64) * unit,
                None if mask is None else mask[slot] != 0,
                None if variance is None else variance[slot].astype(np.float64) * unit**2,
                n,
            )
            finish_into(batch, slot, box, (0.0, 0.0), scales, self.pixel_scale)
        sigma = batch.sky_sigma[np.isfinite(batch.sky_sigma)]
        batch.facts = {
            "tile": self.path.name,
            "band": self.band,
            "zero_point": self._zero_point,
            "zero_point_from": self._from,
            "pixel_scale": self._own,
            "psf_fwhm": None,
            "sky_sigma": float(np.median(sigma)) if sigma.size else None,
        }
        return batch

    def _read(self, array: Any, rows: NDArray[np.int64]) -> NDArray[Any]:
        selection = (rows,) if array.ndim == 3 else (rows, self._place)
        found: NDArray[Any] = np.asarray(array.oindex[selection])
        return found

    def _see_that_it_stands(self) -> None:
        """A group that is gone, such as a lost mount, is none of empty images.

        Looked at after reading: of a chunk that is missing Zarr makes zeros.
        """
        if not is_zarr(self.path):
            raise OutsideFault(
                f"{self.path} is gone: put it back, or mount it again, and run the same command"
                " again"
            )

    def close(self) -> None:
        """Nothing stays open."""


def _keys(names: Sequence[Any], path: Path) -> NDArray[np.uint64]:
    """The 64-bit keys of names, see :func:`id_key`."""
    if all(isinstance(name, int) for name in names):
        # Neither numpy nor Arrow has a type for 2^64 - 1 beside -1.
        return np.fromiter((name & (2**64 - 1) for name in names), np.uint64, len(names))
    if not all(isinstance(name, str) for name in names):
        raise InputError(f"{path}: object_id must be whole numbers or text")
    return id_key(pa.array(names, pa.string()))


def _box(
    image: NDArray[np.float64],
    mask: NDArray[np.bool_] | None,
    variance: NDArray[np.float64] | None,
    n: int,
) -> Box:
    """The `n` pixels a side around the middle one, padded where the image is smaller."""
    ny, nx = image.shape
    y0, x0 = ny // 2 - n // 2, nx // 2 - n // 2
    there = slice(max(y0, 0), min(y0 + n, ny)), slice(max(x0, 0), min(x0 + n, nx))
    here = tuple(slice(s.start - o, s.stop - o) for s, o in zip(there, (y0, x0), strict=True))
    pixels, flags = np.zeros((n, n), np.float32), np.full((n, n), OUTSIDE, np.uint8)
    with np.errstate(over="ignore"):
        pixels[here] = image[there]
    flags[here] = 0
    flags[here] |= ~np.isfinite(pixels[here]) * np.uint8(NO_DATA)
    if mask is not None:
        flags[here] |= mask[there] * np.uint8(BAD)
    pixels[(flags & NO_DATA) != 0] = 0.0
    if variance is None:
        return Box(pixels, flags)
    spread = np.full((n, n), np.nan, np.float32)
    spread[here] = np.where(variance[there] > 0, variance[there], np.nan)
    return Box(pixels, flags, spread)


def _inventory(path: Path) -> str:
    """SHA-256 over the files of the group."""
    digest = hashlib.sha256()
    if storage.is_remote(path):
        found = storage.filesystem(path).find(storage.name_there(path), detail=True)
        root = storage.name_there(path)
        facts = [(k.removeprefix(root), v["size"], v.get("ETag")) for k, v in found.items()]
    else:
        files = (Path(parent, name) for parent, _, names in os.walk(path) for name in names)
        stats = ((file, file.stat()) for file in files)
        facts = [(str(f.relative_to(path)), s.st_size, int(s.st_mtime)) for f, s in stats]
    for fact in sorted(facts):
        digest.update("\0".join(map(str, fact)).encode() + b"\n")
    return digest.hexdigest()
