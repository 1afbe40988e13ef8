"""A HATS catalogue read where it lies gives what a sorted copy would give."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogservers import WebServer
from hatsinput import in_place, leaf_files, same_rows, write_hats
from hypothesis import given
from hypothesis import strategies as st
from skies import patch_of_sky

from survey_gampen.catalog import (
    hats_in,
    hats_scan,
    open_catalog,
    read_rows,
    sort_catalog,
)
from survey_gampen.catalog.hats_scan import use_in_place
from survey_gampen.catalog.selection import Tally
from survey_gampen.catalog.sorted import iter_index
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.run.plan import cut, make_plan


@st.composite
def galaxies(draw: st.DrawFn) -> pa.Table:
    """Rows of a few clumps, some of them at one place; ids and positions of several types."""
    n = draw(st.integers(1, 250))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    centres = rng.uniform((0, -60), (360, 80), (draw(st.integers(1, 4)), 2))
    spread = 10.0 ** rng.uniform(-5, 0.5, n)
    ra, dec = (centres[rng.integers(0, len(centres), n)] + spread[:, None] * rng.random((n, 2))).T
    ra %= 360
    again = rng.integers(0, n, draw(st.integers(0, n)))
    ra[: again.size], dec[: again.size] = ra[again], dec[again]
    kind = draw(st.sampled_from([np.float64, np.float32]))
    numbers = rng.permutation(n).astype(np.uint64)
    names = {
        "signed": pa.array(numbers.astype(np.int64) - n // 2),
        "unsigned": pa.array(numbers + np.uint64(2**64 - 1 - n)),
        "short": pa.array(numbers.astype(np.int16)),
        "text": pa.array([f"J{number}" for number in numbers.tolist()]),
        "coded": pa.array([f"J{number}" for number in numbers.tolist()]).dictionary_encode(),
    }
    return pa.table(
        {
            "object_id": names[draw(st.sampled_from(sorted(names)))],
            "ra": np.minimum(ra, 359.99).astype(kind),
            "dec": dec.astype(kind),
            "mag": pa.array(rng.normal(20, 2, n).astype(np.float32), mask=rng.random(n) < 0.1),
            "field": rng.choice(["XMM", "GAMA", "VVDS"], n),
        },
    )


@pytest.mark.slow
@given(
    table=galaxies(),
    leaf_rows=st.sampled_from([1, 10, 60, 1000]),
    group_rows=st.sampled_from([1, 7, 1000]),
    partition_rows=st.sampled_from([1, 8, 50, 1000]),
    select=st.sampled_from([None, "mag < 20", "field == 'XMM' or mag > 21", "@cut and dec > 0"]),
    limit=st.sampled_from([None, 1, 20, 10_000]),
    extra=st.sampled_from([(), ("mag",), ("field", "mag")]),
)
def test_rows_order_and_plan_are_those_of_a_copy(
    table: pa.Table,
    leaf_rows: int,
    group_rows: int,
    partition_rows: int,
    select: str | None,
    limit: int | None,
    extra: tuple[str, ...],
) -> None:
    """Leaves larger than a partition and smaller, of several orders, and of any kind of rows."""
    with tempfile.TemporaryDirectory() as name:
        out = Path(name)
        hats = write_hats(out / "hats", table, leaf_rows, group_rows)
        cuts = {"cut": "mag < 22 or mag is None"}
        options = {"select": select, "limit": limit, "extra": extra, "cuts": cuts}
        tallies = Tally(), Tally()
        catalog = open_catalog(hats, **options)
        copied = outcome(sort_catalog, catalog, out / "copy", out / ".staging", tally=tallies[0])
        kept = outcome(use_in_place, catalog, out / "record", out / ".staging", tally=tallies[1])
        assert kept == copied
        assert tallies[0] == tallies[1]
        if isinstance(kept, str):
            assert "no row passes --select" in kept
            return
        assert same_rows(out / "copy", out / "record", partition_rows)
        assert not (out / ".staging").exists()


def outcome(function: Callable[..., int], *arguments: object, **options: object) -> int | str:
    try:
        return function(*arguments, **options)
    except InputError as error:
        return str(error)


@given(
    counts=st.lists(st.integers(1, 40), min_size=1, max_size=30),
    seed=st.integers(0, 2**32),
    partition_rows=st.integers(1, 100),
)
def test_counts_in_pixels_give_the_plan_of_all_rows(
    counts: list[int], seed: int, partition_rows: int
) -> None:
    """Where no pixel that was counted has more rows than a partition; else all are gone over."""
    rng = np.random.default_rng(seed)
    cells = np.sort(rng.choice(200, len(counts), replace=False)) + 4_000_000
    index = np.repeat(cells << hats_in.CELL_BITS, counts)
    index = np.sort(index + rng.integers(0, 1 << hats_in.CELL_BITS, index.size))
    counted = np.repeat(cells << hats_in.CELL_BITS, counts)
    expected = list(cut([index], partition_rows))
    if max(counts) <= partition_rows:
        assert list(cut([counted], partition_rows)) == expected


def test_the_plan_of_a_large_catalogue_needs_no_second_pass(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hats = write_hats(tmp_path / "hats", patch_of_sky(20_000), 3000)
    monkeypatch.setattr(hats_scan, "_CELLS_AT_ONCE", 500)
    monkeypatch.setattr(hats_scan, "_PIECES_AT_ONCE", 3)
    record = in_place(hats, tmp_path / "out")
    sort_catalog(open_catalog(hats), tmp_path / "copy", tmp_path / ".staging")
    shutil.rmtree(hats / "dataset")
    for partition_rows in (100, 900, 100_000):
        found = list(make_plan(record, partition_rows))
        assert found == list(make_plan(tmp_path / "copy", partition_rows))
        assert sum(each.rows for each in found) == 20_000
    pieces = list(iter_index(record, 999, 100))
    assert len(pieces) > 10
    assert max(piece.size for piece in pieces) < 1100
    with pytest.raises(OutsideFault):  # pixels of fewer rows than that were not counted
        list(make_plan(record, 1))


def test_the_record_is_small(tmp_path: Path) -> None:
    table = patch_of_sky(60_000)
    for number in range(5):
        column = pa.array(np.random.default_rng(number).normal(size=60_000))
        table = table.append_column(f"x{number}", column)
    hats = write_hats(tmp_path / "hats", table, 20_000, 20_000)
    record = in_place(hats, tmp_path / "out", extra=[f"x{number}" for number in range(5)])
    copied = sum(file.stat().st_size for file in leaf_files(hats))
    assert sum(file.stat().st_size for file in record.iterdir()) < 0.01 * copied


@pytest.mark.parametrize("extra", [(), ("mag",)])
def test_a_worker_reads_the_row_groups_of_its_partition(
    tmp_path: Path, extra: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A partition costs the same in a leaf of a thousand row groups as in one of ten."""
    hats = write_hats(tmp_path / "hats", patch_of_sky(20_000), 20_000, 100)
    assert len(leaf_files(hats)) == 1
    record = in_place(hats, tmp_path / "out", extra=extra)
    read: list[tuple[list, ...]] = []
    iterate = pq.ParquetFile.iter_batches

    def noted(self: pq.ParquetFile, rows: int, *which: list) -> Iterator[pa.RecordBatch]:
        if len(which) == 2:  # a row group, and columns of it
            read.append(which)
        return iterate(self, rows, *which)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    plan = list(make_plan(record, 300))
    for partition in plan:
        read.clear()
        read_rows(record, partition.norder, partition.npix)
        assert len(read) <= partition.rows / 100 + 2
        assert {name for _, names in read for name in names} == {"object_id", "ra", "dec", *extra}


def test_planning_reads_only_what_names_places_and_selects_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    table = patch_of_sky(50_000)
    for number in range(20):
        table = table.append_column(f"x{number}", pa.array(rng.normal(size=50_000)))
    hats = write_hats(tmp_path / "served" / "hats", table, 60_000, 10_000)
    size = leaf_files(hats)[0].stat().st_size
    with WebServer(tmp_path / "served") as server:
        catalog = open_catalog(f"{server.url}/hats", select="mag < 20")
        use_in_place(catalog, tmp_path / "out" / "catalog", tmp_path / "out" / ".staging")
        assert server.sent < 0.3 * size
        before = server.sent
        read_rows(tmp_path / "out" / "catalog", 9, 0)
        assert server.sent == before
        partition = next(make_plan(tmp_path / "out" / "catalog", 2000))
        before = server.sent
        read_rows(tmp_path / "out" / "catalog", partition.norder, partition.npix)
        assert 0 < server.sent - before < 0.1 * size
