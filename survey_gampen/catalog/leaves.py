"""How a leaf is written and read back: the same for one partition's and for a merged one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from hats.pixel_math.spatial_index import SPATIAL_INDEX_COLUMN

from survey_gampen.catalog.hats_out import HasPixel, span
from survey_gampen.catalog.sorted import Cursor

#: Options of every leaf's writer: each page carries its checksum.
WRITING = {"compression": "zstd", "write_page_checksum": True}
ROWS_AT_ONCE = 16_384


def fitted(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Rows with the columns of a schema; null where a leaf is older than a column."""
    there = set(batch.schema.names)
    arrays = [
        batch[field.name] if field.name in there else pa.nulls(batch.num_rows, field.type)
        for field in schema
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def check_leaf(staged: Path, pixel: HasPixel, rows: int, wanted: Cursor | None = None) -> None:
    """Read a leaf back: every page of it, the number of rows, their order and place on the sky.

    Parameters
    ----------
    staged : Path
        The leaf; read a bounded number of rows at a time.
    pixel : HasPixel
        Where its rows must lie.
    rows : int
        How many there must be.
    wanted : Cursor, optional
        Rows whose object_ids it must hold, in this order.

    Raises
    ------
    ValueError, OSError
        When any of it is wrong.
    """
    before, end = span(pixel)
    found = 0
    with pq.ParquetFile(staged, pre_buffer=False, page_checksum_verification=True) as source:
        for batch in source.iter_batches(ROWS_AT_ONCE):
            index = batch[SPATIAL_INDEX_COLUMN].to_numpy()
            if index[0] < before or index[-1] >= end or (np.diff(index) < 0).any():
                raise ValueError("rows out of order or outside the pixel")
            before = int(index[-1])
            found += batch.num_rows
            if wanted is not None:
                names = wanted.take(batch.num_rows)["object_id"].combine_chunks()
                if not batch["object_id"].equals(names):
                    raise ValueError("the object_ids are not those of the partition")
    if found != rows:
        raise ValueError(f"{found} rows instead of {rows}")
