"""Sorted runs on the disk, merged into one sorted stream.

Every run keeps one block in memory. The smallest of the blocks' last keys is a bound: all rows up
to it are in memory already, so they are sorted together and handed on, and the runs whose block is
used up read the next one. Memory is the number of runs times a block.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hats.pixel_math.spatial_index import SPATIAL_INDEX_COLUMN

#: What rows are in order of.
KEYS = [(SPATIAL_INDEX_COLUMN, "ascending"), ("object_id", "ascending")]
#: Bytes of a block as it lies on the disk, the unit of reading. A catalogue of 100 GB has some
#: 800 runs, so at least 100 MB of blocks while it is merged.
_BLOCK_BYTES = 128 << 10
#: Rows that a run takes from the disk at once when there are few runs.
_MOST_ROWS = 1 << 18


def write_run(folder: Path, number: int, batches: list[pa.RecordBatch]) -> None:
    """Sort rows in memory and write them as one run."""
    table = pa.Table.from_batches(batches)
    table = table.take(pc.sort_indices(table, KEYS)).combine_chunks()
    rows = max(1, _BLOCK_BYTES * table.num_rows // max(1, table.nbytes))
    options = pa.ipc.IpcWriteOptions(compression="lz4")
    path = str(folder / f"run-{number:06d}.arrow")
    with pa.ipc.new_file(path, table.schema, options=options) as writer:
        writer.write_table(table, max_chunksize=rows)


def merge_runs(folder: Path, memory: int) -> Iterator[pa.Table]:
    """The rows of all runs in order of (_healpix_29, object_id), in tables of varying length.

    Parameters
    ----------
    folder : Path
        What :func:`write_run` filled.
    memory : int
        Bytes that the blocks of all runs together may take; at least one block a run is held.
    """
    paths = sorted(folder.glob("run-*.arrow"))
    runs = [_Run(path, memory // max(1, len(paths))) for path in paths]
    while runs := [run for run in runs if run.fill()]:
        bound = min(run.last for run in runs)
        parts = [run.take_to(bound) for run in runs]
        table = pa.concat_tables([part for part in parts if part.num_rows])
        yield table.take(pc.sort_indices(table, KEYS))


class SortedRows:
    """Rows in order of (_healpix_29, object_id), of which one block is in memory."""

    def __init__(self) -> None:
        self.table: pa.Table | None = None
        self.last: tuple[int, int | str] = (0, 0)

    def fill(self) -> bool:
        """Have rows in memory; False when all have been taken."""
        if self.table is None or self.table.num_rows == 0:
            self.table = self.read()
            if self.table is not None:
                self.index = self.table[SPATIAL_INDEX_COLUMN].to_numpy()
                self.last = (int(self.index[-1]), self.table["object_id"][-1].as_py())
        return self.table is not None

    def read(self) -> pa.Table | None:
        """The next rows, at least one; None after the last."""
        raise NotImplementedError

    def take_to(self, bound: tuple[int, int | str]) -> pa.Table:
        """Remove and return the rows whose key is at most `bound`."""
        assert self.table is not None
        pixel, name = bound
        end = int(np.searchsorted(self.index, pixel, side="left"))
        same = int(np.searchsorted(self.index, pixel, side="right"))
        if same > end:
            # Rows at the very position of the bound: theirs is the order of object_ids.
            ids = self.table["object_id"].slice(end, same - end)
            limit = pa.scalar(name, type=ids.type)
            end += pc.sum(pc.less_equal(ids, limit)).as_py()
        part = self.table.slice(0, end)
        self.table, self.index = self.table.slice(end), self.index[end:]
        return part


class _Run(SortedRows):
    """A run on the disk.

    The file is opened anew for each block, for there may be more runs than a process may hold
    files.
    """

    def __init__(self, path: Path, memory: int) -> None:
        super().__init__()
        self.path = path
        self.memory = memory
        self.next_block = 0

    def read(self) -> pa.Table | None:
        """As many blocks as the memory takes."""
        blocks: list[pa.RecordBatch] = []
        size = rows = 0
        with pa.OSFile(str(self.path)) as stream:
            reader = pa.ipc.open_file(stream)
            while self.next_block < reader.num_record_batches and rows < _MOST_ROWS:
                blocks.append(reader.get_batch(self.next_block))
                self.next_block += 1
                rows += blocks[-1].num_rows
                size += blocks[-1].nbytes
                if size + blocks[-1].nbytes > self.memory:
                    break
        return pa.Table.from_batches(blocks).combine_chunks() if blocks else None
