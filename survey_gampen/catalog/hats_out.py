"""The published posteriors as a HATS catalogue: where leaves lie, which count, and the index.

A leaf (``dataset/Norder=k/Dir=d/Npix=n.parquet``) is published once by the commit rule and is its
own marker. The index files are only a view of the leaves and can be made again at any time.

Leaves may lie inside one another for a moment, while :mod:`survey_gampen.catalog.compact` works.
One rule decides, here and nowhere else: **the outermost leaf counts**, what lies inside it is
shadowed. Readers follow ``partition_info.csv``, which names the leaves that count.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import chain, islice
from pathlib import Path
from typing import NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hats.catalog.dataset.table_properties import TableProperties
from hats.io import paths
from hats.pixel_math.healpix_pixel import HealpixPixel
from hats.pixel_math.spatial_index import SPATIAL_INDEX_COLUMN
from numpy.typing import NDArray
from upath import UPath

from survey_gampen import commit, parquet
from survey_gampen.storage import is_remote

#: Order of the _healpix_29 index.
FINEST = 29
#: Leaves that are opened at a time.
_AT_ONCE = 1024
_LEAF = re.compile(r"Norder=(\d+)/Dir=\d+/Npix=(\d+)\.parquet$")


class Pixel(NamedTuple):
    """A HEALPix pixel, nested scheme."""

    norder: int
    npix: int


class HasPixel(Protocol):
    """Anything that stands for a HEALPix pixel: a :class:`Pixel`, a partition of the plan."""

    @property
    def norder(self) -> int: ...
    @property
    def npix(self) -> int: ...


def leaf_path(posteriors_dir: Path, norder: int, npix: int) -> Path:
    """Where the leaf of a HEALPix pixel stands."""
    found = paths.pixel_catalog_file(UPath(posteriors_dir), HealpixPixel(norder, npix))
    return _like(posteriors_dir, found)


def _like(posteriors_dir: Path, found: UPath) -> Path:
    """What hats names, as the kind of path that the catalogue's root is."""
    place: Path = found if is_remote(posteriors_dir) else Path(found.path)
    return place


def leaf_pixels(posteriors_dir: Path) -> Iterator[Pixel]:
    """Every leaf on the disk, shadowed ones too."""
    for path in (posteriors_dir / "dataset").glob("Norder=*/Dir=*/Npix=*.parquet"):
        if found := _LEAF.search(path.as_posix()):
            yield Pixel(int(found[1]), int(found[2]))


def span(pixel: HasPixel) -> tuple[int, int]:
    """First and one past the last order-29 index of a pixel."""
    shift = 2 * (FINEST - pixel.norder)
    return pixel.npix << shift, (pixel.npix + 1) << shift


class PublishedSet:
    """Which parts of the sky are published, as sorted arrays: 17 bytes a leaf.

    Parameters
    ----------
    pixels : iterable of Pixel
        Leaves on the disk.
    """

    def __init__(self, pixels: Iterable[Pixel]) -> None:
        flat = np.fromiter((value for pixel in pixels for value in pixel), dtype=np.int64)
        norder, npix = flat[0::2], flat[1::2]
        start = npix << (2 * (FINEST - norder))
        # Outer before inner where both begin at the same place.
        order = np.lexsort((norder, start))
        norder, start = norder[order], start[order]
        end = start + (np.int64(1) << (2 * (FINEST - norder)))
        # Pixels are either disjoint or nested, so a leaf is shadowed exactly when one that begins
        # no later has not ended yet.
        reach = np.maximum.accumulate(end) if end.size else end
        shadowed = np.zeros(end.size, dtype=bool)
        shadowed[1:] = start[1:] < reach[:-1]
        self._shadowed = norder[shadowed], start[shadowed]
        self._norder, self._start, self._end = (x[~shadowed] for x in (norder, start, end))

    def __len__(self) -> int:
        """Number of leaves that count."""
        return int(self._start.size)

    def __iter__(self) -> Iterator[Pixel]:
        """The leaves that count, in order of position on the sky."""
        return _pixels(self._norder, self._start)

    @property
    def shadowed(self) -> list[Pixel]:
        """Leaves that lie inside another one."""
        return list(_pixels(*self._shadowed))

    def leaf_of(self, pixel: HasPixel) -> Pixel | None:
        """The leaf that holds all of a pixel, or None."""
        start, end = span(pixel)
        place = int(np.searchsorted(self._start, start, side="right")) - 1
        if place < 0 or self._end[place] < end:
            return None
        norder = int(self._norder[place])
        return Pixel(norder, pixel.npix >> 2 * (pixel.norder - norder))

    def covers(self, pixel: HasPixel) -> bool:
        """Whether a partition is published, as its own leaf or inside a bigger one."""
        return self.leaf_of(pixel) is not None


def _pixels(norder: np.ndarray, start: np.ndarray) -> Iterator[Pixel]:
    for order, first in zip(norder.tolist(), start.tolist(), strict=True):
        yield Pixel(order, first >> 2 * (FINEST - order))


def published(posteriors_dir: Path) -> PublishedSet:
    """What is published, from the names on the disk alone: nothing is opened."""
    return PublishedSet(leaf_pixels(posteriors_dir))


def write_index(
    posteriors_dir: Path,
    *,
    name: str,
    staging: Path,
    schema: pa.Schema | None = None,
    properties: Mapping[str, str] | None = None,
) -> int:
    """Make the index files again from the published leaves, so that the catalogue opens.

    In this order: ``dataset/_common_metadata``, ``partition_info.csv``, ``hats.properties``. Each
    is replaced in one step; leaves that are shadowed are removed after the index no longer names
    them.

    Parameters
    ----------
    posteriors_dir : Path
        The root of the HATS catalogue; made when missing.
    name : str
        Name of the catalogue.
    staging : Path
        A folder on the same file system, outside of `posteriors_dir`.
    schema : pyarrow.Schema, optional
        Of the leaves, for a catalogue that has none yet. Read from a leaf otherwise.
    properties : mapping, optional
        More lines of ``hats.properties`` (``obs_title``, ``creator_did``...).

    Returns
    -------
    int
        Number of rows published.
    """
    leaves = published(posteriors_dir)
    counts = np.fromiter(_counts(posteriors_dir, leaves), np.int64)
    if counts.size:
        schema = parquet.read_schema(leaf_path(posteriors_dir, *next(iter(leaves))))
    if schema is not None:
        kept = schema.remove_metadata()
        commit.replace(
            _like(posteriors_dir, paths.get_common_metadata_pointer(posteriors_dir)),
            lambda staged: pq.write_metadata(kept, staged),
            staging,
        )
    write_partition_info(posteriors_dir, leaves, staging)
    _write_properties(posteriors_dir, name, counts, leaves, properties, staging)
    remove_shadowed(posteriors_dir, leaves)
    return int(counts.sum())


def _counts(posteriors_dir: Path, leaves: Iterable[Pixel]) -> Iterator[int]:
    """Rows of each leaf. A survey has hundreds of thousands, so some at a time."""
    pixels = iter(leaves)
    with ThreadPoolExecutor(8) as pool:
        while some := list(islice(pixels, _AT_ONCE)):
            files = (leaf_path(posteriors_dir, *pixel) for pixel in some)
            yield from pool.map(lambda file: parquet.read_metadata(file).num_rows, files)


def write_partition_info(posteriors_dir: Path, leaves: Iterable[Pixel], staging: Path) -> None:
    """Replace ``partition_info.csv``, which decides what readers see."""
    lines = chain(["Norder,Npix\n"], (f"{norder},{npix}\n" for norder, npix in leaves))
    commit.replace(
        _like(posteriors_dir, paths.get_partition_info_pointer(posteriors_dir)),
        lambda staged: _write_lines(staged, lines),
        staging,
    )


def _write_lines(path: Path, lines: Iterable[str]) -> None:
    with path.open("w") as file:
        file.writelines(lines)


def remove_shadowed(posteriors_dir: Path, leaves: PublishedSet) -> None:
    """Remove the leaves that lie inside another one. The index must not name them any more."""
    for pixel in leaves.shadowed:
        commit.remove(leaf_path(posteriors_dir, *pixel))


def _write_properties(
    posteriors_dir: Path,
    name: str,
    counts: NDArray[np.int64],
    leaves: PublishedSet,
    more: Mapping[str, str] | None,
    staging: Path,
) -> None:
    """``hats.properties``, written last; and its copy under the name that older readers look for.

    No date stands in it: the same leaves give the same files.
    """
    record = TableProperties.model_validate(
        {
            "obs_collection": name,
            "dataproduct_type": "object",
            "hats_nrows": int(counts.sum()),
            "hats_col_ra": "ra",
            "hats_col_dec": "dec",
            "hats_col_healpix": SPATIAL_INDEX_COLUMN,
            "hats_col_healpix_order": FINEST,
            "hats_max_rows": int(counts.max(initial=0)),
            "hats_order": str(max((pixel.norder for pixel in leaves), default=0)),
            "hats_version": "v1.0",
            "hats_frame": "equatorial",
            **(more or {}),
        }
    )

    def write(staged: Path) -> None:
        record.to_properties_file_path(UPath(staged), initial_comments="HATS catalog")

    for file in ("properties", "hats.properties"):
        commit.replace(posteriors_dir / file, write, staging)
