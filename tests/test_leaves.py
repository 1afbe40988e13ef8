"""What is written as a leaf is checked before it is published: each page, row and name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from survey_gampen.catalog.hats_out import Pixel, span
from survey_gampen.catalog.leaves import WRITING, check_leaf
from survey_gampen.catalog.sorted import Cursor, write_sorted

PIXEL, ROWS = Pixel(5, 123), 40_000
SCHEMA = pa.schema([("_healpix_29", pa.int64()), ("object_id", pa.int64()), ("z", pa.float32())])


@pytest.fixture(scope="module")
def rows() -> pa.Table:
    start, end = span(PIXEL)
    index = start + np.arange(ROWS) * ((end - start) // ROWS)
    redshift = np.random.default_rng(1).random(ROWS, np.float32)
    return pa.table([index, np.arange(ROWS), redshift], schema=SCHEMA)


@pytest.fixture(scope="module")
def catalog(rows: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("sorted") / "catalog"
    write_sorted(folder, [rows], SCHEMA)
    return folder


def write(path: Path, table: pa.Table) -> Path:
    with pq.ParquetWriter(path, table.schema, **WRITING) as writer:
        writer.write_table(table, row_group_size=7000)
    return path


def check(path: Path, catalog: Path) -> None:
    check_leaf(path, PIXEL, ROWS, Cursor(catalog, *PIXEL, ("_healpix_29", "object_id")))


def test_a_cursor_gives_each_row_once_whatever_is_asked_for(rows: pa.Table, catalog: Path) -> None:
    cursor, sizes = Cursor(catalog, *PIXEL), [1, 0, 16_384, 20_000, 99_999, 5]
    taken = [cursor.take(size) for size in sizes]
    assert [part.num_rows for part in taken] == [1, 0, 16_384, 20_000, 3_615, 0]
    assert pa.concat_tables(taken).equals(rows)


def test_a_good_leaf_passes(rows: pa.Table, catalog: Path, tmp_path: Path) -> None:
    check(write(tmp_path / "leaf", rows), catalog)


_SAID = {
    "short": "39999 rows instead of 40000",
    "swapped": "out of order",
    "renamed": "object_ids",
    "elsewhere": "outside the pixel",
    "bit": "(?i)checksum",
}


@pytest.mark.parametrize("wrong", list(_SAID))
def test_a_bad_leaf_does_not(wrong: str, rows: pa.Table, catalog: Path, tmp_path: Path) -> None:
    names, index = rows["object_id"].to_numpy().copy(), rows["_healpix_29"].to_numpy().copy()
    if wrong == "swapped":
        index[[5, 9000]] = index[[9000, 5]]
    elif wrong == "renamed":
        names[ROWS - 1] = -1
    elif wrong == "elsewhere":
        index[-1] = span(PIXEL)[1]
    table = pa.table([index, names, rows["z"]], schema=SCHEMA)
    path = write(tmp_path / "leaf", table.slice(0, ROWS - 1) if wrong == "short" else table)
    if wrong == "bit":
        chunk = pq.read_metadata(path).row_group(2).column(2)
        broken = bytearray(path.read_bytes())
        broken[chunk.data_page_offset + chunk.total_compressed_size // 4] ^= 1
        path.write_bytes(broken)
    with pytest.raises((ValueError, OSError), match=_SAID[wrong]):
        check(path, catalog)
