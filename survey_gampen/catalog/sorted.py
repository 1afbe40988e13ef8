"""The sorted catalogue on the disk: written once, read by partition.

`catalog/` holds Parquet files named ``NNNNNN-FIRST.parquet``: a running number and the first
_healpix_29 in it. So the names alone say which files hold a pixel, and the statistics of the row
groups which rows to read: a partition costs the same in a catalogue of a thousand and of a billion
rows.

A HATS catalogue may be read where it lies instead: `catalog/` then holds a record of its leaves
(:mod:`survey_gampen.catalog.hats_in`), and the same functions give the same rows.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hats.pixel_math.spatial_index import SPATIAL_INDEX_COLUMN, healpix_to_spatial_index

from survey_gampen import parquet
from survey_gampen.catalog import hats_in

_FILE_ROWS = 4 << 20
_GROUP_ROWS = 1 << 15
_INDEX = (SPATIAL_INDEX_COLUMN,)
#: One past the last pixel of order 29.
_END = 12 << 2 * 29


def write_sorted(folder: Path, tables: Iterable[pa.Table], schema: pa.Schema) -> None:
    """Write rows that come in order of (_healpix_29, object_id).

    Files and row groups are cut at fixed numbers of rows, so equal rows give equal files.
    """
    folder.mkdir()
    writer: pq.ParquetWriter | None = None
    number = in_file = 0
    try:
        for group in _regroup(tables, _GROUP_ROWS):
            if writer is None or in_file >= _FILE_ROWS:
                if writer is not None:
                    writer.close()
                first = group[SPATIAL_INDEX_COLUMN][0].as_py()
                path = folder / f"{number:06d}-{first:019d}.parquet"
                writer = pq.ParquetWriter(path, schema, compression="zstd")
                number, in_file = number + 1, 0
            writer.write_table(group, row_group_size=_GROUP_ROWS)
            in_file += group.num_rows
    finally:
        if writer is not None:
            writer.close()


def _regroup(tables: Iterable[pa.Table], rows: int) -> Iterator[pa.Table]:
    """The same rows in tables of exactly `rows`, the last one shorter."""
    held: list[pa.Table] = []
    count = 0
    for table in tables:
        held.append(table)
        count += table.num_rows
        if count >= rows:
            whole = pa.concat_tables(held)
            full = count - count % rows
            for start in range(0, full, rows):
                yield whole.slice(start, rows)
            held, count = [whole.slice(full).combine_chunks()], count - full
    if count:
        yield pa.concat_tables(held)


def sorted_schema(catalog_dir: Path) -> pa.Schema:
    """Schema of the sorted catalogue: _healpix_29, object_id, ra, dec, extras."""
    files = _files(catalog_dir)
    schema: pa.Schema = parquet.read_schema(files[0] if files else catalog_dir / hats_in.ROWS)
    return schema.remove_metadata()


def read_rows(
    catalog_dir: Path, norder: int, npix: int, columns: Sequence[str] | None = None
) -> pa.Table:
    """The rows of a HEALPix pixel (nested), in order of (_healpix_29, object_id).

    Returns
    -------
    pyarrow.Table
        Columns _healpix_29, object_id, ra, dec (deg), extras; or only those of `columns`, of
        which _healpix_29 must be the first.

    Raises
    ------
    OutsideFault
        The catalogue is read where it lies, and it is away, or another than at planning.
    UnreadableFile
        A file of it can't be read.
    """
    schema = sorted_schema(catalog_dir)
    if columns is not None:
        schema = pa.schema([schema.field(name) for name in columns])
    return pa.Table.from_batches(
        iter_rows(catalog_dir, norder, npix, columns=columns), schema=schema
    )


def iter_rows(
    catalog_dir: Path,
    norder: int,
    npix: int,
    rows: int = 16_384,
    columns: Sequence[str] | None = None,
) -> Iterator[pa.RecordBatch]:
    """The rows of :func:`read_rows` in batches of at most `rows`, never all of them at once."""
    low = int(healpix_to_spatial_index(norder, npix))
    high = low + 4 ** (29 - norder)
    if (record := hats_in.read_record(catalog_dir)) is not None:
        yield from hats_in.iter_rows(catalog_dir, record, low, high, rows, columns)
        return
    for path in _files_of(catalog_dir, low, high):
        with parquet.open_file(path) as file:
            for batch in file.iter_batches(rows, _groups_of(file, low, high), columns):
                index = batch[SPATIAL_INDEX_COLUMN].to_numpy()
                start, end = np.searchsorted(index, [low, high])
                if end > start:
                    part = batch.slice(int(start), int(end - start))
                    yield part.replace_schema_metadata(None)


class Cursor:
    """The rows of a pixel from the first to the last, as many at a time as are asked for.

    Parameters
    ----------
    catalog_dir, norder, npix, columns
        As for :func:`read_rows`.
    """

    def __init__(
        self, catalog_dir: Path, norder: int, npix: int, columns: Sequence[str] | None = None
    ) -> None:
        self._batches = iter_rows(catalog_dir, norder, npix, columns=columns)
        schema = sorted_schema(catalog_dir)
        self._held = schema.empty_table().select(columns or schema.names)

    def take(self, rows: int) -> pa.Table:
        """Return the next `rows` rows, fewer at the end."""
        while self._held.num_rows < rows:
            batch = next(self._batches, None)
            if batch is None:
                break
            self._held = pa.concat_tables([self._held, pa.Table.from_batches([batch])])
        taken, self._held = self._held.slice(0, rows), self._held.slice(rows)
        return taken


def iter_index(
    catalog_dir: Path, rows: int = 1 << 20, partition_rows: int = 0
) -> Iterator[np.ndarray]:
    """The _healpix_29 column of the whole catalogue, in order, a bounded piece at a time.

    Parameters
    ----------
    catalog_dir : Path
    rows : int
        About so many at a time.
    partition_rows : int
        What they are for: pixels of at most so many rows. Where no pixel of the order at which
        planning has counted holds more, each row may be given the first index of its own one.
    """
    if (record := hats_in.read_record(catalog_dir)) is not None:
        if record.fullest <= partition_rows:
            yield from hats_in.iter_cells(catalog_dir, rows)
        else:
            for batch in hats_in.iter_rows(catalog_dir, record, 0, _END, rows, _INDEX):
                yield batch[SPATIAL_INDEX_COLUMN].to_numpy()
        return
    for path in _files(catalog_dir):
        with parquet.open_file(path) as file:
            for batch in file.iter_batches(rows, columns=[SPATIAL_INDEX_COLUMN]):
                yield batch[SPATIAL_INDEX_COLUMN].to_numpy()


def _files(catalog_dir: Path) -> list[Path]:
    return sorted(catalog_dir.glob("*-*.parquet"))


def _files_of(catalog_dir: Path, low: int, high: int) -> list[Path]:
    """Files that may hold indices in [low, high): the last that starts before, and all within."""
    files = _files(catalog_dir)
    firsts = [int(path.stem.split("-")[1]) for path in files]
    return files[max(0, bisect_left(firsts, low) - 1) : bisect_right(firsts, high - 1)]


def _groups_of(file: pq.ParquetFile, low: int, high: int) -> list[int]:
    """Row groups whose extremes of _healpix_29 (the first column) meet [low, high)."""
    groups = []
    for number in range(file.metadata.num_row_groups):
        statistics = file.metadata.row_group(number).column(0).statistics
        if statistics is None or (statistics.min < high and statistics.max >= low):
            groups.append(number)
    return groups
