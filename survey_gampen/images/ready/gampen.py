"""Cutouts that GaMPEN's users have already: a folder with one FITS file a galaxy.

``FOLDER/info.csv`` has a row a galaxy with the column ``object_id``, ``file_name`` or both, and
``FOLDER/cutouts/`` holds the files. A galaxy without a ``file_name`` has ``OBJECT_ID.fits``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.csv
from astropy.io import fits
from numpy.typing import ArrayLike, NDArray

from survey_gampen.errors import InputError, UnreadableFile
from survey_gampen.images.base import Cutouts
from survey_gampen.images.pixels.finish import finish_into, native_size
from survey_gampen.images.pixels.grid import Grid
from survey_gampen.images.pixels.planes import PlaneGroup
from survey_gampen.images.pixels.single import look
from survey_gampen.images.pixels.tile import Tile, reading
from survey_gampen.images.places.listing import SUFFIXES, FileFacts, inventory
from survey_gampen.images.status import Status
from survey_gampen.outside import outside_fault
from survey_gampen.survey import Survey


def is_gampen_folder(path: Path) -> bool:
    """Whether a folder is laid out as GaMPEN wants it."""
    return (path / "info.csv").is_file() and (path / "cutouts").is_dir()


class GampenSource:
    """One FITS file a galaxy.

    The galaxy is where the file's WCS has its position; without a WCS it is in the middle, as
    GaMPEN has it. A file that cannot be read concerns one galaxy only, which is flagged
    BAD_CUTOUT; one that is not there is NO_IMAGE.

    Parameters
    ----------
    folder : Path
        Holds ``info.csv`` and ``cutouts/``.
    survey : Survey
        Gives pixel scale and zero point where the files don't.
    band : str or None
        Label for the rows; the files hold one band.
    pixel_scale : float or None
        Arcsec a pixel of the cutouts; None: the survey's.
    variance : bool
        Whether cutouts come with variances.

    Raises
    ------
    InputError
        ``info.csv`` is missing or lacks its columns; no pixel scale is known.
    """

    def __init__(
        self,
        folder: Path,
        survey: Survey,
        band: str | None,
        pixel_scale: float | None,
        *,
        variance: bool = False,
    ) -> None:
        self.folder, self.survey, self.band, self.variance = folder, survey, band, variance
        self.warnings: list[str] = []
        self._files = _read_info(folder / "info.csv")
        scale = pixel_scale or survey.pixel_scale
        if scale is None:
            raise InputError(f"{folder}: give pixel_scale in the survey profile")
        self.pixel_scale = float(scale)
        there = _listing(folder / "cutouts")
        self._inventory = _digest(folder / "info.csv", there)
        self._present = {name for name, _, _ in there}
        missing = sum(name not in self._present for name in self._files.values())
        if missing == len(self._files):
            example = next(iter(self._files.values()), "OBJECT_ID.fits")
            raise InputError(
                f"{folder / 'cutouts'}: none of the files of info.csv is there, such as {example}"
            )
        if missing:
            self.warnings.append(f"{folder}: {missing} files named in info.csv are not in cutouts/")

    def inventory(self) -> str:
        """SHA-256 over ``info.csv`` and names, sizes and times of the files."""
        return self._inventory

    def describe(self) -> str:
        """One line: how many galaxies."""
        return f"{len(self._files)} galaxies with a file each in {self.folder / 'cutouts'}"

    def footprints(self) -> pa.Table:
        """Empty: where a file lies is not known before it is opened."""
        return pa.table(
            {
                "tile": pa.array([], pa.string()),
                **{name: pa.array([], pa.float64()) for name in ("ra", "dec", "radius")},
            }
        )

    def has(self, object_id: Sequence[Any]) -> NDArray[np.bool_]:
        """Which galaxies have a file."""
        return np.array([self._files.get(_key(name)) in self._present for name in object_id], bool)

    def cutouts(
        self, ra: ArrayLike, dec: ArrayLike, size: int, object_id: Sequence[Any] | None = None
    ) -> Iterator[Cutouts]:
        """Cut out galaxies by name, a batch a file; see :meth:`ImageSource.cutouts`."""
        if object_id is None:
            raise InputError(f"{self.folder}: galaxies are found by object_id here, none given")
        lon, lat = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        for galaxy in range(len(lon)):
            batch = Cutouts.empty(np.array([galaxy]), size, self.variance)
            name = self._files.get(_key(object_id[galaxy]))
            if name is None or name not in self._present:
                batch.status[0] = int(Status.NO_IMAGE)
            else:
                try:
                    self._cut(batch, name, float(lon[galaxy]), float(lat[galaxy]))
                except UnreadableFile as error:
                    batch.status[0] = int(Status.BAD_CUTOUT)
                    batch.note[0] = str(error)
            yield batch

    def _cut(self, batch: Cutouts, name: str, ra: float, dec: float) -> None:
        path = self.folder / "cutouts" / name
        group, grid, facts = self._look(path)
        batch.facts = {"tile": name, **facts, "sky_sigma": None}
        if facts["zero_point"] is None:
            batch.status[0] = int(Status.BAD_CUTOUT)
            batch.note[0] = f"{name}: no zero point in the header nor in the survey profile"
            return
        ny, nx = group.shape
        middle: tuple[float, float] = (nx // 2, ny // 2)
        scales = (self.survey.pixel_scale or self.pixel_scale,) * 2
        if grid is not None:
            scales = grid.pixel_scales()
            x, y = (np.round(v, 4) for v in grid.to_pixel([ra], [dec]))
            if not grid.depth(x, y)[0] > 0:
                batch.status[0] = int(Status.BAD_CUTOUT)
                batch.note[0] = f"{name}: the catalogue's position lies outside of it"
                return
            middle = (float(x[0]), float(y[0]))
        n = native_size(batch.image.shape[1], scales, self.pixel_scale)
        pixel_x, pixel_y = (int(np.floor(value + 0.5)) for value in middle)
        tile = Tile(
            path, group, self.survey, facts["zero_point"], variance=self.variance, root=self.folder
        )
        try:
            box = tile.box(pixel_x - n // 2, pixel_y - n // 2, n, n)
        finally:
            tile.close()
        offset = (middle[0] - pixel_x, middle[1] - pixel_y)
        finish_into(batch, 0, box, offset, scales, self.pixel_scale)
        if np.isfinite(batch.sky_sigma[0]):
            batch.facts["sky_sigma"] = float(batch.sky_sigma[0])

    def _look(self, path: Path) -> tuple[PlaneGroup, Grid | None, dict[str, Any]]:
        """What the headers of one file say."""
        with reading(path, self.folder), fits.open(path, mode="readonly", memmap=True) as hdus:
            seen = look(hdus, path.name, self.survey, self.band, self.pixel_scale)
        return seen.group, seen.grid, seen.facts

    def close(self) -> None:
        """Nothing stays open."""


def _key(object_id: Any) -> str:
    """One spelling for a name, whether it is a number, a numpy or an arrow scalar, or text."""
    return str(object_id.as_py() if isinstance(object_id, pa.Scalar) else object_id).strip()


def _read_info(path: Path) -> dict[str, str]:
    """File names by object_id."""
    if not path.is_file():
        raise InputError(f"{path}: not there; it lists object_id or file_name of each galaxy")
    try:
        names = pa.csv.open_csv(path).schema.names
        text = pa.csv.ConvertOptions(column_types={name: pa.string() for name in names})
        table = pa.csv.read_csv(path, convert_options=text)
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        fault = outside_fault(error, path)
        if fault is not None:
            raise fault from error
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: cannot be read as CSV ({reason})") from error
    if "object_id" not in names and "file_name" not in names:
        raise InputError(f"{path}: needs a column object_id or file_name, has {', '.join(names)}")
    rows = table.num_rows
    ids = table["object_id"].to_pylist() if "object_id" in names else [None] * rows
    files = table["file_name"].to_pylist() if "file_name" in names else [None] * rows
    out: dict[str, str] = {}
    for identity, file in zip(ids, files, strict=True):
        name = (file or f"{identity}.fits").strip()
        key = str(identity).strip() if identity else name.split(".fit")[0]
        if key in out:
            raise InputError(f"{path}: object_id {key} stands there twice")
        out[key] = name
    return out


def _listing(folder: Path) -> list[tuple[str, int, int]]:
    try:
        with os.scandir(folder) as entries:
            return sorted(
                (entry.name, entry.stat().st_size, int(entry.stat().st_mtime))
                for entry in entries
                if entry.name.lower().endswith(SUFFIXES)
            )
    except FileNotFoundError as error:
        raise InputError(f"{folder}: not there; it holds one FITS file a galaxy") from error


def _digest(info: Path, files: list[tuple[str, int, int]]) -> str:
    facts = [FileFacts(*file) for file in files]
    both = hashlib.sha256(info.read_bytes())
    both.update(inventory(facts).encode())
    return both.hexdigest()
