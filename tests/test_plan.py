"""The plan: every row in one partition, none too large that could be smaller."""

from __future__ import annotations

import itertools
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skies import patch_of_sky, planned, write

from survey_gampen.catalog import open_catalog, read_rows, sort_catalog
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.run import plan as planning
from survey_gampen.run.plan import (
    METHOD_VERSION,
    Partition,
    differences,
    fingerprint,
    make_plan,
    plan_totals,
    read_plan,
    write_plan,
)

LAST = 12 * 4**29 - 1
#: Positions that cluster: anywhere, near a place, and at the very same place.
POSITIONS = st.lists(
    st.one_of(
        st.integers(0, LAST),
        st.integers(5 * 4**28, 5 * 4**28 + 300),
        st.sampled_from([0, 7, LAST, 4**29, 4**29 - 1]),
    ),
    min_size=1,
    max_size=300,
)


def cut(index: np.ndarray, size: int, piece: int = 10**6) -> list[Partition]:
    pieces = [index[start : start + piece] for start in range(0, index.size, piece)]
    return list(planning.cut(pieces, size))


def by_definition(index: np.ndarray, size: int) -> list[tuple[int, int, int]]:
    """The same by recursion from the twelve base pixels, everything in memory."""
    found = []

    def look(norder: int, npix: int, inside: np.ndarray) -> None:
        if inside.size == 0:
            return
        if inside.size <= size or norder == 29:
            found.append((norder, npix, inside.size))
            return
        for child in range(4 * npix, 4 * npix + 4):
            look(norder + 1, child, inside[inside >> 2 * (28 - norder) == child])

    for base in range(12):
        look(0, base, index[index >> 58 == base])
    return found


@given(POSITIONS, st.integers(1, 50), st.integers(1, 40))
def test_the_largest_pixels_that_are_small_enough(
    positions: list[int], size: int, piece: int
) -> None:
    index = np.sort(np.array(positions, dtype=np.int64))
    plan = cut(index, size, piece)
    assert [(p.norder, p.npix, p.rows) for p in plan] == by_definition(index, size)
    assert [p.index for p in plan] == list(range(len(plan)))
    # Disjoint, in order, and holding every row once.
    spans = [(p.npix << 2 * (29 - p.norder), (p.npix + 1) << 2 * (29 - p.norder)) for p in plan]
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(spans))
    for p, (low, high) in zip(plan, spans, strict=True):
        assert p.rows == np.count_nonzero((index >= low) & (index < high))
        repeated = Counter(positions).most_common(1)[0][1]
        assert p.rows <= size or (p.norder == 29 and p.rows <= repeated)
    assert sum(p.rows for p in plan) == index.size


@given(st.integers(1, 20), st.randoms(use_true_random=False))
def test_the_order_of_the_input_plays_no_part(size: int, random) -> None:
    positions = [random.randrange(LAST) for _ in range(100)]
    shuffled = random.sample(positions, 100)
    plans = [cut(np.sort(np.array(p, dtype=np.int64)), size) for p in (positions, shuffled)]
    assert plans[0] == plans[1]


def test_a_place_that_cannot_be_split() -> None:
    index = np.sort(np.array([5] * 100 + [6, 4**29], dtype=np.int64))
    plan = cut(index, 10, piece=7)
    assert [(p.norder, p.npix, p.rows) for p in plan] == [(29, 5, 100), (29, 6, 1), (0, 1, 1)]
    assert plan[0].name == "o29-p5"


def test_written_once_and_read_back(tmp_path: Path) -> None:
    out = planned(tmp_path / "out", patch_of_sky(2000), 150)
    plan = list(read_plan(out / "plan.parquet"))
    assert plan == list(make_plan(out / "catalog", 150))
    assert len(plan) >= 14
    for partition in plan:
        assert (
            read_rows(out / "catalog", partition.norder, partition.npix).num_rows == partition.rows
        )
    totals = plan_totals(out / "plan.parquet")
    assert (totals.partitions, totals.rows, totals.partition_rows) == (len(plan), 2000, 150)
    assert totals.largest == max(partition.rows for partition in plan)
    with pytest.raises(OutsideFault, match="a plan is there already"):
        write_plan(out / "plan.parquet", plan[:3], 150, out / ".staging")
    with pytest.raises(InputError, match="--partition-rows 0"):
        make_plan(out / "catalog", 0)


def test_shuffled_input_gives_the_same_plan(tmp_path: Path) -> None:
    table = patch_of_sky(1000)
    shuffled = table.take(pa.array(np.random.default_rng(3).permutation(1000)))
    plans = []
    for name, rows in (("a", table), ("b", shuffled)):
        source = write(tmp_path / f"{name}.parquet", rows)
        sort_catalog(open_catalog(source), tmp_path / name, tmp_path / ".staging")
        plans.append(list(make_plan(tmp_path / name, 64)))
    assert plans[0] == plans[1]


def test_a_plan_of_many_pieces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("survey_gampen.run.plan._ROWS_AT_ONCE", 10)
    plan = [Partition(i, 5, 100 + i, i + 1) for i in range(37)]
    totals = write_plan(tmp_path / "plan.parquet", iter(plan), 40, tmp_path / ".staging")
    assert (totals.partitions, totals.rows, totals.largest) == (37, 37 * 38 // 2, 37)
    assert list(read_plan(tmp_path / "plan.parquet")) == plan


def test_fingerprint_follows_every_part(monkeypatch: pytest.MonkeyPatch) -> None:
    parts = {"catalogue": "ab", "settings": {"passes": 1000, "seed": 0}}
    first = fingerprint(parts)
    assert first == fingerprint({"settings": {"seed": 0, "passes": 1000}, "catalogue": "ab"})
    assert first != fingerprint({"catalogue": "ab", "settings": {"passes": 999, "seed": 0}})
    assert len(first) == 64
    assert int(first, 16)
    monkeypatch.setattr("survey_gampen.run.plan.METHOD_VERSION", METHOD_VERSION + 1)
    assert first != fingerprint(parts)
    with pytest.raises(ValueError, match="not JSON compliant"):
        fingerprint({"x": float("nan")})


def test_differences_are_named() -> None:
    old = {"weights": "a" * 64, "settings": {"passes": 1000, "band": "g"}, "same": [1, 2]}
    new = {"weights": "b" * 64, "settings": {"passes": 200, "seed": 3, "band": "g"}, "same": (1, 2)}
    assert differences(old, new) == [
        "settings.passes: 1000 -> 200",
        "settings.seed: nothing -> 3",
        "weights: changed",
    ]
    assert differences(old, old) == []
