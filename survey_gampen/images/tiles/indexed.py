"""Which tiles there are, known from their own headers: any images of the sky, wherever they lie."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from survey_gampen.errors import InputError, UnreadableFile
from survey_gampen.images.base import NoSuchBand
from survey_gampen.images.pixels.grid import Grid, chord, unit_vectors
from survey_gampen.images.pixels.planes import short_band
from survey_gampen.images.places.files import Files
from survey_gampen.images.places.listing import FileFacts, inventory
from survey_gampen.images.tiles import footprints
from survey_gampen.images.tiles.source import Pairs, TileRow
from survey_gampen.survey import Survey


class IndexedTiles:
    """Tiles of an index of headers.

    Parameters
    ----------
    files : Files
        Where they lie.
    found : sequence of FileFacts
        All files, usable or not; the inventory.
    index : pyarrow.Table
        From :func:`footprints.open_index`.
    survey : Survey
        Profile.
    band : str or None
        Band to use; None: take every image.

    Raises
    ------
    InputError
        No usable image, or one whose zero point nobody tells.
    """

    def __init__(
        self,
        files: Files,
        found: Sequence[FileFacts],
        index: pa.Table,
        survey: Survey,
        band: str | None,
    ) -> None:
        self.files, self.listed = files, True
        self._inventory = inventory(found)
        self._counts = Counter(index["kind"].to_pylist())
        broken = index.filter(pc.equal(index["kind"], footprints.UNREADABLE))
        self.warnings = [
            f"{files.where(row['path'])}: its header cannot be read ({row['why']}); galaxies on no "
            "other image cannot be measured until it is replaced or removed"
            for row in broken.select(["path", "why"]).to_pylist()
        ]
        #: Files that may hold galaxies which lie on no other, for all that can be known.
        self.unreadable = [files.where(path) for path in broken["path"].to_pylist()]
        self.index, left_out = _usable(index, files, survey, band)
        self.warnings += left_out
        self.band = short_band(band) if band else None
        column = {n: self.index[n].to_numpy() for n in ("ra", "dec", "radius", "scale_x")}
        self._radius, self._scale = column["radius"], column["scale_x"]
        self._vectors = unit_vectors(column["ra"], column["dec"])
        self._tree = cKDTree(self._vectors)
        self.pixel_scale = float(np.median(column["scale_x"]))
        self.grid = lru_cache(maxsize=256)(self._grid)

    def inventory(self) -> str:
        """SHA-256 over names, sizes and times or tags of all files."""
        return self._inventory

    def describe(self) -> str:
        """One line: how many images of which band, and what was not used."""
        n = self.index.num_rows
        words = [f"{n} image{'s' if n != 1 else ''} in {self.files.address}"]
        words += [f"band {self.band}"] if self.band else []
        words += [f"{self.pixel_scale:.4g} arcsec/px"]
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

    def reaching(self, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> Pairs:
        """Positions and the tiles whose circles hold them."""
        vectors = unit_vectors(ra, dec)
        finite = np.nonzero(np.isfinite(vectors).all(axis=1))[0]
        reach = float(chord(self._radius.max()))
        near = self._tree.query_ball_point(vectors[finite], reach) if len(finite) else []
        objects = np.repeat(finite, [len(tiles) for tiles in near]).astype(np.int64)
        tiles = np.concatenate([np.asarray(t, np.int64) for t in near] or [objects])
        apart = np.linalg.norm(vectors[objects] - self._vectors[tiles], axis=1)
        close = apart <= chord(self._radius[tiles] * 1.001)
        return objects[close], tiles[close]

    def near(self, ra: float, dec: float, reach: float) -> list[int]:
        """Tiles whose circles come within `reach` degrees of a position."""
        vector = unit_vectors(ra, dec)
        found = self._tree.query_ball_point(vector, chord(self._radius.max() + reach))
        return [
            int(tile)
            for tile in found
            if np.linalg.norm(vector - self._vectors[tile]) <= chord(self._radius[tile] + reach)
        ]

    def scale(self, number: int) -> float:
        """Arcsec a pixel of a tile."""
        return float(self._scale[number])

    def exists(self, number: int) -> bool:
        """True: all tiles of the index were there."""
        return True

    def outline(self, number: int) -> Grid:
        """Where a tile lies."""
        return self.grid(number)

    def row(self, number: int) -> TileRow:
        """What the index holds of a tile.

        Raises
        ------
        UnreadableFile
            It is broken below its first header.
        """
        row: TileRow = self.index.slice(number, 1).to_pylist()[0]
        if row["why"]:
            raise UnreadableFile(
                f"{self.files.where(row['path'])}: cannot be read ({row['why']}); "
                "replace the file, then resume the run"
            )
        return row

    def _grid(self, number: int) -> Grid:
        row = self.index.slice(number, 1).select(["wcs", "nx", "ny"]).to_pylist()[0]
        return Grid(row["wcs"], row["nx"], row["ny"])


def _with_bands(sky: pa.Table, survey: Survey) -> tuple[pa.Table, list[str]]:
    """The images, with the bands of cubes from the profile where headers tell none; and the files
    of cubes whose bands nobody tells: a plane of any band must not be taken for one of the run's.
    """
    nameless = pc.and_(pc.is_valid(sky["plane"]), pc.is_null(sky["band"]))
    known = pa.array([*map(short_band, survey.cube_bands), None], pa.string())
    place = pc.min_element_wise(sky["plane"], len(survey.cube_bands), skip_nulls=True)
    bands = pc.if_else(nameless, known.take(place), sky["band"])
    sky = sky.set_column(sky.schema.get_field_index("band"), "band", bands)
    unknown = pc.and_(nameless, pc.is_null(bands))
    return sky.filter(pc.invert(unknown)), pc.unique(sky.filter(unknown)["path"]).to_pylist()


def _usable(
    index: pa.Table, files: Files, survey: Survey, band: str | None
) -> tuple[pa.Table, list[str]]:
    """The images to use, with the zero point of the profile where the header tells none; and what
    the user should know of others."""
    root = files.address
    sky = index.filter(pc.equal(index["kind"], footprints.SKY))
    if not sky.num_rows:
        first = index.slice(0, 1).to_pylist()[0]
        raise InputError(f"{root}: no usable image; {first['path']}: {first['why']}")
    sky, cubes = _with_bands(sky, survey)
    warnings = [
        f"{files.where(path)}: a cube whose bands nobody tells is left out; write them into a copy"
        ' of the survey profile, such as cube_bands = ["g", "r", "i"]'
        for path in cubes
    ]
    if not sky.num_rows:
        raise InputError(warnings[0].replace(" is left out", ""))
    if band:
        wanted = pc.or_kleene(pc.is_null(sky["band"]), pc.equal(sky["band"], short_band(band)))
        there = sorted({b for b in sky["band"].to_pylist() if b})
        sky = sky.filter(wanted)
        if not sky.num_rows:
            raise NoSuchBand(root, band, there)
    if sky["zero_point"].null_count:
        if survey.zero_point is None:
            row = sky.filter(pc.is_null(sky["zero_point"])).slice(0, 1).to_pylist()[0]
            raise InputError(
                f"{files.where(row['path'])}: no zero point in its header; "
                "give zero_point in the survey profile"
            )
        for name, value in (("zero_point", survey.zero_point), ("zero_point_from", "survey")):
            column = pc.fill_null(sky[name], pa.scalar(value, sky[name].type))
            sky = sky.set_column(sky.schema.get_field_index(name), name, column)
    return sky.combine_chunks(), warnings
