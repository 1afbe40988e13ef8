"""The flow of a run, with a crew that lives in the test: no Dask, no images, no network."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from survey_gampen.errors import (
    OutsideFault,
    UnfitWorker,
    UnreadableFile,
    WorkerLeaving,
    WorkerLost,
)
from survey_gampen.run import conductor as conducting
from survey_gampen.run import quarantine
from survey_gampen.run.attempts import Attempts
from survey_gampen.run.conductor import Conductor, Job
from survey_gampen.run.layout import RunDir
from survey_gampen.run.plan import Partition
from survey_gampen.run.progress import Meter
from survey_gampen.run.triage import TooLarge

PLAN = [Partition(i, 5, 100 + i, 10) for i in range(12)]


class Crew:
    """Does each task at once, in the way that `behave` says."""

    def __init__(self, behave: Callable[[str, Partition, Any], Any], n: int = 2) -> None:
        self.behave, self.names = behave, [f"w{i}" for i in range(n)]
        self.log: list[tuple[str, str]] = []
        self.results: list[tuple[str, Any]] = []
        self.cut: set[str] = set()
        self.most = 0
        self.enough = 0

    def seats(self, slot: str) -> int:
        if not self.names:
            raise OutsideFault("no worker is left")
        return len(self.names)

    def submit(self, key: str, slot: str, function: Any, *args: Any) -> None:
        partition, batch = args[1], args[2]
        self.log.append((slot, partition.name))
        try:
            outcome = self.behave(slot, partition, batch if slot == "infer" else None)
        except Exception as error:
            outcome = error
        if slot == "cut" and not isinstance(outcome, Exception):
            self.cut.add(partition.name)
        self.results.append((key, outcome))
        self.most = max(self.most, len(self.results))

    def finished(self, timeout: float) -> list[tuple[str, Any]]:
        done, self.results = self.results, []
        return done

    def through(self, key: str) -> int:
        return 0

    def retire(self, worker: str) -> None:
        if worker in self.names:  # two tasks may have told
            self.names.remove(worker)

    def tell(self, state: dict[str, Any]) -> None:
        assert sum(state["partitions"].values()) == len(PLAN)
        self.told = state

    def more_work(self, there_is: bool) -> None:
        if not there_is:
            self.enough = len(self.log)


@pytest.fixture
def conduct(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Crew], int]:
    run = RunDir(tmp_path)
    plan = type("Plan", (), {"partitions": len(PLAN)})()
    spec = type("Spec", (), {"engine": {"batch": 8}, "plan": plan})()

    def go(crew: Crew) -> int:
        monkeypatch.setattr(conducting, "is_cut", lambda run, spec, p: p.name in crew.cut)
        notes = Attempts(tmp_path / "attempts.log", tmp_path / "attempts.log")
        meter = Meter(120, 0, Console(file=io.StringIO()))
        flow = Conductor(run, spec, "000001", crew, meter, 3, lambda: None, notes)
        return flow.go((Job(p) for p in PLAN), 0, 0, 0)

    return go


def test_each_partition_is_cut_once_and_then_inferred_once(conduct: Any) -> None:
    crew = Crew(lambda *_: {})
    assert conduct(crew) == 0
    for stage in ("cut", "infer"):
        assert sorted(n for s, n in crew.log if s == stage) == sorted(p.name for p in PLAN)
    assert crew.most <= 4  # two workers, one slot of each kind


def test_the_window_is_bounded(conduct: Any) -> None:
    taken: list[int] = []

    def watch(slot: str, partition: Partition, batch: Any) -> dict:
        taken.append(partition.index)
        # Whatever is begun lies within the window of the first that is not done.
        done = sum(1 for s, _ in crew.log if s == "infer")
        assert partition.index <= done + 3 * 2
        return {}

    crew = Crew(watch)
    conduct(crew)
    assert len(taken) == 2 * len(PLAN)


def test_bad_files_are_quarantined_and_the_rest_goes_on(conduct: Any, tmp_path: Path) -> None:
    def behave(slot: str, partition: Partition, batch: Any) -> dict:
        if partition.index in (3, 4):
            raise UnreadableFile("tile 7 is broken")
        return {}

    assert conduct(Crew(behave)) == 2
    notes = list(quarantine.notes(RunDir(tmp_path)))
    assert [n["partition"] for n in notes] == [PLAN[3].name, PLAN[4].name]
    assert notes[0]["cause"] == "tile 7 is broken"
    assert (notes[0]["stage"], notes[0]["attempts"], notes[0]["rows"]) == ("cut", 1, 10)
    assert any("UnreadableFile" in line for line in notes[0]["traceback"])


def test_a_lost_worker_means_again(conduct: Any) -> None:
    lost = iter([True, True, True])

    def behave(slot: str, partition: Partition, batch: Any) -> dict:
        if partition.index == 5 and slot == "infer" and next(lost, False):
            raise WorkerLost("died")
        return {}

    crew = Crew(behave)
    assert conduct(crew) == 0
    assert sum(1 for s, n in crew.log if s == "infer" and n == PLAN[5].name) == 4


def test_out_of_memory_means_half_the_batch(conduct: Any) -> None:
    batches = []

    def behave(slot: str, partition: Partition, batch: Any) -> dict:
        if partition.index == 2 and slot == "infer":
            batches.append(batch)
            if batch is None or batch > 2:
                raise TooLarge("memory ran out")
        return {}

    assert conduct(Crew(behave)) == 0
    assert batches == [None, 4, 2]


def test_out_of_memory_while_cutting_has_nothing_to_do_with_the_batch(
    conduct: Any, tmp_path: Path
) -> None:
    batches = []

    def behave(slot: str, partition: Partition, batch: Any) -> dict:
        if partition.index in (2, 3) and slot == "cut":
            tries[partition.index] += 1
            if partition.index == 3 or tries[2] == 1:
                raise MemoryError
        if slot == "infer":
            batches.append(batch)
        return {}

    tries = {2: 0, 3: 0}
    assert conduct(Crew(behave)) == 1
    assert quarantine.names(RunDir(tmp_path)) == {PLAN[3].name}
    assert tries == {2: 2, 3: 3}
    assert batches == [None] * 11


def test_a_full_disk_stops_the_run_and_quarantines_nothing(conduct: Any, tmp_path: Path) -> None:
    def behave(slot: str, partition: Partition, batch: Any) -> dict:
        if partition.index >= 4:
            raise OutsideFault("/out: No space left on device")
        return {}

    with pytest.raises(OutsideFault, match="No space left"):
        conduct(Crew(behave))
    assert not quarantine.names(RunDir(tmp_path))


def test_too_few_partitions_left_for_a_row_still_stop(conduct: Any, tmp_path: Path) -> None:
    def behave(slot: str, partition: Partition, batch: Any) -> dict:
        if partition.index >= 10:
            raise OutsideFault("/out: No space left on device")
        return {}

    with pytest.raises(OutsideFault, match="No space left"):
        conduct(Crew(behave))
    assert not quarantine.names(RunDir(tmp_path))


def test_an_unfit_worker_leaves(conduct: Any) -> None:
    def behave(slot: str, partition: Partition, batch: Any) -> dict:
        if slot == "infer" and "w0" in crew.names:
            error = UnfitWorker("no bf16 here")
            error.where = "w0"
            raise error
        return {}

    crew = Crew(behave, n=2)
    assert conduct(crew) == 0
    assert crew.names == ["w1"]


def test_a_task_that_a_leaving_worker_did_not_begin_is_no_failure(
    conduct: Any, tmp_path: Path
) -> None:
    left: set[str] = set()

    def behave(slot: str, partition: Partition, batch: Any) -> Any:
        if (key := f"{slot} {partition.name}") not in left:
            left.add(key)
            raise WorkerLeaving("its job ends")
        return {"stages": {"writing": 0.25}}

    crew = Crew(behave)
    assert conduct(crew) == 0
    assert len(crew.log) == 4 * len(PLAN)
    assert crew.enough == len(crew.log)  # said when nothing was left to give out
    lines = (tmp_path / "attempts.log").read_text().splitlines()
    ends = [line for line in lines if " after " in line]
    assert len(lines) == 2 * len(ends) == 2 * len(crew.log)
    assert sum("not begun" in line for line in ends) == 2 * len(PLAN)
    assert sum(line.endswith(": writing 0.250") for line in ends) == 2 * len(PLAN)


def test_without_workers_the_run_stops(conduct: Any) -> None:
    with pytest.raises(OutsideFault, match="no worker is left"):
        conduct(Crew(lambda *_: {}, n=0))
