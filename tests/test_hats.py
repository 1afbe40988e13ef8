"""The published catalogue opens everywhere, at any moment, with each row once."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import duckdb
import hats
import lsdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hats.io.validation import is_valid_catalog
from hypothesis import given
from hypothesis import strategies as st
from skies import patch_of_sky, planned

from survey_gampen import commit
from survey_gampen.catalog import compact, read_rows
from survey_gampen.catalog.hats_out import Pixel, PublishedSet, leaf_path, published, write_index
from survey_gampen.errors import InputError
from survey_gampen.run.plan import Partition, read_plan


def publish_leaf(out: Path, partition: Partition) -> None:
    """What a run publishes, with one result column instead of fifty."""
    rows = read_rows(out / "catalog", partition.norder, partition.npix)
    table = rows.append_column(
        pa.field("flux_p50", pa.float32(), metadata={"unit": "nJy"}),
        pa.array(rows["ra"].to_numpy() * 10, pa.float32()),
    ).replace_schema_metadata(
        {"survey_gampen.fingerprint": "f" * 64, "survey_gampen.partition": partition.name}
    )
    final = leaf_path(out / "posteriors", partition.norder, partition.npix)
    done = commit.publish(
        final, lambda path: pq.write_table(table, path), lambda path: None, out / ".staging"
    )
    assert done


def run_of(folder: Path, n: int = 1500, partition_rows: int = 60, missing: int = 0) -> Path:
    """A run's folder whose partitions are published, but for the last `missing` ones."""
    out = planned(folder / "out", patch_of_sky(n), partition_rows)
    plan = list(read_plan(out / "plan.parquet"))
    for partition in plan[: len(plan) - missing]:
        publish_leaf(out, partition)
    index(out)
    return out


def index(out: Path) -> int:
    return write_index(out / "posteriors", name="test", staging=out / ".staging")


def seen(out: Path) -> list[int]:
    """The object_ids that a reader finds who follows partition_info.csv."""
    posteriors = out / "posteriors"
    info = pd.read_csv(posteriors / "partition_info.csv")
    paths = [
        leaf_path(posteriors, int(o), int(n)) for o, n in zip(info.Norder, info.Npix, strict=True)
    ]
    return sorted(name for path in paths for name in pq.read_table(path)["object_id"].to_pylist())


def everything(n: int = 1500) -> list[int]:
    return sorted(patch_of_sky(n)["object_id"].to_pylist())


def test_it_opens_with_everything(tmp_path: Path) -> None:
    out = run_of(tmp_path, missing=3)
    posteriors = out / "posteriors"
    half = seen(out)
    assert 0 < len(half) < 1500
    assert is_valid_catalog(posteriors, strict=True)
    catalog = hats.read_hats(posteriors)
    assert catalog.catalog_info.total_rows == len(half)
    assert catalog.catalog_info.ra_column == "ra"
    assert catalog.schema.field("flux_p50").metadata[b"unit"] == b"nJy"
    assert sorted(lsdb.open_catalog(posteriors).compute()["object_id"]) == half
    around = lsdb.open_catalog(posteriors).cone_search(ra=151, dec=3, radius_arcsec=1800)
    assert 0 < len(around.compute()) < len(half)
    assert sorted(pd.read_parquet(posteriors / "dataset")["object_id"]) == half
    leaves = str(posteriors / "dataset" / "**" / "*.parquet")
    assert duckdb.sql(f"select count(*) from '{leaves}'").fetchall() == [(len(half),)]
    assert pl.scan_parquet(leaves).select(pl.len()).collect().item() == len(half)


def test_no_leaf_yet(tmp_path: Path) -> None:
    out = planned(tmp_path / "out", patch_of_sky(10), 100)
    schema = read_rows(out / "catalog", 0, 0).schema
    posteriors = out / "posteriors"
    assert write_index(posteriors, name="none", staging=out / ".staging", schema=schema) == 0
    assert hats.read_hats(posteriors).catalog_info.total_rows == 0
    assert len(hats.read_hats(posteriors).get_healpix_pixels()) == 0
    assert compact.compact(out, out / ".staging") == 0


def test_the_index_is_the_same_for_the_same_leaves(tmp_path: Path) -> None:
    out = run_of(tmp_path)
    names = ("hats.properties", "properties", "partition_info.csv", "dataset/_common_metadata")
    before = [(out / "posteriors" / name).read_bytes() for name in names]
    assert index(out) == 1500
    assert [(out / "posteriors" / name).read_bytes() for name in names] == before
    assert not list((out / ".staging").iterdir())


def test_an_order_as_fine_as_it_gets(tmp_path: Path) -> None:
    """Galaxies at one place end in a leaf of order 29, and readers cope."""
    table = patch_of_sky(30)
    place = pa.array([150.5] * 30)
    table = table.set_column(1, "ra", place).set_column(2, "dec", place.cast(pa.float64()))
    table = table.set_column(2, "dec", pa.array([2.5] * 30))
    out = planned(tmp_path / "out", table, 10)
    (partition,) = read_plan(out / "plan.parquet")
    assert (partition.norder, partition.rows) == (29, 30)
    publish_leaf(out, partition)
    index(out)
    assert len(lsdb.open_catalog(out / "posteriors").compute()) == 30


Leaf = tuple[int, int]
PIXELS = st.lists(
    st.integers(0, 4).flatmap(
        lambda order: st.tuples(st.just(order), st.integers(0, 12 * 4**order - 1))
    ),
    max_size=30,
    unique=True,
)


def inside(inner: Leaf, outer: Leaf) -> bool:
    return inner[0] >= outer[0] and inner[1] >> 2 * (inner[0] - outer[0]) == outer[1]


@given(PIXELS, PIXELS)
def test_the_outermost_leaf_counts(
    leaves: list[tuple[int, int]], asked: list[tuple[int, int]]
) -> None:
    found = PublishedSet(Pixel(*leaf) for leaf in leaves)
    outer = {a for a in leaves if not any(a != b and inside(a, b) for b in leaves)}
    assert set(found) == outer
    assert len(found) == len(outer)
    assert set(found.shadowed) == set(leaves) - outer
    for pixel in asked:
        holders = [leaf for leaf in outer if inside(pixel, leaf)]
        assert found.covers(Pixel(*pixel)) == bool(holders)
        assert found.leaf_of(Pixel(*pixel)) == (holders[0] if holders else None)


def small_compact(out: Path) -> int:
    return compact.compact(out, out / ".staging", smallest=100, largest=500)


def test_compact_and_expand(tmp_path: Path) -> None:
    out = run_of(tmp_path)
    plan = list(read_plan(out / "plan.parquet"))
    before = {p.name: leaf_path(out / "posteriors", p.norder, p.npix) for p in plan}
    content = {name: pq.read_table(path) for name, path in before.items()}
    made = small_compact(out)
    assert made > 1
    index(out)
    leaves = published(out / "posteriors")
    assert len(leaves) < len(plan) / 2
    assert leaves.shadowed == []
    assert seen(out) == everything()
    assert all(leaves.covers(partition) for partition in plan)
    sizes = {
        leaf: pq.read_metadata(leaf_path(out / "posteriors", *leaf)).num_rows for leaf in leaves
    }
    assert max(sizes.values()) <= 500
    for leaf, size in sizes.items():
        # Small ones stay only beside so many others that all together would be too large.
        parent = (leaf.norder - 1, leaf.npix >> 2)
        family = sum(rows for other, rows in sizes.items() if inside(other, parent))
        assert size >= 100 or leaf.norder == 0 or family > 500
    merged = next(leaf for leaf in leaves if leaf not in {(p.norder, p.npix) for p in plan})
    footer = pq.read_schema(leaf_path(out / "posteriors", *merged)).metadata
    assert footer[b"survey_gampen.fingerprint"] == b"f" * 64
    assert is_valid_catalog(out / "posteriors", strict=True)
    assert len(lsdb.open_catalog(out / "posteriors").compute()) == 1500
    assert small_compact(out) == 0
    # Into one: what was merged before is merged again, and knows its parts.
    assert compact.compact(out, out / ".staging", smallest=5000, largest=5000) >= 1
    index(out)
    assert seen(out) == everything()
    assert compact.expand(out, plan, out / ".staging") >= 1
    index(out)
    assert set(published(out / "posteriors")) == {(p.norder, p.npix) for p in plan}
    assert seen(out) == everything()
    for name, path in before.items():
        again = pq.read_table(path)
        assert again.equals(content[name])
        assert again.schema.equals(content[name].schema, check_metadata=True)


def test_leaves_older_than_a_column_are_merged(tmp_path: Path) -> None:
    """A newer version went on with the run and its leaves have a column more."""
    out = run_of(tmp_path, n=300)
    leaves = [leaf_path(out / "posteriors", *pixel) for pixel in published(out / "posteriors")]
    newer = pq.read_table(leaves[-1])
    column = pa.array(range(newer.num_rows), pa.float32())
    pq.write_table(newer.append_column("replaced", column), leaves[-1])
    assert compact.compact(out, out / ".staging") == 1
    (whole,) = (leaf_path(out / "posteriors", *pixel) for pixel in published(out / "posteriors"))
    rows = pq.read_table(whole)
    assert rows["replaced"].null_count == 300 - newer.num_rows
    kept = {
        n: v for n, v in zip(*rows.select(["object_id", "replaced"]), strict=True) if v.is_valid
    }
    assert [kept[name].as_py() for name in newer["object_id"]] == list(range(newer.num_rows))


def test_what_is_not_whole_is_not_merged(tmp_path: Path) -> None:
    """A partition that is quarantined keeps its neighbours small, and can still be published."""
    out = run_of(tmp_path, missing=2)
    plan = list(read_plan(out / "plan.parquet"))
    compact.compact(out, out / ".staging")
    index(out)
    leaves = published(out / "posteriors")
    assert [leaves.covers(partition) for partition in plan] == [True] * (len(plan) - 2) + [
        False
    ] * 2
    for partition in plan[-2:]:
        publish_leaf(out, partition)
    assert compact.compact(out, out / ".staging") >= 1
    index(out)
    assert seen(out) == everything()


def test_compact_needs_a_run(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no run"):
        compact.compact(tmp_path, tmp_path / ".staging")


class Killed(BaseException):
    """Stands for kill -9 between two steps."""


@pytest.mark.parametrize("work", ["compact", "expand"])
def test_killed_between_any_two_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, work: str
) -> None:
    """After every single publication, replacement and removal a reader sees each row once, and
    the same command goes on to the same end."""
    monkeypatch.setattr(compact, "_AT_ONCE", 2)
    start = run_of(tmp_path, n=600, partition_rows=60)
    plan = list(read_plan(start / "plan.parquet"))
    if work == "expand":
        assert small_compact(start) > 1
        index(start)

    def do(out: Path) -> None:
        if work == "compact":
            small_compact(out)
        else:
            compact.expand(out, plan, out / ".staging")

    left = 10**9

    def killing(real: Callable[..., object]) -> Callable[..., object]:
        def step(*args: object) -> object:
            nonlocal left
            left -= 1
            if left < 0:
                raise Killed
            return real(*args)

        return step

    for name in ("publish", "replace", "remove"):
        monkeypatch.setattr(commit, name, killing(getattr(commit, name)))
    for allowed in range(200):
        out = tmp_path / str(allowed)
        shutil.copytree(start, out)
        left = allowed
        try:
            do(out)
            break
        except Killed:
            left = 10**9
        assert seen(out) == everything(600)
        assert all(published(out / "posteriors").covers(partition) for partition in plan)
        if allowed % 2:
            # Another client makes the index in between: it must agree, and finish what it finds.
            index(out)
            assert seen(out) == everything(600)
            assert published(out / "posteriors").shadowed == []
        do(out)
        index(out)
        assert seen(out) == everything(600)
        leaves = published(out / "posteriors")
        assert leaves.shadowed == []
        assert (set(leaves) == {(p.norder, p.npix) for p in plan}) == (work == "expand")
    assert 5 < allowed < 199


@pytest.mark.slow
def test_kill_9_while_compacting(tmp_path: Path) -> None:
    """The same with the real signal, at a moment that is nobody's choice."""
    out = run_of(tmp_path, n=800, partition_rows=20)
    code = """
import os, sys, threading, time
from pathlib import Path
from survey_gampen.catalog.compact import compact
threading.Thread(target=lambda: (time.sleep(float(sys.argv[2])), os.kill(os.getpid(), 9))).start()
compact(Path(sys.argv[1]), Path(sys.argv[1], ".staging"), smallest=100, largest=300)
"""
    for delay in ("0.0005", "0.01", "0.03"):
        done = subprocess.run([sys.executable, "-c", code, str(out), delay], check=False)
        assert done.returncode == -signal.SIGKILL
        assert seen(out) == everything(800)
    compact.compact(out, out / ".staging", smallest=100, largest=300)
    index(out)
    assert seen(out) == everything(800)
    assert published(out / "posteriors").shadowed == []
