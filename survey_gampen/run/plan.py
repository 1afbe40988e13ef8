"""Which rows are done together: HEALPix pixels of adaptive order, and what makes two runs one.

The plan is made once, in one pass over the sorted catalogue, and never recomputed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import astuple, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from survey_gampen import commit, parquet
from survey_gampen.catalog.sorted import iter_index
from survey_gampen.errors import InputError, OutsideFault

#: Raised whenever the same input, weights and settings would give other results than before.
METHOD_VERSION = 7

#: Order of the _healpix_29 index, the finest there is.
_FINEST = 29
_TOTALS_KEY = b"survey_gampen.plan"
_SCHEMA = pa.schema(
    [
        pa.field("partition", pa.int64(), nullable=False),
        pa.field("norder", pa.int8(), nullable=False),
        pa.field("npix", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
    ]
)
_ROWS_AT_ONCE = 65_536


@dataclass(frozen=True, slots=True)
class Partition:
    """The galaxies of one HEALPix pixel (nested), done as one task, published as one leaf.

    Attributes
    ----------
    index : int
        Place in the plan, from 0, in order of position on the sky.
    norder, npix : int
        The pixel.
    rows : int
        Number of galaxies.
    """

    index: int
    norder: int
    npix: int
    rows: int

    @property
    def name(self) -> str:
        """For example ``o5-p1234``."""
        return f"o{self.norder}-p{self.npix}"


@dataclass(frozen=True)
class PlanTotals:
    """What a plan adds up to; it stands in the footer of ``plan.parquet``."""

    partitions: int
    rows: int
    largest: int
    partition_rows: int


def make_plan(catalog_dir: Path, partition_rows: int) -> Iterator[Partition]:
    """Cut a sorted catalogue into the largest HEALPix pixels of at most `partition_rows` rows.

    A pixel of order 29 (0.4 milliarcseconds) cannot be split: one that holds more is a partition
    all the same. Needs one pass and memory for `partition_rows` indices. Where the rows were
    counted in small pixels at planning, none of which would have to be split, the counts will do:
    whether a pixel is split depends on its number of rows alone.

    Raises
    ------
    InputError
        When `partition_rows` is not positive.
    """
    if partition_rows < 1:
        raise InputError(f"--partition-rows {partition_rows}: give 1 or more")
    return cut(iter_index(catalog_dir, partition_rows=partition_rows), partition_rows)


def cut(pieces: Iterable[np.ndarray], partition_rows: int) -> Iterator[Partition]:
    """The partitions of a sorted stream of order-29 indices.

    The partition that begins at a row is the largest pixel that (a) leaves out the row before,
    which belongs to another partition, and (b) leaves out the row `partition_rows` further on,
    else it would hold too many. Both ask only at which order two indices part ways.
    """
    window = _Window(pieces)
    before, index = -1, 0
    while window.has(0):
        first = window[0]
        norder = _parting_order(before, first)
        if window.has(partition_rows):
            norder = max(norder, _parting_order(first, window[partition_rows]))
        norder = min(norder, _FINEST)
        npix = first >> 2 * (_FINEST - norder)
        before, rows = window.skip_below((npix + 1) << 2 * (_FINEST - norder))
        yield Partition(index, norder, npix, rows)
        index += 1


def _parting_order(one: int, other: int) -> int:
    """The lowest order at which two order-29 indices lie in different pixels (30: the same).

    Two bits of the index belong to each order; the highest that differs names the order. The
    twelve base pixels (order 0) take the bits above 58. A negative `one` is no position.
    """
    if one < 0:
        return 0
    differing_bits = (one ^ other).bit_length()
    return max(0, _FINEST + 1 - (differing_bits + 1) // 2)


class _Window:
    """A sorted stream seen through a window that reads ahead as far as it is asked to."""

    def __init__(self, pieces: Iterable[np.ndarray]) -> None:
        self._pieces = iter(pieces)
        self._held = np.empty(0, dtype=np.int64)
        self._start = 0

    def has(self, place: int) -> bool:
        while self._start + place >= self._held.size:
            piece = next(self._pieces, None)
            if piece is None:
                return False
            self._held = np.concatenate([self._held[self._start :], piece])
            self._start = 0
        return True

    def __getitem__(self, place: int) -> int:
        return int(self._held[self._start + place])

    def skip_below(self, end: int) -> tuple[int, int]:
        """Pass all values below `end`: the last of them, and how many they were."""
        last, count = -1, 0
        while self.has(0) and self[0] < end:
            # Only what is held: a pixel that cannot be split may be longer than memory.
            stop = int(np.searchsorted(self._held, end, side="left"))
            last, count = int(self._held[stop - 1]), count + stop - self._start
            self._start = stop
        return last, count


def write_plan(
    path: Path, partitions: Iterable[Partition], partition_rows: int, staging: Path
) -> PlanTotals:
    """Write ``plan.parquet``, once.

    Raises
    ------
    OutsideFault
        When the disk is full, or a plan is there already.
    """
    totals = PlanTotals(0, 0, 0, partition_rows)

    def write(staged: Path) -> None:
        nonlocal totals
        count = rows = largest = 0
        with pq.ParquetWriter(staged, _SCHEMA, compression="zstd") as writer:
            for some in _in_groups(partitions, _ROWS_AT_ONCE):
                columns = zip(*(astuple(partition) for partition in some), strict=True)
                arrays = [
                    pa.array(column, field.type)
                    for column, field in zip(columns, _SCHEMA, strict=True)
                ]
                writer.write_batch(pa.record_batch(arrays, schema=_SCHEMA))
                count += len(some)
                rows += sum(partition.rows for partition in some)
                largest = max(largest, *(partition.rows for partition in some))
            totals = PlanTotals(count, rows, largest, partition_rows)
            writer.add_key_value_metadata({_TOTALS_KEY.decode(): json.dumps(totals.__dict__)})

    def check(staged: Path) -> None:
        if plan_totals(staged) != totals or sum(1 for _ in read_plan(staged)) != totals.partitions:
            raise ValueError("another plan than the one written")

    if not commit.publish(path, write, check, staging):
        raise OutsideFault(f"{path}: a plan is there already, made by another run; look at status")
    return totals


def _in_groups(partitions: Iterable[Partition], size: int) -> Iterator[list[Partition]]:
    group: list[Partition] = []
    for partition in partitions:
        group.append(partition)
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


def read_plan(path: Path) -> Iterator[Partition]:
    """The partitions of ``plan.parquet``, in order, read a piece at a time."""
    with parquet.open_file(path) as file:
        for batch in file.iter_batches(_ROWS_AT_ONCE):
            columns = (column.to_pylist() for column in batch.columns)
            for values in zip(*columns, strict=True):
                yield Partition(*values)


def plan_totals(path: Path) -> PlanTotals:
    """What the plan adds up to, from its footer alone."""
    return PlanTotals(**json.loads(parquet.read_metadata(path).metadata[_TOTALS_KEY]))


def fingerprint(parts: Mapping[str, Any]) -> str:
    """SHA-256 of what a run's results depend on.

    Parameters
    ----------
    parts : mapping
        Catalogue identity, image inventory, weights, scientific settings: anything JSON can hold.
        The method version is added here.

    Returns
    -------
    str
        64 hexadecimal digits of the canonical JSON (sorted keys, no spaces, no NaN).
    """
    whole = {"method": METHOD_VERSION, **parts}
    text = json.dumps(whole, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """What differs between two sets of parts, named for the user.

    Returns
    -------
    list of str
        For example ``["settings.passes: 1000 -> 200", "catalogue: changed"]``; long values, which
        are hashes, are only called changed.
    """
    found = []
    before, after = _flat(old), _flat(new)
    for name in sorted(before.keys() | after.keys()):
        one, other = before.get(name, "nothing"), after.get(name, "nothing")
        if one != other:
            short = len(str(one)) <= 40 and len(str(other)) <= 40
            found.append(f"{name}: {one} -> {other}" if short else f"{name}: changed")
    return found


def _flat(parts: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in parts.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{prefix}{key}.")
        else:
            # Tuples come back from a file as lists.
            flat[prefix + key] = list(value) if isinstance(value, tuple) else value
    return flat
