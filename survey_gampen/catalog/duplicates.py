"""Duplicated object_ids, found in bounded memory with buckets on the disk."""

from __future__ import annotations

import heapq
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from survey_gampen.catalog.buckets import Buckets
from survey_gampen.errors import InputError


class DuplicateFinder:
    """Takes all ids in input order, then names those that came twice.

    Parameters
    ----------
    kind : pyarrow.DataType
        Type of the ids.
    rows : int
        How many will come, at most.
    folder : Path
        Where the buckets go; made here.
    """

    def __init__(self, kind: pa.DataType, rows: int, folder: Path) -> None:
        self._schema = pa.schema([("object_id", kind), ("row", pa.int64())])
        self._buckets = Buckets(self._schema, rows, folder)
        self._row = 0

    def __enter__(self) -> DuplicateFinder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._buckets.close()

    def add(self, object_id: pa.Array) -> None:
        """Take the next ids."""
        rows = np.arange(self._row, self._row + len(object_id))
        self._row += len(object_id)
        self._buckets.add(pa.record_batch([object_id, pa.array(rows)], schema=self._schema))

    def refuse(self, path: str) -> None:
        """Look through all ids of the catalogue `path`.

        Raises
        ------
        InputError
            When some came more than once; the first are named.
        """
        duplicated, first = self.finish()
        if duplicated:
            names = ", ".join(str(name) for name in first)
            raise InputError(
                f"{path}: {duplicated} object_id{'s appear' if duplicated > 1 else ' appears'} "
                f"more than once (first: {names}); every row needs one of its own"
            )

    def finish(self, most: int = 5) -> tuple[int, list[object]]:
        """How many ids came more than once, and the first of them in input order.

        Returns
        -------
        count : int
        first : list
            At most `most` ids, as Python values.
        """
        count = 0
        first: list[tuple[int, object]] = []
        for bucket in self._buckets.read():
            again = _come_again(bucket)
            count += again.num_rows
            named = again.take(pc.select_k_unstable(again, most, [("row", "ascending")]))
            first += zip(named["row"].to_pylist(), named["object_id"].to_pylist(), strict=True)
        return count, [name for _, name in heapq.nsmallest(most, first, key=lambda pair: pair[0])]


def _come_again(bucket: pa.Table) -> pa.Table:
    """The first row of every id that a bucket holds more than once."""
    order = pc.sort_indices(bucket, [("object_id", "ascending"), ("row", "ascending")])
    ids = bucket["object_id"].take(order).combine_chunks()
    same = np.zeros(len(ids) + 1, dtype=bool)  # as the one before; False beyond both ends
    if len(ids) > 1:
        same[1:-1] = np.asarray(pc.equal(ids[1:], ids[:-1]))
    starts = np.flatnonzero(~same[:-1] & same[1:])
    return bucket.take(order.take(pa.array(starts)))
