"""The out-of-core sort: right, whatever the order, the size of its memory and the ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hats.pixel_math.spatial_index import compute_spatial_index
from hypothesis import given
from hypothesis import strategies as st
from peakmemory import peak_memory
from skies import patch_of_sky, write

from survey_gampen.catalog import (
    iter_rows,
    open_catalog,
    read_rows,
    sort_catalog,
    sorted,
    sorted_schema,
)
from survey_gampen.catalog.duplicates import DuplicateFinder
from survey_gampen.catalog.merge import merge_runs, write_run
from survey_gampen.errors import InputError, OutsideFault


def sort_table(folder: Path, table: pa.Table, **options: object) -> pa.Table:
    source = write(folder / "source.parquet", table)
    out = folder / "out"
    count = sort_catalog(open_catalog(source), out / "catalog", out / ".staging", **options)
    assert list((out / ".staging").iterdir() if (out / ".staging").exists() else []) == []
    found = pa.concat_tables(map(pq.read_table, sorted._files(out / "catalog")))
    assert found.num_rows == count
    return found


@pytest.mark.parametrize("run_bytes", [1, 40_000, 1 << 30])
def test_rows_come_out_by_position_then_id(tmp_path: Path, run_bytes: int) -> None:
    """Many runs, a few, one: the same rows in the same order."""
    table = patch_of_sky(5000)
    # A hundred galaxies at one place, and rows that lie there in a bad order.
    ra = table["ra"].to_numpy().copy()
    dec = table["dec"].to_numpy().copy()
    ra[::50], dec[::50] = 151.0, 3.0
    table = table.set_column(1, "ra", pa.array(ra)).set_column(2, "dec", pa.array(dec))
    found = sort_table(tmp_path, table, run_bytes=run_bytes)
    index = compute_spatial_index(ra, dec)
    order = np.lexsort((table["object_id"].to_numpy(), index))
    assert found["_healpix_29"].to_pylist() == index[order].tolist()
    assert found["object_id"].equals(table["object_id"].take(pa.array(order)))
    assert found["ra"].equals(table["ra"].take(pa.array(order)))


@pytest.mark.parametrize("text", [False, True])
def test_all_galaxies_at_one_place(tmp_path: Path, text: bool) -> None:
    """Nothing but the ids can tell them apart; memory stays bounded by the blocks all the same."""
    ids = np.random.default_rng(1).permutation(20_000)
    names = pa.array([f"galaxy {i}" for i in ids]) if text else pa.array(ids)
    table = pa.table({"object_id": names, "ra": [10.0] * ids.size, "dec": [1.0] * ids.size})
    found = sort_table(tmp_path, table, run_bytes=50_000)
    expected = names.to_pylist()
    expected.sort()
    assert found["object_id"].to_pylist() == expected


def test_files_do_not_depend_on_the_order_of_the_input(tmp_path: Path) -> None:
    table = patch_of_sky(3000)
    shuffled = table.take(pa.array(np.random.default_rng(9).permutation(3000)))
    for name, rows, run_bytes in (("a", table, 1 << 20), ("b", shuffled, 30_000)):
        sort_table(tmp_path / name, rows, run_bytes=run_bytes)
    files = [list((tmp_path / name / "out" / "catalog").iterdir()) for name in "ab"]
    assert [f.name for f in files[0]] == [f.name for f in files[1]]
    assert [f.read_bytes() for f in files[0]] == [f.read_bytes() for f in files[1]]


def test_rows_of_a_pixel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From several files and row groups; together the pixels give every row once."""
    monkeypatch.setattr(sorted, "_FILE_ROWS", 700)
    monkeypatch.setattr(sorted, "_GROUP_ROWS", 70)
    table = patch_of_sky(3000)
    whole = sort_table(tmp_path, table)
    folder = tmp_path / "out" / "catalog"
    assert len(list(folder.iterdir())) == 5
    norder = 6
    of_row = whole["_healpix_29"].to_numpy() >> 2 * (29 - norder)
    pixels = np.unique(of_row)
    assert pixels.size > 4
    for npix in pixels.tolist():
        expected = whole.filter(pa.array(of_row == npix)).replace_schema_metadata(None)
        assert read_rows(folder, norder, npix).equals(expected)
        batches = list(iter_rows(folder, norder, npix, rows=50))
        assert max(batch.num_rows for batch in batches) <= 50
        assert sum(batch.num_rows for batch in batches) == expected.num_rows
    assert read_rows(folder, norder, int(pixels[-1]) + 1).num_rows == 0
    assert sorted_schema(folder).names == ["_healpix_29", "object_id", "ra", "dec"]
    assert np.concatenate(list(sorted.iter_index(folder, 13))).size == 3000


def spoiled(column: str, rows: list[int], value: object) -> pa.Table:
    table = patch_of_sky(40)
    place = table.schema.get_field_index(column)
    values = table[column].to_pylist()
    for row in rows:
        values[row] = value
    return table.set_column(place, column, pa.array(values, table.schema.field(column).type))


@pytest.mark.parametrize(
    ("table", "words"),
    [
        (spoiled("ra", [3, 30], None), "ra is null or not finite in 2 rows"),
        (spoiled("dec", [5], float("nan")), "dec is null or not finite in 1 row "),
        (spoiled("ra", [0], float("inf")), "ra is null or not finite in 1 row"),
        (spoiled("ra", [1], -0.5), "ra is outside 0 to 360 degrees in 1 row"),
        (spoiled("ra", [1], 360.5), "ra is outside 0 to 360 degrees in 1 row"),
        (spoiled("dec", list(range(9)), 91.0), "dec is outside -90 to 90 degrees in 9 rows"),
        (spoiled("object_id", [7], None), r"object_id is null in 1 row \(first: row 7\)"),
        (spoiled("object_id", [7, 9], 12), r"1 object_id appears more than once \(first: 12\)"),
    ],
)
def test_bad_rows_are_named_and_nothing_is_left(
    tmp_path: Path, table: pa.Table, words: str
) -> None:
    with pytest.raises(InputError, match=words) as caught:
        sort_table(tmp_path, table)
    assert "\n" not in str(caught.value)
    assert [path.name for path in tmp_path.iterdir()] == ["source.parquet"]


def test_the_first_bad_rows_are_named_by_id(tmp_path: Path) -> None:
    table = spoiled("dec", [4, 2, 8, 9, 11, 12, 13], -91.0)
    ids = table["object_id"].to_pylist()
    first = ", ".join(f"object_id {ids[row]}" for row in (2, 4, 8, 9, 11))
    with pytest.raises(InputError, match=rf"in 7 rows \(first: {first}\)"):
        sort_table(tmp_path, table)


def test_the_edges_of_the_sky_are_inside(tmp_path: Path) -> None:
    table = pa.table({"object_id": [1, 2, 3], "ra": [0.0, 360.0, 5.0], "dec": [-90.0, 0.0, 90.0]})
    assert sort_table(tmp_path, table).num_rows == 3


@pytest.mark.parametrize("text", [False, True])
def test_duplicates_are_named_in_input_order(tmp_path: Path, text: bool) -> None:
    table = patch_of_sky(300)
    ids = table["object_id"].to_pylist()
    for row in range(8):
        ids[299 - row] = ids[20 * row + 3]
    first = ", ".join(str(ids[20 * row + 3]) for row in range(5))
    names = pa.array(map(str, ids)) if text else pa.array(ids)
    with pytest.raises(InputError, match=rf"8 object_ids appear .*\(first: {first}\)"):
        sort_table(tmp_path, table.set_column(0, "object_id", names))


@given(st.lists(st.integers(0, 60), min_size=1, max_size=200), st.integers(1, 5))
def test_duplicates_in_any_number_of_buckets(ids: list[int], buckets: int) -> None:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        rows = (buckets - 1) * 1_000_000 + 1
        with DuplicateFinder(pa.int64(), rows, Path(folder, "ids")) as finder:
            for start in range(0, len(ids), 17):
                finder.add(pa.array(ids[start : start + 17], pa.int64()))
            count, first = finder.finish(most=3)
    twice = [value for value in dict.fromkeys(ids) if ids.count(value) > 1]
    assert (count, first) == (len(twice), twice[:3])


def test_nothing_selected(tmp_path: Path) -> None:
    source = write(tmp_path / "c.parquet", patch_of_sky(10))
    catalog = open_catalog(source, select="mag > 90")
    with pytest.raises(InputError, match="no row passes --select"):
        sort_catalog(catalog, tmp_path / "out" / "catalog", tmp_path / "out" / ".staging")
    assert not (tmp_path / "out").exists()


def test_a_full_disk_while_sorting(tmp_path: Path, small_disk: Path) -> None:
    source = write(tmp_path / "c.parquet", patch_of_sky(60_000))
    out = small_disk / "out"
    with pytest.raises(OutsideFault, match="No space left on device"):
        sort_catalog(open_catalog(source), out / "catalog", out / ".staging", run_bytes=200_000)
    assert list(small_disk.iterdir()) == []


def test_merging_holds_blocks_and_not_runs(tmp_path: Path) -> None:
    """A merge hands rows on while most of them are still on the disk."""
    rng = np.random.default_rng(2)
    for number in range(4):
        index = rng.integers(0, 1 << 60, 50_000)
        ids = np.arange(50_000) + number * 50_000
        batch = pa.record_batch({"_healpix_29": index, "object_id": ids})
        write_run(tmp_path, number, [batch])
    pieces = [table.num_rows for table in merge_runs(tmp_path, memory=1 << 18)]
    assert sum(pieces) == 200_000
    assert max(pieces) < 40_000


@pytest.mark.slow
def test_memory_does_not_grow_with_the_catalogue(tmp_path: Path) -> None:
    """Peak resident memory of a process that sorts five times the rows of another."""
    code = """
import sys
from pathlib import Path
from survey_gampen.catalog import buckets, open_catalog, sort_catalog
buckets._BUCKET_ROWS = 50_000
catalog, out = open_catalog(sys.argv[1], extra=["name"]), Path(sys.argv[2])
sort_catalog(catalog, out / "catalog", out / ".staging", run_bytes=8 << 20)
"""
    peaks = []
    for rows in (200_000, 1_000_000):
        table = patch_of_sky(rows).append_column("name", pa.array(["x" * 200] * rows))
        source = write(tmp_path / f"{rows}.parquet", table, row_group_size=50_000)
        peaks.append(peak_memory(code, source, tmp_path / f"{rows}.out"))
    # The 800 000 rows more are 180 MB.
    assert peaks[1] - peaks[0] < 90
