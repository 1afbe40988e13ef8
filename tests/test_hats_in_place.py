"""A HATS catalogue read where it lies gives what a sorted copy would give, or is copied."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogservers import WebServer
from hats.pixel_math.spatial_index import compute_spatial_index
from hypothesis import given
from hypothesis import strategies as st
from skies import patch_of_sky, write
from smallrun import Sky, call, leaves, rows, status, verb, write_model, write_sky

from survey_gampen import storage, stores
from survey_gampen.catalog import (
    Catalog,
    hats_in,
    hats_scan,
    iter_rows,
    open_catalog,
    read_rows,
    sort_catalog,
)
from survey_gampen.catalog.hats_in import read_record
from survey_gampen.catalog.hats_scan import NotInPlace, use_in_place
from survey_gampen.catalog.selection import Tally
from survey_gampen.catalog.sorted import Cursor, iter_index, sorted_schema
from survey_gampen.config import Settings
from survey_gampen.errors import InputError, OutsideFault, UnreadableFile
from survey_gampen.net.waiting import Patience
from survey_gampen.run import setup
from survey_gampen.run.folder import folder
from survey_gampen.run.layout import RunDir
from survey_gampen.run.measure import Measured
from survey_gampen.run.plan import Partition, cut, make_plan
from survey_gampen.run.rows import check_leaves
from survey_gampen.run.spec import read_spec


def index_of(table: pa.Table) -> np.ndarray:
    ra, dec = (table[name].to_numpy().astype(np.float64) for name in ("ra", "dec"))
    return np.asarray(compute_spatial_index(ra, dec), np.int64)


def write_hats(root: Path, table: pa.Table, leaf_rows: int, group_rows: int = 1000) -> Path:
    """A HATS catalogue of leaves of several orders; rows at one place keep their order."""
    index = index_of(table)
    order = np.argsort(index, kind="stable")
    index, table = index[order], table.take(pa.array(order))
    table = table.add_column(0, "_healpix_29", pa.array(index))
    lines, start = ["Norder,Npix"], 0
    for leaf in cut([index], leaf_rows):
        name = leaf_name(leaf)
        write(root / name, table.slice(start, leaf.rows), row_group_size=group_rows)
        lines.append(f"{leaf.norder},{leaf.npix}")
        start += leaf.rows
    (root / "partition_info.csv").write_text("\n".join(lines) + "\n")
    (root / "hats.properties").write_text("obs_collection=x\ndataproduct_type=object\n")
    return root


def leaf_name(leaf: Partition) -> str:
    folder = f"dataset/Norder={leaf.norder}/Dir={leaf.npix // 10_000 * 10_000}"
    return f"{folder}/Npix={leaf.npix}.parquet"


def leaf_files(root: Path) -> list[Path]:
    return sorted((root / "dataset").rglob("*.parquet"))


def in_place(root: Path | str, out: Path, **options: object) -> Path:
    """The record of a catalogue, made in `out`."""
    use_in_place(open_catalog(root, **options), out / "catalog", out / ".staging")
    assert not (out / ".staging").exists()
    return out / "catalog"


def same_rows(copy: Path, record: Path, partition_rows: int) -> int:
    """Compare what a run reads of both, of a dozen partitions; how many there are."""
    assert sorted_schema(record).equals(sorted_schema(copy), check_metadata=True)
    plan = list(make_plan(copy, partition_rows))
    assert list(make_plan(record, partition_rows)) == plan
    names = ("_healpix_29", "object_id")
    for each in plan[:: 1 + len(plan) // 12]:
        pixel = each.norder, each.npix
        expected = read_rows(copy, *pixel)
        found = read_rows(record, *pixel)
        assert found.schema.equals(expected.schema, check_metadata=True)
        assert found.equals(expected)
        assert read_rows(record, *pixel, names).equals(expected.select(names))
        batches = list(iter_rows(record, *pixel, rows=7))
        assert max(batch.num_rows for batch in batches) <= 7
        assert pa.Table.from_batches(batches).equals(expected)
        cursor = Cursor(record, *pixel)
        taken = [cursor.take(size) for size in (1, 5, each.rows)]
        assert pa.concat_tables(taken).equals(expected)
    assert read_rows(record, 3, 704).num_rows == 0  # nothing lies at the south pole
    return len(plan)


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


def spoil_order(root: Path) -> None:
    file = leaf_files(root)[-1]
    table = pq.read_table(file)
    pq.write_table(table.take(pa.array(np.arange(table.num_rows)[::-1])), file)


def spoil_types(root: Path) -> None:
    file = leaf_files(root)[-1]
    table = pq.read_table(file)
    place = table.schema.get_field_index("mag")
    pq.write_table(table.set_column(place, "mag", table["mag"].cast(pa.float64())), file)


def spoil_units(root: Path) -> None:
    for file in leaf_files(root):
        table = pq.read_table(file)
        for name in ("ra", "dec"):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pa.array(np.radians(table[name].to_numpy())))
        pq.write_table(table, file)


def interleave(root: Path) -> None:
    """Each pixel a folder of two files, with every other row."""
    for file in leaf_files(root):
        table = pq.read_table(file)
        file.unlink()
        for part in range(2):
            some = table.take(pa.array(np.arange(part, table.num_rows, 2)))
            write(file.with_suffix("") / f"{part}.parquet", some)
    with (root / "hats.properties").open("a") as properties:
        properties.write("hats_npix_suffix=/\n")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (spoil_order, "rows of dataset/.* are not in order of position"),
        (spoil_types, "column 'mag' is not of one type in all leaves"),
        (spoil_units, "rows of dataset/.* are not in order of position"),
        (interleave, "rows of dataset/.*/1.parquet are not in order of position"),
    ],
)
def test_what_cannot_be_read_in_place_is_copied(
    tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    """As before, with a line that says why."""
    hats = write_hats(tmp_path / "hats", patch_of_sky(2000), 300)
    spoil(hats)
    options = {"select": "mag > 0", "extra": ["mag"]}
    with pytest.raises(NotInPlace, match=why):
        in_place(hats, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    inputs = inputs_of(open_catalog(hats, **options))
    run = RunDir(tmp_path / "run")
    assert setup.sort_rows(run, inputs, run.staging("a")) == 2000
    assert inputs.reading.startswith("catalogue: copied in order of position, for ")
    assert inputs.tally.read == 2000
    sort_catalog(open_catalog(hats, **options), tmp_path / "copy", tmp_path / ".staging")
    assert read_record(run.catalog) is None
    assert same_rows(tmp_path / "copy", run.catalog, 100)


def inputs_of(catalog: Catalog) -> setup.Inputs:
    return setup.Inputs(None, catalog, None, None, None)  # type: ignore[arg-type]


def test_a_column_that_nobody_needs_may_differ(tmp_path: Path) -> None:
    hats = write_hats(tmp_path / "hats", patch_of_sky(2000), 300)
    spoil_types(hats)
    assert read_record(in_place(hats, tmp_path / "out")) is not None


@pytest.mark.parametrize("most", [99, 100])
def test_too_many_rows_at_one_place(
    tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several row groups, too; they would be held in memory to be put in order."""
    table = patch_of_sky(400)
    ra, dec = table["ra"].to_numpy().copy(), table["dec"].to_numpy().copy()
    ra[:100], dec[:100] = 151.0, 3.0
    table = table.set_column(1, "ra", pa.array(ra)).set_column(2, "dec", pa.array(dec))
    hats = write_hats(tmp_path / "hats", table, 500, 30)
    monkeypatch.setattr(hats_scan, "MOST_AT_ONE_PLACE", most)
    if most == 100:
        sort_catalog(open_catalog(hats), tmp_path / "copy", tmp_path / ".staging")
        assert same_rows(tmp_path / "copy", in_place(hats, tmp_path / "out"), 20)
    else:
        with pytest.raises(NotInPlace, match="more than 99 rows at one position"):
            in_place(hats, tmp_path / "out")


def test_other_catalogues_are_copied_without_a_word(tmp_path: Path) -> None:
    inputs = inputs_of(open_catalog(write(tmp_path / "c.parquet", patch_of_sky(50))))
    run = RunDir(tmp_path / "run")
    assert setup.sort_rows(run, inputs, run.staging("a")) == 50
    assert inputs.reading == ""
    assert read_record(run.catalog) is None


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("object_id", {3: 10**15, 77: 10**15}, "object_id"),
        ("object_id", {5: None}, "object_id is null in 1 row"),
        ("dec", {5: float("nan"), 6: None}, "dec is null or not finite in 2 rows"),
        ("ra", {5: 400.0}, "ra is outside 0 to 360 degrees"),
    ],
)
def test_bad_rows_are_refused_in_the_same_words(
    tmp_path: Path, column: str, values: dict[int, object], words: str
) -> None:
    hats = write_hats(tmp_path / "hats", patch_of_sky(200), 300, 40)
    file = leaf_files(hats)[0]
    table = pq.read_table(file)
    place = table.schema.get_field_index(column)
    cells = table[column].to_pylist()
    for row, value in values.items():
        cells[row] = value
    pq.write_table(table.set_column(place, column, pa.array(cells, table[column].type)), file)
    said = []
    for function in (sort_catalog, use_in_place):
        out = tmp_path / "out"
        with pytest.raises(InputError, match=words) as caught:
            function(open_catalog(hats), out / "catalog", out / ".staging")
        assert not out.exists()
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_full_disk_while_ids_are_looked_through(tmp_path: Path, small_disk: Path) -> None:
    hats = write_hats(tmp_path / "hats", patch_of_sky(90_000), 100_000, 30_000)
    out = small_disk / "out"
    with pytest.raises(OutsideFault, match="No space left on device"):
        use_in_place(open_catalog(hats), out / "catalog", out / ".staging")
    assert list(small_disk.iterdir()) == []


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Path]:
    """A catalogue of several leaves, and the record of it."""
    hats = write_hats(tmp_path / "hats", patch_of_sky(2000), 300, 100)
    return hats, in_place(hats, tmp_path / "out", extra=["mag"])


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_leaf_that_changed_is_noticed_by_who_reads_it(recorded: tuple[Path, Path]) -> None:
    hats, record = recorded
    file = leaf_files(hats)[0]
    table = pq.read_table(file)
    pq.write_table(table.slice(1), file, row_group_size=100)
    with pytest.raises(OutsideFault, match=f"{file.name} has changed since the run was") as caught:
        list(iter_index(record))
    one_line(caught)


@pytest.mark.parametrize("away", ["leaf", "catalogue"])
def test_a_leaf_that_is_gone_is_a_fault_outside(recorded: tuple[Path, Path], away: str) -> None:
    """Whoever unmounts a disk has not broken data: the run stops and can go on."""
    hats, record = recorded
    if away == "leaf":
        leaf_files(hats)[0].unlink()
    else:
        hats.rename(hats.with_name("unmounted"))
    with pytest.raises(OutsideFault, match="at planning it could be read") as caught:
        list(iter_index(record))
    one_line(caught)
    assert sorted_schema(record).names == ["_healpix_29", "object_id", "ra", "dec", "mag"]


def test_a_damaged_leaf_is_the_fault_of_its_data(recorded: tuple[Path, Path]) -> None:
    """Its footer is that of the plan: its partitions are quarantined, the others are not."""
    hats, record = recorded
    file = hats / next(hats_in.iter_pieces(record, 0, 1 << 62)).leaf  # the first on the sky
    data = bytearray(file.read_bytes())
    footer = int.from_bytes(data[-8:-4], "little") + 8
    data[4:-footer] = bytes(len(data) - footer - 4)
    file.write_bytes(data)
    with pytest.raises(UnreadableFile, match=f"{file.name} cannot be read: ") as caught:
        list(iter_index(record))
    one_line(caught)
    last = list(make_plan(record, 100))[-1]
    assert read_rows(record, last.norder, last.npix).num_rows == last.rows


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    images, catalog = write_sky(tmp_path, 40)
    hats = write_hats(tmp_path / "galaxies", pq.read_table(catalog), 12, 5)
    return Settings(
        catalog=str(hats),
        images=str(images),
        out=str(tmp_path / "run"),
        band="g",
        model=str(write_model(tmp_path / "model.safetensors")),
        passes=4,
        partition_rows=8,
    )


@pytest.fixture
def run(settings: Settings) -> RunDir:
    with folder(Path(settings.out)) as run:
        inputs = setup.open_inputs(settings, run)
        rows = setup.sort_rows(run, inputs, run.staging("000001"))
        assert "is read where it lies" in inputs.reading
        engine = {"device": "cpu", "precision": "fp32", "batch": 8, "threads": 1}
        setup.plan(run, inputs, rows, Measured(engine, 0.1), 1, run.staging("000001"))
    return run


def test_nothing_changed(run: RunDir, settings: Settings) -> None:
    check_leaves(run, read_spec(run))
    inputs = setup.open_inputs(settings, run)
    assert setup.existing(run, inputs, run.staging("000001")) == read_spec(run)


@pytest.mark.parametrize("what", ["changed", "gone", "more", "same footer"])
def test_leaves_that_changed_are_refused(run: RunDir, settings: Settings, what: str) -> None:
    hats = Path(settings.catalog)
    file = leaf_files(hats)[0]
    if what == "changed":
        table = pq.read_table(file)
        pq.write_table(table.slice(0, table.num_rows - 1), file)
    elif what == "gone":
        file.unlink()
    elif what == "more":
        with (hats / "partition_info.csv").open("a") as info:
            info.write("4,3071\n")
        write(hats / "dataset/Norder=4/Dir=0/Npix=3071.parquet", pq.read_table(file).slice(0, 1))
    else:
        data = bytearray(file.read_bytes())
        data[10] ^= 1
        file.write_bytes(data)
    with pytest.raises(InputError, match=r"has changed since|.parquet is missing") as caught:
        check_leaves(run, read_spec(run))
    if what in ("changed", "gone"):
        assert file.name in one_line(caught)
    with pytest.raises(InputError, match=r"catalogue: changed|is missing"):
        setup.existing(run, setup.open_inputs(settings, run), run.staging("000001"))


def test_a_catalogue_that_is_away_can_be_waited_for(run: RunDir, settings: Settings) -> None:
    hats = Path(settings.catalog)
    moved = hats.rename(hats.with_name("elsewhere"))
    with pytest.raises(OutsideFault, match=f"{hats} is away: bring the catalogue back") as caught:
        check_leaves(run, read_spec(run))
    assert f"--out {run.root}" in one_line(caught)
    # Told where it is now, the run goes on there.
    inputs = setup.open_inputs(replace(settings, catalog=str(moved)), run)
    assert setup.existing(run, inputs, run.staging("000001")) is not None
    check_leaves(run, read_spec(run))
    assert sum(piece.size for piece in iter_index(run.catalog)) == 40


def test_a_relative_path_is_that_of_planning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hats(tmp_path / "hats", patch_of_sky(100), 30)
    monkeypatch.chdir(tmp_path)
    record = in_place(Path("hats"), tmp_path / "out")
    monkeypatch.chdir("/")
    assert sum(piece.size for piece in iter_index(record)) == 100


@pytest.mark.slow
@pytest.mark.parametrize("small", [0, 1 << 20])
def test_from_a_web_server(tmp_path: Path, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults of the server are faults outside, whatever it answers."""
    monkeypatch.setattr("survey_gampen.catalog.files._SMALL", small)
    monkeypatch.setattr(stores, "PATIENCE", Patience(0.5, 0.01, 0.05))
    hats = write_hats(tmp_path / "served" / "hats", patch_of_sky(900), 200, 60)
    sort_catalog(open_catalog(hats), tmp_path / "copy", tmp_path / ".staging")
    with WebServer(tmp_path / "served") as server:
        record = in_place(f"{server.url}/hats", tmp_path / "out")
        for each in make_plan(record, 200):
            pixel = each.norder, each.npix
            assert read_rows(record, *pixel).equals(read_rows(tmp_path / "copy", *pixel))
        path = "/" + str(leaf_files(hats)[0].relative_to(tmp_path / "served"))
        for statuses in ([403] * 99, [503] * 99, [404] * 99):
            server.statuses[path] = statuses
            with pytest.raises(OutsideFault, match="Npix="):
                list(iter_index(record))
        server.statuses.clear()
        assert sum(piece.size for piece in iter_index(record)) == 900


@pytest.mark.slow
def test_memory_does_not_grow_with_the_catalogue(tmp_path: Path) -> None:
    """Peak resident memory of a process that plans and reads five times the rows of another."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak memory of a process is read from Linux' /proc")
    code = """
import re, sys
from pathlib import Path
from survey_gampen.catalog import buckets, open_catalog, iter_rows
from survey_gampen.catalog.hats_scan import use_in_place
from survey_gampen.run.plan import make_plan
buckets._BUCKET_ROWS = 50_000
catalog, out = open_catalog(sys.argv[1], extra=["name"]), Path(sys.argv[2])
use_in_place(catalog, out / "catalog", out / ".staging")
for partition in make_plan(out / "catalog", 5000):
    pass
found = sum(b.num_rows for npix in range(12) for b in iter_rows(out / "catalog", 0, npix))
assert found == catalog.num_rows
# Not ru_maxrss, which a process inherits from the one that started it.
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024)
"""
    peaks = []
    for count in (200_000, 1_000_000):
        table = patch_of_sky(count).append_column("name", pa.array(["x" * 200] * count))
        hats = write_hats(tmp_path / f"{count}", table, 10**7, 50_000)
        command = [sys.executable, "-c", code, str(hats), str(tmp_path / f"{count}.out")]
        peaks.append(float(subprocess.run(command, capture_output=True, check=True).stdout))
    assert peaks[1] < peaks[0] + 100


@pytest.fixture(scope="module")
def galaxies_as_hats(sky: Sky, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalogue of the sky that tests share."""
    place = tmp_path_factory.mktemp("hats") / "galaxies"
    return write_hats(place, pq.read_table(sky.catalog), 10, 4)


def words(sky: Sky, hats: Path | str, out: Path | str, *more: str) -> list[str]:
    return [str(hats) if word == str(sky.catalog) else word for word in sky.command(out, *more)]


def same_posteriors(out: Path, calm: Path) -> bool:
    return rows(out).equals(rows(calm))


@pytest.mark.slow
def test_a_run_from_end_to_end(
    sky: Sky, calm: Path, galaxies_as_hats: Path, tmp_path: Path
) -> None:
    """Each verb works; the posteriors are those of a run that has sorted the same rows."""
    hats = Path(shutil.copytree(galaxies_as_hats, tmp_path / "galaxies"))
    images = Path(shutil.copytree(sky.images, tmp_path / "images"))
    out = tmp_path / "run"
    command = [str(images) if w == str(sky.images) else w for w in words(sky, hats, out)]
    options = ("--images", images, "--survey", "hsc-wide", "--model", sky.model, "--passes", "4")
    looked = verb("inspect", hats, *options, "--out", tmp_path / "look")
    assert looked.returncode == 0, looked.stderr
    planned = call([*command, "--plan-only"])
    assert planned.returncode == 0, planned.stderr
    assert f"catalogue: {hats} is read where it lies" in planned.stdout
    assert read_record(out / "catalog") is not None

    away = hats.rename(tmp_path / "unmounted")
    stopped = verb("resume", out)
    assert stopped.returncode == 75
    assert "is away: bring the catalogue back" in stopped.stderr
    away.rename(hats)
    done = verb("resume", out)
    assert done.returncode == 0, done.stderr
    assert same_posteriors(out, calm)
    assert status(out)["galaxies"]["published"] == rows(calm).num_rows
    assert call(command).returncode == 0  # there is nothing left to do

    os.utime(next(images.iterdir()))  # images at another time are others
    file = leaf_files(hats)[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:10] + bytes([whole[10] ^ 1]) + whole[11:])
    refused = verb("resume", out, "--redo", "NO_IMAGE")
    assert refused.returncode == 2
    assert f"{hats} has changed since the run was planned" in refused.stderr
    file.write_bytes(whole)
    redone = verb("resume", out, "--redo", "NO_IMAGE")
    assert redone.returncode == 0, redone.stderr
    assert "1 partitions with NO_IMAGE are done again" in redone.stdout
    assert same_posteriors(out, calm)

    shutil.rmtree(hats)  # what is done needs it no more
    for verb_and_words in (
        ("resume", out),
        ("compact", out),
        ("report", out, "--out", tmp_path / "page.html"),
        ("join", f"a={out}", f"b={calm}", "--out", tmp_path / "both"),
    ):
        done = verb(*verb_and_words)
        assert done.returncode == 0, done.stderr
    assert same_posteriors(out, calm)


@pytest.mark.slow
def test_what_a_run_publishes_can_be_read_in_place(calm: Path, tmp_path: Path) -> None:
    """It is a HATS catalogue like any other, with ids and positions."""
    record = in_place(calm / "posteriors", tmp_path / "out", select="status != 1")
    catalog = open_catalog(calm / "posteriors", select="status != 1")
    sort_catalog(catalog, tmp_path / "copy", tmp_path / ".staging")
    assert same_rows(tmp_path / "copy", record, 8) > 3


@pytest.mark.slow
def test_a_leaf_that_changes_under_workers_stops_the_run(
    sky: Sky, galaxies_as_hats: Path, tmp_path: Path
) -> None:
    """With 75, as any fault outside the data: nothing is quarantined. When resumed, with 2."""
    hats = Path(shutil.copytree(galaxies_as_hats, tmp_path / "galaxies"))
    out = tmp_path / "run"
    assert call(words(sky, hats, out, "--plan-only")).returncode == 0
    for file in leaf_files(hats):
        pq.write_table(pq.read_table(file).slice(0, 1), file)
    code = (
        "import sys; from survey_gampen.cli import main; from survey_gampen.run import runner\n"
        "runner.check_leaves = lambda *_: None  # they were still right when it was begun\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    stopped = call([sys.executable, "-c", code, "resume", str(out)])
    assert stopped.returncode == 75, stopped.stderr
    assert "has changed since the run was planned" in stopped.stderr
    assert not list((out / "quarantine").glob("*"))
    refused = verb("resume", out)
    assert refused.returncode == 2
    assert "has changed since the run was planned (dataset/Norder=" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_of_a_catalogue_in_a_bucket(
    sky: Sky, calm: Path, galaxies_as_hats: Path, bucket: str, tmp_path: Path
) -> None:
    """Its output in a bucket as well; and another, here, goes on with the same leaves on a disk."""
    place = storage.at(f"{bucket}/{uuid.uuid4().hex}")
    there = storage.filesystem(place)
    there.put(f"{galaxies_as_hats}/", storage.name_there(place / "galaxies"), recursive=True)
    done = call(words(sky, f"{place}/galaxies", f"{place}/run"))
    assert done.returncode == 0, done.stderr
    assert "is read where it lies" in done.stdout
    assert same_posteriors(place / "run", calm)
    names = {path.name for path in (place / "run" / "catalog").iterdir()}
    assert names == {"in-place.json", "rows.parquet", "pieces.parquet", "cells.parquet"}

    out = tmp_path / "run"
    assert call(words(sky, f"{place}/galaxies", out, "--plan-only")).returncode == 0
    there.rm(storage.name_there(place / "galaxies"), recursive=True)
    stopped = verb("resume", out)
    assert stopped.returncode == 75, stopped.stderr
    done = call(words(sky, galaxies_as_hats, out))
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "catalog" / "in-place.json").read_text())["folder"] == str(
        galaxies_as_hats
    )
    assert leaves(out) == leaves(place / "run")
