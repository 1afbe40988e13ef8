"""One pass over the leaves of a HATS catalogue: can they be read where they lie, and what is where?

What a copy would have found wrong with the rows is found here as well, and said in the same words.
Of the leaves only the columns are read that name, place and select rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hats.pixel_math.spatial_index import SPATIAL_INDEX_COLUMN
from numpy.typing import NDArray

from survey_gampen import commit
from survey_gampen.catalog.duplicates import DuplicateFinder
from survey_gampen.catalog.hats_in import (
    CELL_BITS,
    CELLS,
    PIECES,
    RECORD,
    ROWS,
    Found,
    Record,
    write_record,
)
from survey_gampen.catalog.selection import Tally
from survey_gampen.catalog.shape import with_index
from survey_gampen.catalog.sort import RowCheck, scratch_folder
from survey_gampen.catalog.source import Catalog
from survey_gampen.outside import outside_faults

_PIECES = pa.schema(
    [
        pa.field("first", pa.int64(), nullable=False),
        pa.field("last", pa.int64(), nullable=False),
        pa.field("group", pa.int32(), nullable=False),
        pa.field("start", pa.int64(), nullable=False),
        pa.field("rows", pa.int32(), nullable=False),
        pa.field("leaf", pa.string(), nullable=False),
        pa.field("footer", pa.binary(), nullable=False),
    ]
)
_CELLS = pa.schema(
    [
        pa.field("cell", pa.int64(), nullable=False),
        pa.field("rows", pa.int64(), nullable=False),
    ]
)
#: Numbers of cells follow each other closely.
_DENSE: dict[str, Any] = {
    "compression": "zstd",
    "use_dictionary": ["rows"],
    "column_encoding": {"cell": "DELTA_BINARY_PACKED"},
}
#: Rows of these that are written at once: those of a row group.
_PIECES_AT_ONCE, _CELLS_AT_ONCE = 8192, 1 << 18
#: More rows than these at one place would have to be held in memory to be put in order.
MOST_AT_ONE_PLACE = 1 << 16


class NotInPlace(Exception):
    """The catalogue has to be copied; the message says why."""


def use_in_place(
    catalog: Catalog, dest_dir: Path, scratch: Path, *, tally: Tally | None = None
) -> int:
    """Check every row of a HATS catalogue and write a record of them in the place of a copy.

    Parameters
    ----------
    catalog : Catalog
        The input.
    dest_dir : Path
        The folder to publish; read it with :mod:`survey_gampen.catalog.sorted`.
    scratch : Path
        Folder for the ids, 16 bytes a row and more for texts, on the file system of `dest_dir`;
        what is made in it is removed again.
    tally : Tally, optional
        Is told how many rows are read, and what each cut loses of them.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    NotInPlace
        The rows don't stand in order of position, or for another reason have to be copied.
    InputError
        For what :func:`~survey_gampen.catalog.sort.sort_catalog` would refuse as well.
    OutsideFault
        When the disk is full.
    """
    leaves = catalog.leaves
    if leaves is None:
        raise NotInPlace("it is no HATS catalogue")
    if leaves.differing:
        raise NotInPlace(f"column {leaves.differing!r} is not of one type in all leaves")
    with outside_faults(scratch), scratch_folder(scratch, "leaves-") as folder:
        record = folder / "record"
        record.mkdir()
        rows, fullest = _scan(catalog, record, folder / "ids", tally or Tally())
        request = catalog.request
        about = Record(
            leaves.folder, request["columns"], request["extra"], request["select"], fullest
        )
        write_record(record / RECORD, about)
        schema = catalog.schema.insert(0, pa.field(SPATIAL_INDEX_COLUMN, pa.int64()))
        pq.write_table(schema.empty_table(), record / ROWS)
        commit.publish_dir(dest_dir, lambda staged: _move(record, staged), folder)
    return rows


def _move(made: Path, staged: Path) -> None:
    made.rename(staged)


def _scan(catalog: Catalog, record: Path, ids: Path, tally: Tally) -> tuple[int, int]:
    """Check all rows and write what is where; the number of rows, and of those in one cell."""
    leaves = catalog.leaves
    assert leaves is not None
    check, order = RowCheck(catalog), _Order()
    kind = catalog.schema.field("object_id").type
    with (
        DuplicateFinder(kind, catalog.num_rows, ids) as finder,
        pq.ParquetWriter(record / PIECES, _PIECES, compression="zstd") as pieces_file,
        pq.ParquetWriter(record / CELLS, _CELLS, **_DENSE) as cells_file,
    ):
        pieces, cells = _Pieces(pieces_file), _Cells(cells_file)
        for file, group, start, rows, batch in catalog.pieces(tally=tally):
            if batch.num_rows:
                check.look(batch)
            if check.bad or not batch.num_rows:
                continue
            finder.add(batch["object_id"])
            index = with_index(batch)[SPATIAL_INDEX_COLUMN].to_numpy()
            name, footer = leaves.names[file], leaves.footers[file]
            order.look(index, name)
            ends = int(index[0]), int(index[-1])
            pieces.add(Found(*ends, group, start, rows, name, footer))
            cells.add(index)
        check.report(tally)
        finder.refuse(catalog.path)
        pieces.finish()
        cells.finish()
    return check.rows, cells.fullest


class _Order:
    """Looks whether rows come in order of position, and not too many at one."""

    def __init__(self) -> None:
        self._last, self._at_last = -1, 0

    def look(self, index: NDArray[np.int64], leaf: str) -> None:
        """Take the next rows, at least one.

        Raises
        ------
        NotInPlace
        """
        steps = np.diff(index, prepend=self._last)
        if (steps < 0).any():
            raise NotInPlace(f"rows of {leaf} are not in order of position")
        news = np.flatnonzero(steps)  # where a row lies elsewhere than the one before it
        runs = np.diff(np.concatenate([[-self._at_last], news, [index.size]]))
        if runs.max() > MOST_AT_ONE_PLACE:
            raise NotInPlace(f"{leaf} has more than {MOST_AT_ONE_PLACE} rows at one position")
        self._last, self._at_last = int(index[-1]), int(runs[-1])


class _Cells:
    """Counts rows that come in order, cell by cell."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._held: list[tuple[NDArray[np.int64], NDArray[np.int64]]] = []
        self._count = 0
        self._last = (-1, 0)  # a cell of which more rows may come, and those that came
        self.fullest = 0

    def add(self, index: NDArray[np.int64]) -> None:
        """Take the next rows, at least one."""
        cells, counts = np.unique(index >> CELL_BITS, return_counts=True)
        cell, rows = self._last
        if cells[0] == cell:
            counts[0] += rows
        elif rows:
            self._hold(np.array([cell]), np.array([rows]))
        self._last = int(cells[-1]), int(counts[-1])
        self._hold(cells[:-1], counts[:-1])
        if self._count >= _CELLS_AT_ONCE:
            self._flush()

    def finish(self) -> None:
        """Write what is left."""
        cell, rows = self._last
        if rows:
            self._hold(np.array([cell]), np.array([rows]))
            self._flush()

    def _hold(self, cells: NDArray[np.int64], counts: NDArray[np.int64]) -> None:
        if cells.size:
            self._held.append((cells, counts))
            self._count += cells.size
            self.fullest = max(self.fullest, int(counts.max()))

    def _flush(self) -> None:
        columns = [pa.array(np.concatenate(each)) for each in zip(*self._held, strict=True)]
        self._writer.write_batch(pa.record_batch(columns, schema=_CELLS))
        self._held, self._count = [], 0


class _Pieces:
    """Writes where rows are."""

    def __init__(self, writer: pq.ParquetWriter) -> None:
        self._writer = writer
        self._held: list[Found] = []

    def add(self, piece: Found) -> None:
        """Take the next one."""
        self._held.append(piece)
        if len(self._held) == _PIECES_AT_ONCE:
            self.finish()

    def finish(self) -> None:
        """Write what is left."""
        if self._held:
            columns = zip(zip(*self._held, strict=True), _PIECES, strict=True)
            arrays = [pa.array(column, field.type) for column, field in columns]
            self._writer.write_batch(pa.record_batch(arrays, schema=_PIECES))
            self._held = []
