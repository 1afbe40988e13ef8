"""Cutouts from coadd tiles, whoever knows which tiles there are and wherever they lie."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from threading import Lock
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from survey_gampen.errors import InputError, OutsideFault, UnreadableFile
from survey_gampen.images.base import BATCH, Cutouts
from survey_gampen.images.pixels.finish import finish_into, native_size
from survey_gampen.images.pixels.grid import Grid, quiet
from survey_gampen.images.pixels.mosaic import fill_from
from survey_gampen.images.pixels.planes import PlaneGroup
from survey_gampen.images.pixels.tile import MISSING, Tile, reading
from survey_gampen.images.places.files import Files
from survey_gampen.images.status import Status
from survey_gampen.survey import Survey

#: Tiles held open at a time. Bounds memory for files that must be decompressed whole: 140 MB
#: for image and mask of an HSC patch. Of several bands fewer each.
_OPEN_TILES = 4
#: A position is rounded to this many decimals of a pixel before its pixel is chosen, so that two
#: tiles of one grid agree on the pixel although their arithmetic differs in the last digits.
_DECIMALS = 4

Integers = NDArray[np.int64]
#: Indices of positions and numbers of tiles, side by side.
Pairs = tuple[Integers, Integers]
#: Columns of ``footprints.SCHEMA`` for one tile.
TileRow = dict[str, Any]


class Tiles(Protocol):
    """Which tiles there are. Each has a number; of two equal ones the lower number counts."""

    files: Files
    #: Whether all of them are known, and their numbers are the rows of :meth:`footprints`.
    listed: bool
    #: Typical arcsec a pixel.
    pixel_scale: float
    band: str | None
    warnings: list[str]
    #: Files that may hold galaxies which lie on no other.
    unreadable: list[str]

    def inventory(self) -> str:
        """SHA-256 of what there is."""
        ...

    def describe(self) -> str:
        """One line: what there is."""
        ...

    def footprints(self) -> pa.Table:
        """Columns tile, ra, dec, radius; of those tiles at least that were used."""
        ...

    def reaching(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> Pairs:
        """Positions and tiles that may hold them."""
        ...

    def near(self, ra: float, dec: float, reach: float) -> list[int]:
        """Tiles that may come within `reach` degrees of a position."""
        ...

    def exists(self, number: int) -> bool:
        """Whether there is such a tile; may ask a server."""
        ...

    def outline(self, number: int) -> Grid:
        """Where a tile lies, without opening it."""
        ...

    def grid(self, number: int) -> Grid:
        """Where a tile lies by its own header."""
        ...

    def scale(self, number: int) -> float:
        """Arcsec a pixel of a tile."""
        ...

    def row(self, number: int) -> TileRow:
        """What is known of a tile; raises UnreadableFile for a broken one."""
        ...


class TileSource:
    """Images that each cover many galaxies: HSC patches, cutout-service files, any sky image.

    An object in an overlap takes the tile where it lies deepest (of equals, the first by number).
    The part of its box that this tile lacks comes from the neighbours, nearest in the same sense
    first, those of the same pixel grid before the others; what is left is padded and flagged.

    Parameters
    ----------
    tiles : Tiles
        Which there are.
    survey : Survey
        Profile.
    pixel_scale : float or None
        Arcsec a pixel of the cutouts; None: that of the images.
    variance : bool
        Whether cutouts come with variances.
    """

    def __init__(
        self,
        tiles: Tiles,
        survey: Survey,
        pixel_scale: float | None,
        *,
        variance: bool = False,
    ) -> None:
        self.tiles, self.survey, self.variance = tiles, survey, variance
        self.warnings = tiles.warnings
        self.pixel_scale = float(pixel_scale or tiles.pixel_scale)
        self.most_open = _OPEN_TILES
        self._open: OrderedDict[int, Tile] = OrderedDict()
        self._lock = Lock()  # two threads may read from one source
        self._shares = lru_cache(maxsize=4096)(self._shares_projection)

    def inventory(self) -> str:
        """SHA-256 over what there is, see :meth:`Tiles.inventory`."""
        return self.tiles.inventory()

    def describe(self) -> str:
        """One line: what there is."""
        return self.tiles.describe()

    def footprints(self) -> pa.Table:
        """Tiles: tile, ra, dec (deg), radius (deg) of the circle around each."""
        return self.tiles.footprints()

    def cutouts(
        self, ra: ArrayLike, dec: ArrayLike, size: int, object_id: Sequence[Any] | None = None
    ) -> Iterator[Cutouts]:
        """Cut out galaxies, tile by tile; see :meth:`ImageSource.cutouts`."""
        try:
            yield from self._cutouts(np.atleast_1d(ra), np.atleast_1d(dec), size)
        except InputError as error:  # a login, say, that was good at planning
            raise OutsideFault(str(error)) from error

    def _cutouts(self, ra: ArrayLike, dec: ArrayLike, size: int) -> Iterator[Cutouts]:
        lon, lat = np.asarray(ra, float), np.asarray(dec, float)
        with quiet():
            home, _, _ = self.assign(lon, lat)
        for number in np.unique(home):
            members = np.nonzero(home == number)[0]
            unreadable = self.tiles.unreadable
            if number < 0 and unreadable:
                more = f" and {len(unreadable) - 1} more" if len(unreadable) > 1 else ""
                raise UnreadableFile(
                    f"{unreadable[0]}{more}: cannot be read, and {len(members)} galaxies lie on "
                    "no other image; replace or remove it, then resume the run"
                )
            for start in range(0, len(members), BATCH):
                index = members[start : start + BATCH]
                batch = Cutouts.empty(index, size, self.variance)
                if number < 0:
                    batch.status[:] = int(Status.NO_IMAGE)
                else:
                    with self._lock, quiet():
                        self._cut(batch, int(number), lon[index], lat[index])
                yield batch

    def assign(
        self, ra: NDArray[np.float64], dec: NDArray[np.float64]
    ) -> tuple[Integers, NDArray[np.float64], NDArray[np.float64]]:
        """The tile of each position (-1: none) and its 0-based pixel coordinates there."""
        objects, tiles = self.tiles.reaching(ra, dec)
        x, y, depth = (np.full(len(objects), np.nan) for _ in range(3))
        for number in np.unique(tiles):
            mine, grid = tiles == number, self.tiles.outline(int(number))
            x[mine], y[mine] = _to_pixel(grid, ra[objects[mine]], dec[objects[mine]])
            depth[mine] = grid.depth(x[mine], y[mine]) * self.tiles.scale(int(number))
        home = np.full(len(ra), -1, np.int64)
        home_x, home_y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
        # Of each object the deepest first, of equals the tile of the lower number.
        order = np.lexsort((tiles, -depth, objects))
        order = order[depth[order] > 0]
        gone = np.zeros(len(objects), bool)
        while True:
            order = order[~gone[order]]
            first = order[np.unique(objects[order], return_index=True)[1]]
            missing = [n for n in np.unique(tiles[first]) if not self.tiles.exists(int(n))]
            if not missing:
                break
            gone = np.isin(tiles, missing)
        home[objects[first]] = tiles[first]
        home_x[objects[first]], home_y[objects[first]] = x[first], y[first]
        return home, home_x, home_y

    def _cut(
        self, batch: Cutouts, number: int, ra: NDArray[np.float64], dec: NDArray[np.float64]
    ) -> None:
        """Fill a batch of galaxies whose tile is `number`."""
        row = self.tiles.row(number)
        scales = (row["scale_x"], row["scale_y"])
        n = native_size(batch.image.shape[1], scales, self.pixel_scale)
        tile, grid = self._tile(number), self.tiles.grid(number)
        x, y = _to_pixel(grid, ra, dec)
        for slot in range(len(batch)):
            middle_x, middle_y = int(np.floor(x[slot] + 0.5)), int(np.floor(y[slot] + 0.5))
            x0, y0 = middle_x - n // 2, middle_y - n // 2
            box = tile.box(x0, y0, n, n)
            if (box.flags & MISSING).any():
                for other in self._neighbours(number, ra[slot], dec[slot], n * max(scales)):
                    if not self.tiles.exists(other):
                        continue
                    there = self._tile(other)
                    fill_from(box, x0, y0, grid, self.tiles.grid(other), there)
                    if not (box.flags & MISSING).any():
                        break
                tile = self._tile(number)  # a neighbour may have pushed it out
            offset = (x[slot] - middle_x, y[slot] - middle_y)
            finish_into(batch, slot, box, offset, scales, self.pixel_scale)
        sigma = batch.sky_sigma[np.isfinite(batch.sky_sigma)]
        batch.facts = {
            "tile": row["path"],
            "band": row["band"] or self.tiles.band,
            "zero_point": row["zero_point"],
            "zero_point_from": row["zero_point_from"],
            "pixel_scale": float(np.sqrt(scales[0] * scales[1])),
            "psf_fwhm": row["psf_fwhm"],
            "sky_sigma": float(np.median(sigma)) if sigma.size else None,
        }

    def _neighbours(self, home: int, ra: float, dec: float, side: float) -> list[int]:
        """Other tiles that the box may touch: of its own grid first, then the deepest first."""
        ranked = []
        for tile in self.tiles.near(ra, dec, side / 3600.0 / np.sqrt(2.0)):
            if tile == home:
                continue
            grid = self.tiles.outline(tile)
            x, y = _to_pixel(grid, ra, dec)
            depth = float(grid.depth(x, y)) * self.tiles.scale(tile)
            ranked.append((not self._shares(home, tile), -depth, tile))
        return [tile for _, _, tile in sorted(ranked)]

    def _shares_projection(self, one: int, other: int) -> bool:
        return self.tiles.outline(one).shares_projection(self.tiles.outline(other))

    def _tile(self, number: int) -> Tile:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        row, files = self.tiles.row(number), self.tiles.files
        numbers = {name: row[name] for name in ("image", "mask", "variance", "invvar", "plane")}
        group = PlaneGroup(shape=(row["ny"], row["nx"]), **numbers)
        while len(self._open) >= self.most_open:
            self._open.popitem(last=False)[1].close()
        where = files.where(row["path"])
        with reading(where, files.address):
            path = files.local(row["path"])
        try:
            self._open[number] = Tile(
                path,
                group,
                self.survey,
                row["zero_point"],
                variance=self.variance,
                root=files.address,
                called=where,
            )
        except UnreadableFile:
            files.forget(row["path"])
            raise
        return self._open[number]

    def close(self) -> None:
        """Close all files; they open again when needed."""
        while self._open:
            self._open.popitem()[1].close()


def _to_pixel(grid: Grid, ra: ArrayLike, dec: ArrayLike) -> tuple[NDArray[Any], NDArray[Any]]:
    x, y = (np.round(v, _DECIMALS) for v in grid.to_pixel(ra, dec))
    return x, y
