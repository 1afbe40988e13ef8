"""Published rows in order, and which rows of several runs are of one galaxy."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hats.pixel_math.spatial_index import SPATIAL_INDEX_COLUMN
from numpy.typing import NDArray

from survey_gampen import parquet
from survey_gampen.catalog.leaves import ROWS_AT_ONCE, fitted
from survey_gampen.catalog.merge import SortedRows
from survey_gampen.errors import UnreadableFile
from survey_gampen.outside import outside_fault

#: What rows are in order of.
KEY = (SPATIAL_INDEX_COLUMN, "object_id")


class TableRows(SortedRows):
    """The rows of tables that come in order."""

    def __init__(self, tables: Iterable[pa.Table]) -> None:
        super().__init__()
        self._tables = iter(tables)

    def read(self) -> pa.Table | None:
        """The next table that is not empty."""
        return next((table for table in self._tables if table.num_rows), None)


def file_rows(files: Sequence[Path], schema: pa.Schema) -> TableRows:
    """The rows of Parquet files that follow each other on the sky, with the columns of `schema`."""
    return TableRows(_scan(files, schema))


def _scan(files: Sequence[Path], schema: pa.Schema) -> Iterator[pa.Table]:
    for file in files:
        try:
            with parquet.open_file(file) as source:
                there = [name for name in schema.names if name in source.schema_arrow.names]
                for batch in source.iter_batches(ROWS_AT_ONCE, columns=there):
                    yield pa.Table.from_batches([fitted(batch, schema)])
        except (OSError, pa.ArrowException) as error:
            fault = outside_fault(error, file)
            if fault is not None:
                raise fault from error
            reason = " ".join(str(error).split())[:200]
            raise UnreadableFile(
                f"{file} cannot be read ({reason}): put it right, or remove it and resume its run"
            ) from error


def blocks(streams: Sequence[SortedRows]) -> Iterator[list[pa.Table | None]]:
    """Rows of all streams up to the same key, and then the next: None where a stream has none.

    Memory holds a block of each stream.
    """
    while left := [stream for stream in streams if stream.fill()]:
        bound = min(stream.last for stream in left)
        yield [None if stream.table is None else stream.take_to(bound) for stream in streams]


def align(tables: Sequence[pa.Table | None]) -> NDArray[np.int64]:
    """Put rows with the same key together.

    Parameters
    ----------
    tables : sequence of m pyarrow.Table or None
        With the columns of ``KEY``; in each, no key stands twice.

    Returns
    -------
    ndarray of int64, shape (m, n)
        Which row of each table belongs to each of the n keys, which are in order; -1: none.
    """
    # By name, for schemas may differ in what they say of nulls.
    parts = [
        pa.Table.from_arrays([table[name] for name in KEY], names=KEY)
        for table in tables
        if table is not None
    ]
    counts = [0 if table is None else table.num_rows for table in tables]
    keys = pa.concat_tables(parts).combine_chunks()
    order = pc.sort_indices(keys, [(name, "ascending") for name in KEY]).to_numpy()
    keys = keys.take(pa.array(order))
    index, names = keys[KEY[0]].to_numpy(), keys[KEY[1]].combine_chunks()
    new = np.ones(len(index), bool)
    new[1:] = (index[1:] != index[:-1]) | np.asarray(pc.not_equal(names[1:], names[:-1]))
    group = np.cumsum(new) - 1
    table_of = np.repeat(np.arange(len(tables)), counts)
    row_of = np.concatenate([np.arange(count) for count in counts])
    places = np.full((len(tables), int(group[-1]) + 1 if group.size else 0), -1, np.int64)
    places[table_of[order], group] = row_of[order]
    return places


def take(column: pa.ChunkedArray, places: NDArray[np.int64]) -> pa.ChunkedArray:
    """Values at these places; null where the place is -1."""
    return column.take(pa.array(places, mask=places < 0))
