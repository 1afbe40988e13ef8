"""How a run ends, and a planning that somebody else took over: with stand-ins for all the work."""

from __future__ import annotations

import json
from contextlib import ExitStack
from dataclasses import asdict, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.run import runner
from survey_gampen.run.claim import Claim, ClaimLostError
from survey_gampen.run.claimfile import myself
from survey_gampen.run.folder import all_or_nothing
from survey_gampen.run.layout import RunDir
from survey_gampen.run.todo import Work

SPEC = SimpleNamespace(
    plan=SimpleNamespace(keep_cutouts=True, partition_rows=4),
    settings=SimpleNamespace(catalog="galaxies.parquet"),
    catalog_path=lambda run: run.catalog,
)
PROFILE = SimpleNamespace(window=3, workers=1)


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


@pytest.fixture
def bad_index(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is left to do, and the index files can't be written."""

    def fail(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "partition_info.csv")

    monkeypatch.setattr(runner.hats_out, "write_index", fail)
    monkeypatch.setattr(runner, "sorted_schema", lambda _: None)
    monkeypatch.setattr(runner, "leaf_schema", lambda *_: None)
    monkeypatch.setattr(runner.todo, "check_published", lambda *_: None)
    monkeypatch.setattr(runner.todo, "count", lambda *_: Work())


def test_an_index_that_is_not_of_today_is_no_success(run: RunDir, bad_index: None) -> None:
    with Claim(run) as claim, pytest.raises(OutsideFault, match=r"partition_info\.csv"):
        runner._finish(run, SPEC, claim, PROFILE, ExitStack(), None)


def test_what_stopped_the_run_is_told_before_a_bad_index(
    run: RunDir, bad_index: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    def damaged(*_: object) -> None:
        raise InputError("a published file is damaged")

    monkeypatch.setattr(runner.todo, "check_published", damaged)
    with Claim(run) as claim, pytest.raises(InputError, match="is damaged"):
        runner._finish(run, SPEC, claim, PROFILE, ExitStack(), None)


def test_a_planner_that_was_followed_leaves_the_follower_s_plan_alone(run: RunDir) -> None:
    def plan() -> None:
        with Claim(run) as claim, all_or_nothing(run, claim):
            follower = json.dumps(asdict(replace(myself(), host="node7")))
            (run.claims / "000002.json").write_text(follower)
            run.plan.write_text("the follower's")
            raise FileExistsError("the corner of the staging area is closed")

    with pytest.raises(ClaimLostError):
        plan()
    assert run.plan.read_text() == "the follower's"
    assert run.claims.is_dir()


def test_a_planning_that_failed_leaves_nothing(run: RunDir) -> None:
    def plan() -> None:
        with Claim(run) as claim, all_or_nothing(run, claim):
            run.plan.write_text("half a plan")
            raise InputError("duplicates")

    with pytest.raises(InputError):
        plan()
    assert not list(run.root.iterdir())
