"""A HATS catalogue read where it lies: the record that stands for a copy, and how rows are found.

``catalog/`` of a run then holds no rows but a record of them, written once at planning
(:mod:`survey_gampen.catalog.hats_scan`):

* ``in-place.json``: where the leaves are, and what is asked of their rows (columns, selection);
* ``rows.parquet``: no rows; its schema is that of the sorted rows;
* ``pieces.parquet``: where rows are: some ten thousand that follow each other in a row group of a
  leaf, with the first and the last _healpix_29 of those that are kept;
* ``cells.parquet``: how many rows lie in each HEALPix pixel of one order, for the plan.

A leaf is known by its size and footer, and looked at whenever it is opened.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from hats.pixel_math.spatial_index import SPATIAL_INDEX_COLUMN

from survey_gampen import commit, parquet
from survey_gampen.catalog.columns import KEY_COLUMNS
from survey_gampen.catalog.files import File, folder_at
from survey_gampen.catalog.footers import one_line, read_footer
from survey_gampen.catalog.merge import KEYS
from survey_gampen.catalog.select import parse_select
from survey_gampen.catalog.selection import Tally
from survey_gampen.catalog.shape import Shape, with_index
from survey_gampen.errors import InputError, OutsideFault, UnreadableFile
from survey_gampen.outside import outside_fault

RECORD, ROWS = "in-place.json", "rows.parquet"
PIECES, CELLS = "pieces.parquet", "cells.parquet"
#: Bits of an order-29 index below those of a cell, a pixel of order 12 (0.9 arcmin).
CELL_BITS = 2 * (29 - 12)
#: Cells that are read at once.
_CELLS_AT_ONCE = 4096


@dataclass(frozen=True)
class Record:
    """What stands in ``in-place.json``.

    Attributes
    ----------
    folder : str
        The folder of the leaves.
    columns : mapping
        What object_id, ra and dec are called in them.
    extra : sequence of str
        Columns that are passed through.
    select : str or None
        Which rows are kept.
    fullest : int
        Most rows of a cell.
    """

    folder: str
    columns: Mapping[str, str]
    extra: Sequence[str]
    select: str | None
    fullest: int


class Found(NamedTuple):
    """A row of ``pieces.parquet``.

    Attributes
    ----------
    first, last : int
        _healpix_29 of the first and the last row that is kept.
    group, start, rows : int
        Row group of the leaf, first row in it, and how many there are, kept or not.
    leaf : str
        Name of the leaf in its folder.
    footer : bytes
        SHA-256 of its size and footer.
    """

    first: int
    last: int
    group: int
    start: int
    rows: int
    leaf: str
    footer: bytes


def read_record(catalog_dir: Path) -> Record | None:
    """The record of a catalogue that is read where it lies; None where it was copied."""
    try:
        text = (catalog_dir / RECORD).read_text(encoding="utf-8")
    except (FileNotFoundError, NotADirectoryError):
        return None
    return Record(**json.loads(text))


def write_record(path: Path, record: Record) -> None:
    path.write_text(json.dumps(asdict(record), indent=1) + "\n", encoding="utf-8")


def follow(catalog_dir: Path, folder: str, staging: Path) -> None:
    """Take note that the same leaves lie in another folder now."""
    record = read_record(catalog_dir)
    if record is not None and record.folder != folder:
        now = replace(record, folder=folder)
        commit.replace(catalog_dir / RECORD, lambda path: write_record(path, now), staging)


def iter_pieces(catalog_dir: Path, low: int, high: int) -> Iterator[Found]:
    """Pieces that may have rows with _healpix_29 in [low, high), in order."""
    with parquet.open_file(catalog_dir / PIECES) as file:
        for group in range(file.metadata.num_row_groups):
            first, last = (file.metadata.row_group(group).column(k).statistics for k in (0, 1))
            if first.min >= high:
                return
            if last.max < low:
                continue
            for batch in file.iter_batches(1024, [group]):
                meet = pc.and_(pc.less(batch["first"], high), pc.greater_equal(batch["last"], low))
                columns = [column.to_pylist() for column in batch.filter(meet).columns]
                yield from map(Found._make, zip(*columns, strict=True))


def iter_cells(catalog_dir: Path, rows: int) -> Iterator[np.ndarray]:
    """For each row the first _healpix_29 of its cell, in order, some `rows` at a time."""
    with parquet.open_file(catalog_dir / CELLS) as file:
        for batch in file.iter_batches(_CELLS_AT_ONCE):
            first = batch["cell"].to_numpy() << CELL_BITS
            counts = batch["rows"].to_numpy()
            part = np.cumsum(counts) // rows
            for number in np.unique(part):
                yield np.repeat(first[part == number], counts[part == number])


def iter_rows(
    catalog_dir: Path,
    record: Record,
    low: int,
    high: int,
    rows: int,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows with _healpix_29 in [low, high), as a sorted copy would give them.

    Parameters
    ----------
    catalog_dir : Path
    record : Record
        That of `catalog_dir`.
    low, high : int
    rows : int
        At most so many at a time.
    columns : sequence of str, optional
        Only these columns.

    Raises
    ------
    OutsideFault
        The leaves are away, or others than at planning.
    UnreadableFile
        A leaf can't be read.
    """
    whole = parquet.read_schema(catalog_dir / ROWS).remove_metadata()
    columns = columns or whole.names
    sources = (*(record.columns[key] for key in KEY_COLUMNS), *record.extra)
    shape = Shape(whole.remove(0), sources, None)
    shape = shape.only([*KEY_COLUMNS, *columns])  # position and name decide on the order
    batches = _batches(catalog_dir, record, shape, low, high, rows)
    for table in in_order(batches):
        yield from table.select(columns).to_batches(rows)


def _batches(
    catalog_dir: Path, record: Record, shape: Shape, low: int, high: int, rows: int
) -> Iterator[pa.RecordBatch]:
    """Rows in order of _healpix_29, as they stand in the leaves."""
    try:
        folder = folder_at(record.folder)
        pieces = iter_pieces(catalog_dir, low, high)
        for (leaf, footer), some in groupby(pieces, lambda piece: (piece.leaf, piece.footer)):
            file = folder.file(leaf)
            if read_footer(file).digest != footer:
                raise OutsideFault(
                    f"{file.name} has changed since the run was planned: put back the one of then,"
                    " or begin anew with another --out"
                )
            yield from _rows_of_leaf(file, record, shape, list(some), (low, high), rows)
    except InputError as error:  # it was there at planning
        raise OutsideFault(f"{error} (at planning it could be read)") from error


def _rows_of_leaf(
    file: File,
    record: Record,
    shape: Shape,
    pieces: Sequence[Found],
    span: tuple[int, int],
    rows: int,
) -> Iterator[pa.RecordBatch]:
    try:
        with pq.ParquetFile(file.source(), pre_buffer=False) as leaf:
            if record.select:
                selection = parse_select(record.select, leaf.schema_arrow, record.columns)
                shape = replace(shape, selection=selection)
            for group, some in groupby(pieces, lambda piece: piece.group):
                for source in _rows_of_group(leaf, group, list(some), shape.columns, rows):
                    batch = with_index(shape.of(source, Tally()))
                    start, end = np.searchsorted(batch[SPATIAL_INDEX_COLUMN].to_numpy(), span)
                    if end > start:
                        yield batch.slice(int(start), int(end - start))
    except FileNotFoundError:
        raise OutsideFault(f"{file.name} went away while it was read: bring it back") from None
    except (pa.ArrowException, OSError) as error:
        fault = outside_fault(error, file.name)
        raise fault or UnreadableFile(f"{file.name} cannot be read: {one_line(error)}") from error


def _rows_of_group(
    leaf: pq.ParquetFile, group: int, pieces: Sequence[Found], columns: list[str], rows: int
) -> Iterator[pa.RecordBatch]:
    """The rows from the first piece to the last, as they are."""
    begin, end = pieces[0].start, pieces[-1].start + pieces[-1].rows
    place = 0
    for batch in leaf.iter_batches(rows, [group], columns):
        start, stop = max(begin - place, 0), min(end - place, batch.num_rows)
        if stop > start:
            yield batch.slice(start, stop - start)
        place += batch.num_rows
        if place >= end:
            return


def in_order(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Rows that come in order of _healpix_29, in order of (_healpix_29, object_id).

    Rows at one place are held back until all of them are there.
    """
    held: list[pa.RecordBatch] = []
    for batch in batches:
        table = pa.Table.from_batches([*held, batch])
        index = table[SPATIAL_INDEX_COLUMN].to_numpy()
        end = int(np.searchsorted(index, index[-1]))
        if end:
            yield _by_name(table.slice(0, end))
        held = table.slice(end).to_batches()
    if held:
        yield _by_name(pa.Table.from_batches(held))


def _by_name(table: pa.Table) -> pa.Table:
    index = table[SPATIAL_INDEX_COLUMN].to_numpy()
    if (index[1:] == index[:-1]).any():
        table = table.take(pc.sort_indices(table, KEYS))
    return table.combine_chunks()


def changed_leaf(catalog_dir: Path, now: Mapping[str, bytes]) -> str | None:
    """The first leaf that is another than at planning, or gone.

    Parameters
    ----------
    catalog_dir : Path
    now : mapping
        SHA-256 of size and footer of the leaves that are there, by their names.
    """
    pieces = iter_pieces(catalog_dir, 0, 12 << 58)
    return next((p.leaf for p in pieces if now.get(p.leaf) != p.footer), None)
