"""Duplicated object_ids, found in bounded memory with buckets on the disk.

Every id goes to the bucket its hash names, so equal ids meet in one bucket, and a bucket is small
enough to be looked through in memory.
"""

from __future__ import annotations

import heapq
from pathlib import Path
from types import TracebackType

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from survey_gampen.catalog.ids import id_key

#: Rows a bucket should hold: some 50 MB of integers when it is looked through.
_BUCKET_ROWS = 1_000_000
#: As many files are open at once; a process may usually hold 1024.
_MOST_BUCKETS = 512
#: 2^64 / golden ratio: multiplied with a key, its upper bits spread keys that share their lower
#: ones (Knuth, The Art of Computer Programming 3, 6.4: Fibonacci hashing).
_FIBONACCI = np.uint64(0x9E3779B97F4A7C15)


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
        folder.mkdir(parents=True)
        self._schema = pa.schema([("object_id", kind), ("row", pa.int64())])
        count = int(np.clip(-(-rows // _BUCKET_ROWS), 1, _MOST_BUCKETS))
        self._paths = [folder / f"bucket-{index:03d}.arrow" for index in range(count)]
        self._writers = [pa.ipc.new_stream(str(path), self._schema) for path in self._paths]
        self._row = 0

    def __enter__(self) -> DuplicateFinder:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def _close(self) -> None:
        while self._writers:
            self._writers.pop().close()

    def add(self, object_id: pa.Array) -> None:
        """Take the next ids."""
        rows = np.arange(self._row, self._row + len(object_id))
        self._row += len(object_id)
        batch = pa.record_batch([object_id, pa.array(rows)], schema=self._schema)
        if len(self._writers) == 1:
            self._writers[0].write_batch(batch)
            return
        # The upper 32 bits, scaled to the number of buckets.
        high = (id_key(object_id) * _FIBONACCI) >> np.uint64(32)
        bucket = ((high * np.uint64(len(self._writers))) >> np.uint64(32)).astype(np.uint16)
        order = np.argsort(bucket, kind="stable")
        batch = batch.take(pa.array(order))
        ends = np.searchsorted(bucket[order], np.arange(len(self._writers)), side="right")
        start = 0
        for writer, end in zip(self._writers, ends.tolist(), strict=True):
            if end > start:
                writer.write_batch(batch.slice(start, end - start))
            start = end

    def finish(self, most: int = 5) -> tuple[int, list[object]]:
        """How many ids came more than once, and the first of them in input order.

        Returns
        -------
        count : int
        first : list
            At most `most` ids, as Python values.
        """
        self._close()
        count = 0
        first: list[tuple[int, object]] = []
        for path in self._paths:
            with pa.memory_map(str(path)) as stream:
                again = _come_again(pa.ipc.open_stream(stream).read_all())
            count += again.num_rows
            named = again.take(pc.select_k_unstable(again, most, [("row", "ascending")]))
            first += zip(named["row"].to_pylist(), named["object_id"].to_pylist(), strict=True)
            path.unlink()
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
