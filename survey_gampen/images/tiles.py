"""Cutouts from a folder of coadd tiles."""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import ArrayLike, NDArray
from scipy.spatial import cKDTree

from survey_gampen.errors import InputError, UnreadableFile
from survey_gampen.images import footprints
from survey_gampen.images.base import BATCH, Cutouts
from survey_gampen.images.finish import finish_into, native_size
from survey_gampen.images.grid import Grid, chord, quiet, unit_vectors
from survey_gampen.images.listing import FileFacts, inventory
from survey_gampen.images.mosaic import fill_from
from survey_gampen.images.planes import PlaneGroup, short_band
from survey_gampen.images.status import Status
from survey_gampen.images.tile import MISSING, Tile
from survey_gampen.survey import Survey

#: Tiles held open at a time. Bounds memory for files that must be decompressed whole: 140 MB
#: for image and mask of an HSC patch.
_OPEN_TILES = 4
#: A position is rounded to this many decimals of a pixel before its pixel is chosen, so that two
#: tiles of one grid agree on the pixel although their arithmetic differs in the last digits.
_DECIMALS = 4

Integers = NDArray[np.int64]


class TileSource:
    """Images that each cover many galaxies: HSC patches, cutout-service files, any sky image.

    An object in an overlap takes the tile where it lies deepest (of equals, the first by name).
    The part of its box that this tile lacks comes from the neighbours, nearest in the same sense
    first, those of the same pixel grid before the others; what is left is padded and flagged.

    Parameters
    ----------
    root : Path
        Folder of all files.
    files : sequence of FileFacts
        All files, usable or not; the inventory.
    index : pyarrow.Table
        From :func:`footprints.open_index`.
    survey : Survey
        Profile.
    band : str or None
        Band to use; None: take every image.
    pixel_scale : float or None
        Arcsec a pixel of the cutouts; None: that of the images.
    variance : bool
        Whether cutouts come with variances.

    Raises
    ------
    InputError
        No usable image, or one whose zero point nobody tells.
    """

    def __init__(
        self,
        root: Path,
        files: Sequence[FileFacts],
        index: pa.Table,
        survey: Survey,
        band: str | None,
        pixel_scale: float | None,
        *,
        variance: bool = False,
    ) -> None:
        self.root, self.survey, self.variance = root, survey, variance
        self._inventory = inventory(files)
        self._counts = Counter(index["kind"].to_pylist())
        broken = index.filter(pc.equal(index["kind"], footprints.UNREADABLE))
        self.warnings = [
            f"{root / row['path']}: its header cannot be read ({row['why']}); galaxies on no other "
            "image cannot be measured until it is replaced or removed"
            for row in broken.select(["path", "why"]).to_pylist()
        ]
        #: Files that may hold galaxies which lie on no other, for all that can be known.
        self._broken = [str(root / path) for path in broken["path"].to_pylist()]
        self.index = _usable(index, root, survey, band)
        self.band = short_band(band) if band else None
        column = {n: self.index[n].to_numpy() for n in ("ra", "dec", "radius", "scale_x")}
        self._radius, self._scale = column["radius"], column["scale_x"]
        self._vectors = unit_vectors(column["ra"], column["dec"])
        self._tree = cKDTree(self._vectors)
        self.pixel_scale = float(pixel_scale or np.median(column["scale_x"]))
        self._open: OrderedDict[int, Tile] = OrderedDict()
        self._lock = Lock()  # two threads may read from one source
        self.grid = lru_cache(maxsize=256)(self._grid)

    def inventory(self) -> str:
        """SHA-256 over names, sizes and times of all files of the folder."""
        return self._inventory

    def describe(self) -> str:
        """One line: how many images of which band, and what was not used."""
        scales = self.index["scale_x"].to_numpy()
        words = [f"{self.index.num_rows} images in {self.root}"]
        words += [f"band {self.band}"] if self.band else []
        words += [f"{np.median(scales):.4g} arcsec/px"]
        unused = {footprints.UNREADABLE: "unreadable", footprints.OTHER: "no image of the sky"}
        words += [
            f"{self._counts[k]} files {what}" for k, what in unused.items() if self._counts[k]
        ]
        other = self._counts[footprints.SKY] - self.index.num_rows
        words += [f"{other} of other bands"] if other else []
        return ", ".join(words)

    def footprints(self) -> pa.Table:
        """Tiles in use: tile, ra, dec (deg), radius (deg) of the circle around each."""
        table = self.index.select(["path", "ra", "dec", "radius"])
        return table.rename_columns(["tile", "ra", "dec", "radius"])

    def cutouts(
        self, ra: ArrayLike, dec: ArrayLike, size: int, object_id: Sequence[Any] | None = None
    ) -> Iterator[Cutouts]:
        """Cut out galaxies, tile by tile; see :meth:`ImageSource.cutouts`."""
        lon, lat = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        with quiet():
            home, x, y = self.assign(lon, lat)
        for number in np.unique(home):
            members = np.nonzero(home == number)[0]
            if number < 0 and self._broken:
                more = f" and {len(self._broken) - 1} more" if len(self._broken) > 1 else ""
                raise UnreadableFile(
                    f"{self._broken[0]}{more}: cannot be read, and {len(members)} galaxies lie on "
                    "no other image; replace or remove it, then resume the run"
                )
            for start in range(0, len(members), BATCH):
                index = members[start : start + BATCH]
                batch = Cutouts.empty(index, size, self.variance)
                if number < 0:
                    batch.status[:] = int(Status.NO_IMAGE)
                else:
                    with self._lock, quiet():
                        self._cut(batch, int(number), lon, lat, x, y)
                yield batch

    def assign(
        self, ra: NDArray[np.float64], dec: NDArray[np.float64]
    ) -> tuple[Integers, NDArray[np.float64], NDArray[np.float64]]:
        """The tile of each position (-1: none) and its 0-based pixel coordinates there."""
        home = np.full(len(ra), -1, np.int64)
        deepest = np.full(len(ra), -np.inf)
        x, y = np.full(len(ra), np.nan), np.full(len(ra), np.nan)
        vectors = unit_vectors(ra, dec)
        finite = np.nonzero(np.isfinite(vectors).all(axis=1))[0]
        reach = float(chord(self._radius.max()))
        near = self._tree.query_ball_point(vectors[finite], reach) if len(finite) else []
        objects = np.repeat(finite, [len(tiles) for tiles in near]).astype(np.int64)
        tiles = np.concatenate([np.asarray(t, np.int64) for t in near] or [objects])
        apart = np.linalg.norm(vectors[objects] - self._vectors[tiles], axis=1)
        close = apart <= chord(self._radius[tiles] * 1.001)
        objects, tiles = objects[close], tiles[close]
        for tile in np.unique(tiles):  # in order of name: the first of equals stays
            mine = objects[tiles == tile]
            grid = self.grid(int(tile))
            there_x, there_y = (np.round(v, _DECIMALS) for v in grid.to_pixel(ra[mine], dec[mine]))
            depth = grid.depth(there_x, there_y) * self._scale[tile]
            better = (depth > deepest[mine]) & (depth > 0)
            chosen = mine[better]
            home[chosen], deepest[chosen] = tile, depth[better]
            x[chosen], y[chosen] = there_x[better], there_y[better]
        return home, x, y

    def _cut(
        self,
        batch: Cutouts,
        number: int,
        ra: NDArray[np.float64],
        dec: NDArray[np.float64],
        x: NDArray[np.float64],
        y: NDArray[np.float64],
    ) -> None:
        """Fill a batch of galaxies whose tile is `number`."""
        row = self._row(number)
        scales = (row["scale_x"], row["scale_y"])
        n = native_size(batch.image.shape[1], scales, self.pixel_scale)
        tile, grid = self._tile(number), self.grid(number)
        for slot, galaxy in enumerate(batch.index):
            middle_x, middle_y = int(np.floor(x[galaxy] + 0.5)), int(np.floor(y[galaxy] + 0.5))
            x0, y0 = middle_x - n // 2, middle_y - n // 2
            box = tile.box(x0, y0, n, n)
            if (box.flags & MISSING).any():
                for other in self._neighbours(number, ra[galaxy], dec[galaxy], n * max(scales)):
                    fill_from(box, x0, y0, grid, self.grid(other), self._tile(other))
                    if not (box.flags & MISSING).any():
                        break
                tile = self._tile(number)  # a neighbour may have pushed it out
            offset = (x[galaxy] - middle_x, y[galaxy] - middle_y)
            finish_into(batch, slot, box, offset, scales, self.pixel_scale)
        sigma = batch.sky_sigma[np.isfinite(batch.sky_sigma)]
        batch.facts = {
            "tile": row["path"],
            "band": row["band"] or self.band,
            "zero_point": row["zero_point"],
            "zero_point_from": row["zero_point_from"],
            "pixel_scale": float(np.sqrt(scales[0] * scales[1])),
            "psf_fwhm": row["psf_fwhm"],
            "sky_sigma": float(np.median(sigma)) if sigma.size else None,
        }

    def _neighbours(self, home: int, ra: float, dec: float, side: float) -> list[int]:
        """Other tiles that the box may touch: of its own grid first, then the deepest first."""
        half_diagonal = side / 3600.0 / np.sqrt(2.0)
        vector = unit_vectors(ra, dec)
        found = self._tree.query_ball_point(vector, chord(self._radius.max() + half_diagonal))
        ranked = []
        for tile in found:
            apart = np.linalg.norm(vector - self._vectors[tile])
            if tile == home or apart > chord(self._radius[tile] + half_diagonal):
                continue
            grid = self.grid(tile)
            x, y = (np.round(v, _DECIMALS) for v in grid.to_pixel(ra, dec))
            same = self.grid(home).shares_projection(grid)
            depth = float(grid.depth(x, y)) * self._scale[tile]
            ranked.append((not same, -depth, tile))
        return [tile for _, _, tile in sorted(ranked)]

    def _row(self, number: int) -> dict[str, Any]:
        row: dict[str, Any] = self.index.slice(number, 1).to_pylist()[0]
        return row

    def _grid(self, number: int) -> Grid:
        row = self._row(number)
        return Grid(row["wcs"], row["nx"], row["ny"])

    def _tile(self, number: int) -> Tile:
        if number in self._open:
            self._open.move_to_end(number)
            return self._open[number]
        row = self._row(number)
        if row["why"]:
            raise UnreadableFile(
                f"{self.root / row['path']}: cannot be read ({row['why']}); "
                "replace the file, then resume the run"
            )
        group = PlaneGroup(
            row["image"], (row["ny"], row["nx"]), row["mask"], row["variance"], row["invvar"]
        )
        while len(self._open) >= _OPEN_TILES:
            self._open.popitem(last=False)[1].close()
        self._open[number] = Tile(
            self.root / row["path"],
            group,
            self.survey,
            row["zero_point"],
            variance=self.variance,
            root=self.root,
        )
        return self._open[number]

    def close(self) -> None:
        """Close all files; they open again when needed."""
        while self._open:
            self._open.popitem()[1].close()


def _usable(index: pa.Table, root: Path, survey: Survey, band: str | None) -> pa.Table:
    """The images to use, with the zero point of the profile where the header tells none."""
    sky = index.filter(pc.equal(index["kind"], footprints.SKY))
    if not sky.num_rows:
        first = index.slice(0, 1).to_pylist()[0]
        raise InputError(f"{root}: no usable image; {first['path']}: {first['why']}")
    if band:
        wanted = pc.or_kleene(pc.is_null(sky["band"]), pc.equal(sky["band"], short_band(band)))
        there = sorted({b for b in sky["band"].to_pylist() if b})
        sky = sky.filter(wanted)
        if not sky.num_rows:
            raise InputError(
                f"{root}: no image in band {band}; there is {', '.join(there)}: choose with --band"
            )
    if sky["zero_point"].null_count:
        if survey.zero_point is None:
            row = sky.filter(pc.is_null(sky["zero_point"])).slice(0, 1).to_pylist()[0]
            raise InputError(
                f"{root / row['path']}: no zero point in its header; "
                "give zero_point in the survey profile"
            )
        for name, value in (("zero_point", survey.zero_point), ("zero_point_from", "survey")):
            column = pc.fill_null(sky[name], pa.scalar(value, sky[name].type))
            sky = sky.set_column(sky.schema.get_field_index(name), name, column)
    return sky.combine_chunks()
