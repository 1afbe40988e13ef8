"""Which tiles there are, known from a survey's sky map: a tree of files by tract and patch.

A release has hundreds of thousands of patches. None is listed: the sky map tells which patch holds
a position, a template its name, and whether it exists is found when it is needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict
from functools import lru_cache
from itertools import product
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from survey_gampen.errors import InputError, OutsideFault, UnreadableFile
from survey_gampen.images.pixels.grid import Grid, unit_vectors
from survey_gampen.images.pixels.mosaic import grid_offset
from survey_gampen.images.pixels.planes import short_band
from survey_gampen.images.pixels.tile import reading
from survey_gampen.images.places.files import Files, LocalFiles
from survey_gampen.images.places.listing import FileFacts
from survey_gampen.images.places.remote import RemoteFiles
from survey_gampen.images.tiles import footprints
from survey_gampen.images.tiles.skymap import RingsSkymap
from survey_gampen.images.tiles.source import Pairs, TileRow
from survey_gampen.images.tiles.template import Template
from survey_gampen.survey import Survey

#: A projection stretches distances from the tangent point: by 0.1 % at a tract's corner.
_STRETCH = 1.01


class TreeTiles:
    """Tiles of a file tree.

    Parameters
    ----------
    files : Files
        The tree.
    survey : Survey
        Profile with ``tree`` and ``skymap``.
    band : str
        Band to use.
    layout : str
        One of :meth:`Template.layouts`, found to be there.

    Raises
    ------
    InputError
        The profile's tables are not usable.
    """

    def __init__(self, files: Files, survey: Survey, band: str, layout: str) -> None:
        self.files, self.listed = files, False
        self.band: str | None = short_band(band)
        self.skymap = RingsSkymap.from_table(survey.skymap, f"profile {survey.name}")
        self.template, self._layout = Template(survey, band, self.skymap), layout
        self.pixel_scale, self._survey = self.skymap.pixel_scale, survey
        self.warnings: list[str] = []
        self.unreadable: list[str] = []
        self._fixed = layout[: layout.index("{")].rpartition("/")[0]
        self._names: dict[int, str | None] = {}
        self._used: dict[int, TileRow] = {}
        self._spelling: int | None = None
        self.row = lru_cache(maxsize=256)(self._read_row)
        self.grid = lru_cache(maxsize=256)(self._own_grid)
        self.outline = lru_cache(maxsize=1024)(self._outline)

    def inventory(self) -> str:
        """SHA-256 over the release's name, the template of its files and the sky map.

        A public release does not change, so its files are neither listed nor dated; and a copy of
        it counts as the same where its folder has the same name.
        """
        top = f"{self.files.address}/{self._fixed}".removesuffix(f"/{self._own_folder()}")
        facts = {
            "release": top.rstrip("/").rpartition("/")[2],
            "path": self.template.path,
            "filters": self.template.filters,
            "skymap": asdict(self.skymap),
        }
        return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()

    def describe(self) -> str:
        """One line: which tree."""
        return (
            f"tree of coadds at {self.files.address}, band {self.band}, {self.pixel_scale:.4g} "
            "arcsec/px, patches found by the sky map"
        )

    def footprints(self) -> pa.Table:
        """Tiles that were used until now: tile, ra, dec (deg), radius (deg)."""
        rows = [row for _, row in sorted(self._used.items())]
        names = {"tile": "path", "ra": "ra", "dec": "dec", "radius": "radius"}
        return pa.table({name: [row[key] for row in rows] for name, key in names.items()})

    # --- Where patches lie ------------------------------------------------------------------------

    def reaching(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> Pairs:
        """Positions and the patches whose pixels, with the border, hold them."""
        objects, numbers = [np.empty(0, np.int64)], [np.empty(0, np.int64)]
        home = self.skymap.tract(ra, dec)
        for tract in np.unique(home[home >= 0]):
            mine = np.nonzero(home == tract)[0]
            centre = self.skymap.centre(int(tract))
            apart = np.linalg.norm(
                unit_vectors(ra[mine], dec[mine]) - unit_vectors(*centre), axis=1
            ).max()
            radius = float(np.degrees(2.0 * np.arcsin(min(apart / 2.0, 1.0))))
            for other in self.skymap.tracts_near(*centre, radius):
                x, y = self.skymap.to_pixel(other, ra[mine], dec[mine])
                for which, number in self._holding(other, x, y, 0.0):
                    objects.append(mine[which])
                    numbers.append(np.full(len(which), number, np.int64))
        return np.concatenate(objects), np.concatenate(numbers)

    def near(self, ra: float, dec: float, reach: float) -> list[int]:
        """Patches that come within `reach` degrees of a position."""
        pixels = reach * 3600.0 / self.pixel_scale * _STRETCH
        return [
            number
            for tract in self.skymap.tracts_near(ra, dec, reach)
            for _, number in self._holding(tract, *self.skymap.to_pixel(tract, ra, dec), pixels)
        ]

    def scale(self, number: int) -> float:
        """Arcsec a pixel."""
        return self.pixel_scale

    def _holding(
        self, tract: int, x: NDArray[np.float64], y: NDArray[np.float64], reach: float
    ) -> Iterator[tuple[NDArray[np.int64], int]]:
        """Patches of a tract within `reach` pixels of some points, and which points those are."""
        side, grow = self.skymap.patch_inner, self.skymap.patch_border + reach + 1.0
        inside = np.nonzero(np.isfinite(x) & np.isfinite(y))[0]
        if not len(inside):
            return
        spans = []
        for v in (x[inside], y[inside]):
            first = max(int((v.min() - grow) // side), 0)
            last = min(int((v.max() + grow) // side), self.skymap.patches - 1)
            spans.append(range(first, last + 1))
        for iy, ix in product(spans[1], spans[0]):
            x0, y0, nx, ny = self.skymap.bounds((ix, iy))
            held = (x[inside] > x0 - 0.5 - reach) & (x[inside] < x0 + nx - 0.5 + reach)
            held &= (y[inside] > y0 - 0.5 - reach) & (y[inside] < y0 + ny - 0.5 + reach)
            if held.any():
                yield inside[held], (tract * self.skymap.patches + iy) * self.skymap.patches + ix

    def _patch(self, number: int) -> tuple[int, tuple[int, int]]:
        """Tract and (x, y) of a tile's number."""
        row, x = divmod(number, self.skymap.patches)
        tract, y = divmod(row, self.skymap.patches)
        return tract, (x, y)

    def _outline(self, number: int) -> Grid:
        tract, patch = self._patch(number)
        bounds = self.skymap.bounds(patch)
        return Grid(self.skymap.wcs(tract, patch), bounds.nx, bounds.ny)

    # --- Files ------------------------------------------------------------------------------------

    def exists(self, number: int) -> bool:
        """Whether the survey has the patch; asked once.

        Raises
        ------
        OutsideFault
            The whole tree is gone, or the server fails.
        """
        if number not in self._names:
            self._names[number] = self._find(number)
        return self._names[number] is not None

    def _find(self, number: int) -> str | None:
        tract, (x, y) = self._patch(number)
        remote = isinstance(self.files, RemoteFiles)
        web = remote and self.files.address.startswith("http")
        spellings = list(enumerate(self.template.spellings(x, y, web)))
        if remote and self._spelling is not None:  # a release writes all of its patches alike
            spellings = [spellings[self._spelling]]
        missing = []
        for word, (how, patch) in product(self.template.filters, spellings):
            name = self._layout.format(band=word, tract=tract, patch=patch)
            if self.files.is_absent(name):
                continue
            if self.files.exists(name):
                self._spelling = how
                return name
            missing.append(name)
        if missing:
            self._see_that_it_stands()
        for name in missing:
            self.files.note_absent(name)
        return None

    def _see_that_it_stands(self) -> None:
        """A tree that is gone as a whole, such as a lost mount, is no sky without images.

        Looked at after each patch that is missing: else all that are asked for in between, which
        a server without its disk does not have either, would count as not in the survey.
        """
        if not is_there(self.files, self._fixed):
            raise OutsideFault(
                f"{self.files.where(self._fixed)} is gone: put it back, or mount it again, and run "
                "the same command again"
            )

    def _read_row(self, number: int) -> TileRow:
        """What the headers of a patch tell.

        Raises
        ------
        UnreadableFile
            The file is broken, or is not the patch of its name.
        OutsideFault
            It is gone.
        """
        if not self.exists(number):
            raise OutsideFault(f"patch {self._patch(number)} is gone: run the same command again")
        name = self._names[number]
        assert name is not None
        where = self.files.where(name)
        with reading(where, self.files.address):
            path = self.files.local(name)
            rows = footprints.scan(
                LocalFiles.of_folder(path.parent), FileFacts(path.name, path.stat().st_size, 0)
            )
        try:
            row = self._the_row(rows, number, where)
        except UnreadableFile:
            self.files.forget(name)
            raise
        self._used[number] = row = {**row, "path": name}
        return row

    def _the_row(self, rows: list[dict[str, Any]], number: int, where: str) -> TileRow:
        """The image of a patch among the images of its file, with all that a tile needs."""
        usable = [r for r in rows if r["kind"] == footprints.SKY]
        usable = [r for r in usable if r["band"] in (None, self.band)]
        why = next((r["why"] for r in rows if r.get("why")), None)
        if why is None and not usable:
            why = f"no image in band {self.band}"
        if why is None and not self._is_where_it_should(usable[0], number):
            tract, (x, y) = self._patch(number)
            why = (
                f"its WCS is not that of tract {tract}, patch {x},{y}; if all files say so, mend "
                "[skymap] of the survey profile"
            )
        if why is not None:
            raise UnreadableFile(
                f"{where}: cannot be read ({why}); replace the file, then resume the run"
            )
        row = {**dict.fromkeys(("mask", "variance", "invvar", "plane")), **usable[0]}
        if row["zero_point"] is None:
            if self._survey.zero_point is None:
                raise InputError(
                    f"{where}: no zero point in its header; give zero_point in the survey profile"
                )
            row.update(zero_point=self._survey.zero_point, zero_point_from="survey")
        return row

    def _is_where_it_should(self, row: dict[str, Any], number: int) -> bool:
        """Whether an image lies inside the patch of the sky map, on its pixels."""
        own, planned = Grid(row["wcs"], row["nx"], row["ny"]), self.outline(number)
        if not own.shares_projection(planned):
            return False
        offset = grid_offset(own, planned, 0, 0, (own.nx, own.ny))
        return offset is not None and all(
            first >= 0 and first + length <= whole
            for first, length, whole in zip(
                offset, (own.nx, own.ny), (planned.nx, planned.ny), strict=True
            )
        )

    def _own_grid(self, number: int) -> Grid:
        row = self.row(number)
        return Grid(row["wcs"], row["nx"], row["ny"])

    def _own_folder(self) -> str:
        """The fixed folders of the template below that of the release."""
        return self.template.path.removeprefix("{rerun}/").partition("{")[0].rpartition("/")[0]


def is_there(files: Files, folder: str) -> bool:
    """Whether a folder of a tree is there; an empty name is the top."""
    if isinstance(files, RemoteFiles):
        return files.has_folder(folder)
    return isinstance(files, LocalFiles) and (files.root / folder).is_dir()
