"""The verb `join`: runs of several bands as one catalogue, each galaxy once, nothing mixed up."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import hats
import lsdb
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hats.io.validation import is_valid_catalog
from hypothesis import given
from hypothesis import strategies as st
from skies import patch_of_sky, planned

from survey_gampen import commit, parquet, storage
from survey_gampen.bands import join as joining
from survey_gampen.bands import rows
from survey_gampen.bands.rows import TableRows, align, blocks, take
from survey_gampen.catalog.hats_out import leaf_path, write_index
from survey_gampen.catalog.ids import id_key
from survey_gampen.catalog.sorted import read_rows, sorted_schema
from survey_gampen.cli import main
from survey_gampen.config import Settings
from survey_gampen.errors import InputError
from survey_gampen.images.status import Status
from survey_gampen.run import leaf
from survey_gampen.run.layout import RunDir
from survey_gampen.run.leaf import (
    leaf_schema,
    make_batch,
    posterior_fields,
    read_footer,
    write_leaf,
)
from survey_gampen.run.plan import read_plan
from survey_gampen.run.spec import PlanFacts, RunSpec, write_spec
from survey_gampen.survey import load_survey

#: What a column of a band is, as a function of the galaxy: so a mixed up row is found out.
OFFSETS = {"g": 1000.0, "r": 2000.0, "i": 3000.0}


def value(object_id: pa.ChunkedArray, band: str) -> np.ndarray:
    return (id_key(object_id) % np.uint64(997)).astype(np.float32) + np.float32(OFFSETS[band])


def pieces(table: pa.Table) -> Iterator[pa.Table]:
    """Rows as they come from the network: so a file's row groups have a bounded size."""
    for start in range(0, table.num_rows, 500):
        yield table.slice(start, 500)


def a_run(
    out: Path,
    table: pa.Table,
    band: str,
    *,
    partition_rows: int = 60,
    extra: tuple[str, ...] = (),
    missing: int = 0,
) -> Path:
    """A finished run without a network; the last `missing` partitions are not published."""
    planned(out, table, partition_rows, extra)
    plan = list(read_plan(out / "plan.parquet"))
    schema = leaf_schema(sorted_schema(out / "catalog"), {"fingerprint": band * 64})
    for partition in plan[: len(plan) - missing]:
        rows = read_rows(out / "catalog", partition.norder, partition.npix)
        n = rows.num_rows
        given_ = value(rows["object_id"], band)
        good = np.arange(n) % 7 != 3
        status = np.where(good, 0, int(Status.NO_IMAGE))
        columns = {field.name: given_[good] for field in posterior_fields()}
        whole = make_batch(schema, rows, band, status, [None] * n, given_, good, columns)
        commit.publish(
            leaf_path(out / "posteriors", partition.norder, partition.npix),
            lambda path, whole=whole: write_leaf(path, schema, pieces(whole)),
            lambda path: None,
            out / ".staging",
        )
    write_index(out / "posteriors", name="x", staging=out / ".staging", schema=schema)
    settings = Settings(catalog="c", images="i", out=str(out), band=band, columns=extra)
    spec = RunSpec(
        version="1",
        settings=settings,
        survey=load_survey("hsc-wide"),
        catalog_dir="catalog",
        model={"sha256": "m" * 64, "path": "m", "size": 239, "pixel_scale": 0.168},
        engine={"precision": "fp32"},
        parts={},
        fingerprint=band * 64,
        plan=PlanFacts(table.num_rows, len(plan), partition_rows, 1.0, False),
    )
    write_spec(RunDir(out), spec, out / ".staging")
    return out


def rows_of(folder: Path) -> pd.DataFrame:
    """All rows in order of object_id, read leaf by leaf."""
    files = sorted((folder / "dataset").rglob("Npix=*.parquet"))
    tables = [pq.ParquetFile(file).read() for file in files]
    return pa.concat_tables(tables).to_pandas().sort_values("object_id", ignore_index=True)


def joined(*outs: Path | str, to: Path, leaf_rows: int = 200) -> pd.DataFrame:
    assert joining.main([str(out) for out in outs], to, leaf_rows) == 0
    left = [path.name for path in to.parent.iterdir() if path.name.startswith(".")]
    assert not left  # no scratch
    return rows_of(to)


def moved(table: pa.Table, arcsec: float) -> pa.Table:
    """The same galaxies, each a little to the north."""
    dec = table["dec"].to_numpy() + arcsec / 3600
    return table.set_column(2, "dec", pa.array(dec))


SKY = patch_of_sky(900)


@pytest.fixture(scope="module")
def outs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two bands of one catalogue: the first 700 and the last 700 of 900 galaxies."""
    folder = tmp_path_factory.mktemp("outs")
    one = a_run(folder / "g", SKY.slice(0, 700), "g", extra=("mag", "field"))
    return one, a_run(folder / "r", SKY.slice(200), "r", partition_rows=150, extra=("mag",))


def test_every_galaxy_once_with_the_columns_of_its_runs(
    outs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = joined(*outs, to=tmp_path / "both")
    said = capsys.readouterr().out
    assert "900 galaxies, 500 of them in every run" in said
    assert "warning" not in said
    sky = SKY.to_pandas().sort_values("object_id", ignore_index=True)
    for name in ("object_id", "ra", "dec", "mag"):
        assert np.array_equal(rows[name], sky[name]), name
    ids = pa.chunked_array([rows["object_id"].to_numpy()])
    for band, out in zip("gr", outs, strict=True):
        alone = rows_of(out / "posteriors").set_index("object_id")
        there = rows["object_id"].isin(alone.index).to_numpy()
        assert there.sum() == 700
        status = rows[f"status_{band}"]
        assert status[~there].isna().all()
        assert np.array_equal(
            status[there].astype(int), alone.loc[rows["object_id"][there], "status"]
        )
        good = (status == 0).to_numpy()
        assert 500 < good.sum() < 700
        for name in ("flux_p50", "bt_ci99_hi", "stn_scale"):
            column = rows[f"{name}_{band}"].to_numpy()
            assert np.array_equal(column[good], value(ids, band)[good])
            assert np.isnan(column[~good]).all()
        assert np.array_equal(rows[f"replaced_{band}"][there], value(ids, band)[there])
    # An extra of one run alone is null elsewhere.
    first = sky["object_id"].isin(SKY["object_id"].to_pylist()[:700])
    assert (rows["field"][first] == sky["field"][first]).all()
    assert rows["field"][~first].isna().all()


def test_it_opens_and_says_what_it_is(outs: tuple[Path, Path], tmp_path: Path) -> None:
    both = tmp_path / "both"
    joined(*outs, to=both)
    assert is_valid_catalog(both, strict=True)
    catalog = hats.read_hats(both)
    assert catalog.catalog_info.total_rows == 900
    opened = lsdb.open_catalog(both)
    assert len(opened.compute()) == 900
    assert len(pd.read_parquet(both / "dataset")) == 900
    names = catalog.schema.names
    assert names[:6] == ["_healpix_29", "object_id", "ra", "dec", "mag", "field"]
    assert names[6:9] == ["status_g", "status_note_g", "replaced_g"]
    assert "band" not in names
    about = catalog.schema.field("flux_p50_r").metadata
    assert about[b"unit"] == b"nJy"
    assert about[b"ucd"] == b"phot.flux;stat.median"
    assert about[b"description"].endswith(b"; band r")
    leaves = sorted((both / "dataset").rglob("Npix=*.parquet"))
    assert len(leaves) > 4
    for path in leaves:
        footer = read_footer(path)
        assert footer["joined"] == "g, r"
        assert (footer["g.fingerprint"], footer["r.fingerprint"]) == ("g" * 64, "r" * 64)
        assert "SATURATED=16" in footer["status_flags"]
        assert int(footer["rows"]) <= 200


def test_three_runs_and_names(outs: tuple[Path, Path], tmp_path: Path) -> None:
    again = a_run(tmp_path / "i", SKY.slice(300, 100), "i")
    rows = joined(f"deep={outs[0]}", outs[1], again, to=tmp_path / "all")
    assert len(rows) == 900
    assert rows["status_deep"].notna().sum() == 700
    assert rows["status_i"].notna().sum() == 100
    assert "status_g" not in rows


@pytest.mark.parametrize("arcsec", [0.001, 0.6])
def test_positions_a_little_apart(
    tmp_path: Path, arcsec: float, capsys: pytest.CaptureFixture[str]
) -> None:
    """Another format took digits off: the same galaxies, in other pixels and another order."""
    one = a_run(tmp_path / "g", SKY.slice(0, 600), "g", extra=("mag",))
    other = a_run(tmp_path / "r", moved(SKY.slice(100), arcsec), "r", extra=("mag",))
    rows = joined(one, other, to=tmp_path / "both")
    assert "lie up to 1 arcsec from where a run named earlier has them" in capsys.readouterr().out
    assert len(rows) == 900
    sky = SKY.to_pandas().sort_values("object_id", ignore_index=True)
    in_one = sky["object_id"].isin(SKY["object_id"].to_pylist()[:600])
    assert np.array_equal(rows["dec"][in_one], sky["dec"][in_one])
    assert np.allclose(rows["dec"], sky["dec"], atol=1.01 * arcsec / 3600)
    both = rows["status_g"].notna() & rows["status_r"].notna()
    assert both.sum() == 500
    ids = pa.chunked_array([rows["object_id"].to_numpy()])
    good = (rows["status_r"] == 0).to_numpy()
    assert np.array_equal(rows["bt_p50_r"][good], value(ids, "r")[good])
    index = pq.ParquetFile(next((tmp_path / "both" / "dataset").rglob("Npix=*"))).read()
    assert (np.diff(index["_healpix_29"].to_numpy()) >= 0).all()


def test_positions_too_far_apart(tmp_path: Path) -> None:
    one = a_run(tmp_path / "g", SKY.slice(0, 50), "g")
    other = a_run(tmp_path / "r", moved(SKY.slice(48), 1.2), "r")
    wanted = r"object_id \d+ lies at .* in .*g and 1.2 arcsec from there in .*r \(and 1 more\)"
    with pytest.raises(InputError, match=wanted):
        joining.main([str(one), str(other)], tmp_path / "both")
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_dir()) == ["g", "r"]


def test_object_ids_are_text(tmp_path: Path) -> None:
    names = pa.array([f"J{n:04d} é{n % 3}" for n in range(900)])
    sky = SKY.set_column(0, "object_id", names)
    one = a_run(tmp_path / "g", sky.slice(0, 500), "g")
    other = a_run(tmp_path / "r", sky.slice(400), "r")
    rows = joined(one, other, to=tmp_path / "both")
    assert rows["object_id"].tolist() == sorted(names.to_pylist())
    assert (rows["status_g"].notna() & rows["status_r"].notna()).sum() == 100
    with pytest.raises(InputError, match="object_id is string in g and int64 in r"):
        joining.main([str(one), str(a_run(tmp_path / "n", SKY, "r"))], tmp_path / "none")


def test_many_at_one_place(tmp_path: Path) -> None:
    """Rows of one pixel are told apart by their object_id, over the borders of blocks too."""
    n = 40_000
    sky = pa.table({"object_id": np.arange(n), "ra": np.full(n, 150.0), "dec": np.full(n, 2.0)})
    one = a_run(tmp_path / "g", sky.slice(0, 30_000), "g")
    other = a_run(tmp_path / "r", sky.slice(9_000), "r")
    rows = joined(one, other, to=tmp_path / "both")
    assert np.array_equal(rows["object_id"], np.arange(n))
    assert (rows["status_g"].notna() & rows["status_r"].notna()).sum() == 21_000
    good = (rows["status_r"] == 0).to_numpy()
    ids = pa.chunked_array([rows["object_id"].to_numpy()])
    assert np.array_equal(rows["bt_p50_r"][good], value(ids, "r")[good])


def test_an_unfinished_run_is_told_of(
    outs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    half = a_run(tmp_path / "i", SKY, "i", missing=5)
    rows = joined(outs[0], half, to=tmp_path / "both")
    published = int(rows["status_i"].notna().sum())
    assert 0 < published < 900
    assert (
        f"warning: {half}: {published} of 900 rows are published so far" in capsys.readouterr().out
    )


def test_leaves_that_are_older_than_a_column(tmp_path: Path, outs: tuple[Path, Path]) -> None:
    old = a_run(tmp_path / "i", SKY, "i")
    leaf = sorted((old / "posteriors" / "dataset").rglob("Npix=*.parquet"))[0]
    table = pq.ParquetFile(leaf).read()
    pq.write_table(table.drop_columns(["replaced"]), leaf)
    rows = joined(outs[0], old, to=tmp_path / "both")
    assert rows["replaced_i"].isna().sum() == table.num_rows
    assert len(rows) == 900


def test_refusals_leave_nothing(outs: tuple[Path, Path], tmp_path: Path) -> None:
    one, other = map(str, outs)
    empty = a_run(tmp_path / "empty", SKY.slice(0, 5), "i", missing=1)
    clash = a_run(tmp_path / "clash", SKY.append_column("bt_mode_r", SKY["mag"]), "i",
                  extra=("bt_mode_r",))  # fmt: skip
    kind = a_run(
        tmp_path / "kind", SKY.set_column(3, "mag", SKY["mag"].cast("float64")), "i", extra=("mag",)
    )
    there = {path.name for path in tmp_path.iterdir()}
    new = tmp_path / "new"
    for words, said in (
        ([one], "give two or more"),
        ([one, f"r={one}"], "is given twice"),
        ([one, f"G={other}"], "are both called G: name one"),
        ([one, str(tmp_path)], "holds no planned run"),
        ([one, str(empty)], "nothing is published"),
        ([one, f"a-b={other}"], "holds no planned run"),
        ([one, other, str(clash)], "two columns would be called bt_mode_r"),
        ([one, str(kind)], "column mag is float in g and double in i"),
    ):
        with pytest.raises(InputError, match=said):
            joining.main(words, new)
        assert {path.name for path in tmp_path.iterdir()} == there
    with pytest.raises(InputError, match="is there already"):
        joining.main([one, other], tmp_path / "kind")


def test_a_damaged_file(
    outs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = a_run(tmp_path / "i", SKY, "i")
    leaf = sorted((bad / "posteriors" / "dataset").rglob("Npix=*.parquet"))[3]
    data = bytearray(leaf.read_bytes())
    data[100:3000] = bytes(2900)  # pages; the footer stays whole
    leaf.write_bytes(data)
    assert main(["join", str(outs[0]), str(bad), "--out", str(tmp_path / "new")]) == 3
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{leaf} cannot be read" in line
    assert sorted(path.name for path in tmp_path.iterdir()) == ["i", "i.parquet"]


def test_the_verb(
    outs: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    new = tmp_path / "deeper" / "new"
    assert main(["join", *map(str, outs), "--out", str(new)]) == 0
    assert str(new) in capsys.readouterr().out
    assert len(rows_of(new)) == 900


KEYS = st.lists(
    st.sets(st.tuples(st.integers(0, 6), st.integers(0, 6)), max_size=30), min_size=1, max_size=4
)


@given(KEYS, st.integers(1, 5), st.booleans())
def test_align_is_an_outer_join(runs: list[set[tuple[int, int]]], size: int, as_text: bool) -> None:
    """Whatever the keys and the sizes of blocks: each key once, in order, with all its rows."""
    name: Callable[[int], int | str] = (lambda n: "é" * n) if as_text else (lambda n: n)
    kind = pa.string() if as_text else pa.int64()

    def stream(keys: set[tuple[int, int]]) -> TableRows:
        rows = sorted(keys)
        index = pa.array([row[0] for row in rows], pa.int64())
        ids = pa.array([name(row[1]) for row in rows], kind)
        table = pa.table({"_healpix_29": index, "object_id": ids})
        return TableRows(table.slice(start, size) for start in range(0, len(rows), size))

    found: list[tuple[list[tuple[object, object]], ...]] = []
    for tables in blocks([stream(keys) for keys in runs]):
        places = align(tables)
        columns = []
        for table, where in zip(tables, places, strict=True):
            if table is None:
                columns.append([(None, None)] * places.shape[1])
            else:
                both = (take(table[key], where).to_pylist() for key in table.schema.names)
                columns.append(list(zip(*both, strict=True)))
        found += zip(*columns, strict=True)
    wanted = [
        tuple((a, name(b)) if (a, b) in keys else (None, None) for keys in runs)
        for a, b in sorted(set().union(*runs))
    ]
    assert found == wanted


@pytest.mark.slow
def test_runs_and_catalogue_in_an_object_store(
    outs: tuple[Path, Path], tmp_path: Path, bucket: str
) -> None:
    there = f"{bucket}/{tmp_path.name}"
    for out in outs:
        storage.put_folder(out, storage.at(f"{there}/{out.name}"))
    words = [f"{there}/{out.name}" for out in outs]
    assert main(["join", *words, "--out", f"{there}/both"]) == 0
    place = storage.at(f"{there}/both")
    opened = lsdb.open_catalog(place)
    assert len(opened.compute()) == 900
    local = joined(*outs, to=tmp_path / "both", leaf_rows=1_000_000)
    (leaf,) = place.rglob("Npix=*.parquet")
    rows = parquet.read_table(leaf).to_pandas().sort_values("object_id", ignore_index=True)
    assert rows.equals(local)
    with pytest.raises(InputError, match="is there already"):
        joining.main(words, place)


@pytest.mark.slow
@pytest.mark.parametrize("killed_at", ["dataset", "index"])
def test_a_join_that_was_killed_in_an_object_store_goes_on(
    killed_at: str,
    outs: tuple[Path, Path],
    tmp_path: Path,
    bucket: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    place = storage.at(f"{bucket}/{tmp_path.name}/both")
    words, whole = [str(out) for out in outs], storage.put_folder

    def put_half(source: Path, final: Path) -> None:
        files = sorted(path for path in source.rglob("*") if path.is_file())
        leaves = [path for path in files if path.suffix == ".parquet"]
        some = leaves[: len(leaves) // 2] if killed_at == "dataset" else [*leaves, files[-1]]
        for path in some:
            storage.put(path, final / path.relative_to(source).as_posix())
        raise KeyError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(storage, "put_folder", put_half)
        with pytest.raises(KeyError):
            joining.main(words, place, 200)
    assert place.exists()
    with pytest.raises(InputError, match="part of another join"):
        joining.main(words, place, 300)
    with pytest.raises(InputError, match="part of another join"):
        joining.main([words[0], f"z={words[1]}"], place, 200)
    assert joining.main(words, place, 200) == 0
    assert storage.put_folder is whole
    local = joined(*outs, to=tmp_path / "both")
    files = sorted(place.rglob("Npix=*.parquet"), key=str)
    assert len(files) > 2
    tables = pa.concat_tables([parquet.read_table(file) for file in files])
    rows = tables.to_pandas().sort_values("object_id", ignore_index=True)
    assert rows.equals(local)
    assert {path.name for path in place.iterdir()} == {
        path.name for path in (tmp_path / "both").iterdir()
    }
    with pytest.raises(InputError, match="is there already"):
        joining.main(words, place, 200)


@pytest.mark.slow
def test_memory_does_not_grow_with_the_catalogue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    peak, join = 0, joining.Columns.join

    def watched(*args: object) -> pa.Table:
        nonlocal peak
        table = join(*args)  # type: ignore[arg-type]
        peak = max(peak, pa.total_allocated_bytes())
        return table

    monkeypatch.setattr(joining.Columns, "join", watched)
    for module in (rows, leaf):  # small blocks, so that both catalogues have many
        monkeypatch.setattr(module, "ROWS_AT_ONCE", 2_000)
    grown = []
    for n in (20_000, 100_000):
        sky = patch_of_sky(n)
        one, other = (a_run(tmp_path / f"{b}{n}", sky, b, partition_rows=n // 3) for b in "gr")
        peak, before = 0, pa.total_allocated_bytes()
        assert joining.main([str(one), str(other)], tmp_path / f"both{n}", n) == 0
        grown.append(peak - before)
    assert grown[1] < 1.3 * grown[0]
