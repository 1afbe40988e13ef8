"""What is left of a run, told from its folder alone: plan, published files, notes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from survey_gampen.catalog.hats_out import leaf_path, span
from survey_gampen.images.status import Status
from survey_gampen.run import quarantine, todo
from survey_gampen.run.layout import RunDir
from survey_gampen.run.plan import Partition, write_plan

PLAN = [Partition(i, 5, 100 + i, 10) for i in range(4)]


class Spec:
    """As much of a run's record as is asked for."""

    fingerprint = "today"
    parts: dict[str, Any] = {"images": "of today"}  # noqa: RUF012


def publish(run: RunDir, partition: Partition, fingerprint: str, status: int = 0) -> None:
    path = leaf_path(run.posteriors, partition.norder, partition.npix)
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = {"_healpix_29": [span(partition)[0]] * 10, "status": pa.array([status] * 10, pa.int32())}
    table = pa.table(rows)
    pq.write_table(table.replace_schema_metadata({"survey_gampen.fingerprint": fingerprint}), path)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    """Published: one before the images changed, one with a flag as well, one today."""
    run = RunDir(tmp_path)
    write_plan(run.plan, iter(PLAN), 10, tmp_path / "staging")
    publish(run, PLAN[0], "before")
    publish(run, PLAN[1], "before", int(Status.NO_IMAGE))
    publish(run, PLAN[2], "today", int(Status.NO_IMAGE))
    return run


def names(*numbers: int) -> set[str]:
    return {PLAN[i].name for i in numbers}


def test_a_partition_whose_redo_failed_is_quarantined(run: RunDir) -> None:
    work = todo.count(run, Spec(), set())
    assert (work.published, work.quarantined, work.rows_left) == (3, 0, 10)
    work = todo.count(run, Spec(), names(1, 3))
    assert (work.published, work.quarantined, work.rows_left) == (2, 2, 20)


def test_a_note_that_outlived_the_success_counts_for_nothing(run: RunDir) -> None:
    work = todo.count(run, Spec(), names(2))
    assert (work.published, work.quarantined) == (3, 0)


def test_such_a_note_goes(run: RunDir) -> None:
    """Or `resume` would cut that partition's kept cutouts off."""
    run.quarantine.mkdir()
    for name in names(0, 2, 3):
        run.quarantine_file(name).write_text("{}")
    todo.clear_notes(run, Spec())
    assert quarantine.names(run) == names(0, 3)


@pytest.mark.parametrize(
    ("given_up", "flag", "wanted"),
    [
        (set(), None, []),
        (set(), Status.NO_IMAGE, [1]),
        (names(0, 2, 3), None, [0]),
        (names(0), Status.NO_IMAGE, [0, 1]),
    ],
)
def test_what_is_done_again(
    run: RunDir, given_up: set[str], flag: Status | None, wanted: list[int]
) -> None:
    found = todo.published_to_redo(run, Spec(), given_up, flag)
    assert [p.index for p in found] == wanted


def test_cutouts_that_outlived_their_publication_go(run: RunDir, tmp_path: Path) -> None:
    for partition in PLAN:
        run.cutout_group(partition.name).mkdir(parents=True)
    todo.drop_cutouts(run, {1}, tmp_path / "staging")
    assert {path.stem for path in run.cutouts.iterdir()} == names(1, 3)
