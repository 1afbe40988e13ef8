"""Rows in buckets on the disk, each named by the hash of its object_id.

Equal ids meet in one bucket, and a bucket is small enough to be looked through in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa

from survey_gampen.catalog.ids import id_key

#: Rows a bucket should hold: some 50 MB of integers when it is looked through.
_BUCKET_ROWS = 1_000_000
#: As many files are open at once; a process may usually hold 1024.
_MOST_BUCKETS = 512
#: 2^64 / golden ratio: multiplied with a key, its upper bits spread keys that share their lower
#: ones (Knuth, The Art of Computer Programming 3, 6.4: Fibonacci hashing).
_FIBONACCI = np.uint64(0x9E3779B97F4A7C15)


class Buckets:
    """Takes rows in any order, then gives them bucket by bucket.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the rows; one column is object_id.
    rows : int
        How many will come, at most.
    folder : Path
        Where the buckets go; made here.
    """

    def __init__(self, schema: pa.Schema, rows: int, folder: Path) -> None:
        folder.mkdir(parents=True)
        count = int(np.clip(-(-rows // _BUCKET_ROWS), 1, _MOST_BUCKETS))
        self._paths = [folder / f"bucket-{index:03d}.arrow" for index in range(count)]
        self._writers = [pa.ipc.new_stream(str(path), schema) for path in self._paths]

    def close(self) -> None:
        """Close all files."""
        while self._writers:
            self._writers.pop().close()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the next rows."""
        if len(self._writers) == 1:
            self._writers[0].write_batch(batch)
            return
        # The upper 32 bits, scaled to the number of buckets.
        high = (id_key(batch["object_id"]) * _FIBONACCI) >> np.uint64(32)
        bucket = ((high * np.uint64(len(self._writers))) >> np.uint64(32)).astype(np.uint16)
        order = np.argsort(bucket, kind="stable")
        batch = batch.take(pa.array(order))
        ends = np.searchsorted(bucket[order], np.arange(len(self._writers)), side="right")
        start = 0
        for writer, end in zip(self._writers, ends.tolist(), strict=True):
            if end > start:
                writer.write_batch(batch.slice(start, end - start))
            start = end

    def read(self) -> Iterator[pa.Table]:
        """The rows of one bucket after the other; each is gone when the next is asked for."""
        self.close()
        for path in self._paths:
            with pa.memory_map(str(path)) as stream:
                yield pa.ipc.open_stream(stream).read_all()
            path.unlink()
