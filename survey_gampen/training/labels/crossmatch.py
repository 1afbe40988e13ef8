"""Who is who on the sky: all pairs of a reference and a catalogue row within a separation.

The reference is in memory, the catalogue passes through in batches; of it only the rows that have a
partner are kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
from astropy import units as u
from astropy.coordinates import SkyCoord, match_coordinates_sky, search_around_sky
from numpy.typing import NDArray

from survey_gampen.catalog import Catalog

#: Catalogue rows at a time: enough that building their search tree beats Python's overhead.
_BATCH = 131_072


@dataclass(frozen=True)
class Pairs:
    """All pairs within the separation asked for; a row with two partners stands in two of them.

    Attributes
    ----------
    reference : ndarray of int64, (n,)
        Row of the reference.
    row : ndarray of int64, (n,)
        Row of the catalogue, in the order of its batches.
    separation : ndarray of float64, (n,)
        [arcsec].
    rows : pyarrow.Table
        object_id, ra and dec of each pair's catalogue row.
    unusable : int
        Catalogue rows that cannot be matched: no object_id, or no position on the sky.
    """

    reference: NDArray[np.int64]
    row: NDArray[np.int64]
    separation: NDArray[np.float64]
    rows: pa.Table
    unusable: int

    def __len__(self) -> int:
        return len(self.reference)

    def ambiguous(self) -> NDArray[np.bool_]:
        """The pairs of which either side has another partner, (n,)."""
        return _repeated(self.reference) | _repeated(self.row)


def on_sky(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Which positions [deg] are some: finite, and the declination between the poles."""
    return np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90.0)


def match(
    catalog: Catalog, ra: NDArray[np.float64], dec: NDArray[np.float64], limit: float
) -> Pairs:
    """Find all pairs of a reference row and a catalogue row that are close on the sky.

    Parameters
    ----------
    catalog : Catalog
        Read once, in batches.
    ra, dec : ndarray, (m,)
        The reference [deg, ICRS]; rows that are not on the sky have no partners.
    limit : float
        Largest separation [arcsec].

    Raises
    ------
    InputError
        When a file of the catalogue cannot be read.
    """
    usable = np.flatnonzero(on_sky(ra, dec))
    # One object for all batches: it carries its search tree along.
    reference = _coordinates(ra[usable], dec[usable])
    found: list[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]] = []
    rows: list[pa.RecordBatch] = []
    start = unusable = 0
    for batch, here, coordinates in _positions(catalog):
        unusable += batch.num_rows - len(here)
        mine, theirs, separation, _ = search_around_sky(coordinates, reference, limit * u.arcsec)
        if len(mine):
            found.append((usable[theirs], start + here[mine], separation.arcsec))
            rows.append(batch.take(pa.array(here[mine])))
        start += batch.num_rows
    none = (np.empty(0, np.int64), np.empty(0, np.int64), np.empty(0))
    references, mine, separations = map(np.concatenate, zip(none, *found, strict=True))
    schema = pa.schema([catalog.schema.field(key) for key in ("object_id", "ra", "dec")])
    return Pairs(
        reference=references,
        row=mine,
        separation=separations,
        rows=pa.Table.from_batches(rows, schema=schema),
        unusable=unusable,
    )


def no_overlap(
    catalog: Catalog,
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    file: Path,
    limit: float,
) -> str:
    """The line for a :func:`match` of `file` that found no pair: how far apart the two are."""
    closest = nearest(catalog, ra, dec)
    if np.isinf(closest):
        return f"{file} or {catalog.path} holds no position in degrees; look at ra and dec"
    apart = f'{closest:.3g}"' if closest < 3600 else f"{closest / 3600:.3g} deg"
    return (
        f'no row of {catalog.path} lies within {limit:g}" of one of {file}, the closest two are '
        f"{apart} apart; take a catalogue of the same sky, or raise --max-sep if they should match"
    )


def nearest(catalog: Catalog, ra: NDArray[np.float64], dec: NDArray[np.float64]) -> float:
    """Smallest separation [arcsec] of any reference row (as for :func:`match`) and catalogue row.

    Infinite where either side has no position.
    """
    usable = on_sky(ra, dec)
    if not usable.any():
        return float("inf")
    reference = _coordinates(ra[usable], dec[usable])
    closest = float("inf")
    for _, here, coordinates in _positions(catalog):
        if len(here):
            _, separation, _ = match_coordinates_sky(coordinates, reference)
            closest = min(closest, float(separation.arcsec.min()))
    return closest


def _positions(catalog: Catalog) -> Iterator[tuple[pa.RecordBatch, NDArray[np.int64], SkyCoord]]:
    """Batches (object_id, ra, dec), which of their rows can be matched, and where those stand."""
    for batch in catalog.batches(_BATCH):
        ra, dec = (batch[key].to_numpy(zero_copy_only=False) for key in ("ra", "dec"))
        named = batch["object_id"].is_valid().to_numpy(zero_copy_only=False)
        here = np.flatnonzero(named & on_sky(ra, dec))
        yield batch, here, _coordinates(ra[here], dec[here])


def _coordinates(ra: NDArray[np.float64], dec: NDArray[np.float64]) -> SkyCoord:
    return SkyCoord(ra, dec, unit=u.deg, frame="icrs")


def _repeated(values: NDArray[np.int64]) -> NDArray[np.bool_]:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return np.asarray(counts[inverse] > 1)
