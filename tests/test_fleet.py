"""What the fleet makes of what batch system and workers say; both are made up here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from slurmdev import until

from survey_gampen.cluster import fleet as fleets
from survey_gampen.cluster import posted
from survey_gampen.cluster.fleet import Fleet
from survey_gampen.cluster.load import load_profile
from survey_gampen.cluster.posted import Posted
from survey_gampen.cluster.words import State, Word
from survey_gampen.cluster.worker import LEAVING
from survey_gampen.errors import InputError, OutsideFault

WAITS = Word(State.WAITING, "PENDING (Priority)")
RUNS = Word(State.RUNNING, "RUNNING")
NEVER = Word(State.WAITING, "PENDING (BadConstraints)", hopeless=True)
FAILED = Word(State.ENDED, "FAILED, exit code 7:0")


class World:
    """A batch system, a scheduler and workers."""

    def __init__(
        self, folder: Path, monkeypatch: pytest.MonkeyPatch, spec: str = "slurm:workers=2"
    ) -> None:
        self.folder = folder
        self.jobs: dict[str, Word] = {}
        self.first, self.refuses = WAITS, 0
        self.workers: list[str] = []
        self.scheduler_answers = True
        self.said: list[str] = []
        self.topics: dict[str, Callable[[Any], None]] = {}
        self.cancelled: list[str] = []
        client = SimpleNamespace(
            scheduler=SimpleNamespace(address="tls://here:1"),
            subscribe_topic=self.topics.__setitem__,
        )
        monkeypatch.setattr(fleets, "_LOOK", 0.01)
        monkeypatch.setattr(fleets, "_ASK", 0.02)
        monkeypatch.setattr(fleets, "_AGAIN", 0.05)
        monkeypatch.setattr(fleets, "_ALONE", 0.0)
        monkeypatch.setattr(fleets, "workers_of", self._workers_of)
        monkeypatch.setattr(fleets, "post", self._post)
        monkeypatch.setattr(fleets.words, "of_jobs", self._of_jobs)
        monkeypatch.setattr(
            fleets, "cancel", lambda jobs: self.cancelled.extend(j.id for j in jobs)
        )
        profile = load_profile(f"{spec},interface=lo")
        self.fleet = Fleet(profile, client, None, folder, self.said.append)  # type: ignore[arg-type]

    def _post(self, name: str, job: Any, ask: Any, profile: Any) -> Posted:
        if self.refuses:
            self.refuses -= 1
            raise OutsideFault("slurm is away")
        job.job_id = str(len(self.jobs) + 1)
        self.jobs[job.job_id] = self.first
        return Posted(name, job, ask)

    def _of_jobs(self, kind: str, ids: list[str]) -> dict[str, Word]:
        return {job: self.jobs[job] for job in ids}

    def _workers_of(self, client: Any) -> dict[str, dict[str, Any]]:
        if not self.scheduler_answers:
            raise TimeoutError("no answer")
        return {n: {"name": n, "resources": {"INFER": 1, "CPU": 1}} for n in self.workers}

    def comes(self, number: int) -> None:
        """A job runs, and its worker comes."""
        self.jobs[str(number)] = RUNS
        self.workers.append(f"survey-gampen-{number}-99")

    def ends(self) -> None:
        """Wait for the fleet to give up."""
        until(lambda: self.fleet._error is not None, 10)
        self.fleet.check()

    def hears(self, words: str) -> None:
        """Wait for the user to be told."""
        until(lambda: any(words in line for line in self.said), 10)


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    made = World(tmp_path, monkeypatch)
    yield made
    made.fleet.end()


def test_a_scheduler_that_is_silent_hides_nothing(world: World) -> None:
    """What the batch system says is heard all the same: jobs that fail end the run."""
    world.scheduler_answers = False
    (world.folder / "survey-gampen-1.err").write_text("no module named gampen\n")
    world.fleet.begin()
    world.jobs.update({"1": FAILED, "2": FAILED})
    with pytest.raises(OutsideFault, match="2 jobs ended and no worker came of them"):
        world.ends()
    world.hears("job 1 said: no module named gampen")


def test_a_job_that_ends_is_replaced(world: World) -> None:
    world.fleet.begin()
    world.comes(1)
    world.comes(2)
    time.sleep(0.1)
    world.workers.pop()
    world.jobs["2"] = Word(State.ENDED, "TIMEOUT")
    world.hears("job 3 submitted in place")
    world.fleet.check()
    world.fleet.more_work(False)
    world.jobs["1"] = Word(State.ENDED, "COMPLETED")
    world.hears("job 1 ended: COMPLETED")
    time.sleep(0.1)
    assert len(world.jobs) == 3
    world.fleet.end()
    assert world.cancelled == ["3"]


def test_where_no_job_of_a_kind_will_begin_the_run_ends(world: World) -> None:
    world.first = NEVER
    world.fleet.begin()
    with pytest.raises(InputError, match=r"will never begin: PENDING \(BadConstraints\)"):
        world.ends()


def test_where_others_work_it_is_only_told(world: World) -> None:
    world.fleet.begin()
    world.comes(1)
    world.jobs["2"] = NEVER
    world.hears("job 2 will never begin: PENDING (BadConstraints); the others go on")
    time.sleep(0.1)
    world.fleet.check()


def test_a_job_that_is_queued_again_begins_its_life_anew(world: World) -> None:
    world.fleet.begin()
    world.comes(1)
    world.comes(2)
    until(lambda: all(p.began for p in world.fleet._posted.values()), 10)
    world.workers.remove("survey-gampen-2-99")
    world.jobs["2"] = Word(State.WAITING, "PENDING (BeginTime)")
    world.hears("job 2 is queued again")
    posted = world.fleet._posted["survey-gampen-2"]
    assert posted.began is None
    world.workers.append("survey-gampen-2-100")
    world.jobs["2"] = RUNS
    until(lambda: posted.began is not None, 10)


def test_workers_that_always_come_too_late_end_the_run(world: World) -> None:
    world.fleet.begin()
    world.comes(1)
    for late in (True, True, False, True, True):
        world.topics[LEAVING]((0.0, ("survey-gampen-1-99", "8 s are left of its job", late)))
        world.fleet.check()
    world.topics[LEAVING]((0.0, ("survey-gampen-1-99", "8 s are left of its job", True)))
    with pytest.raises(OutsideFault, match="3 workers in a row had no time for a single task"):
        world.ends()


def test_a_batch_system_that_is_away_is_tried_again(world: World) -> None:
    world.fleet.begin()
    world.comes(1)
    world.comes(2)
    time.sleep(0.1)
    world.refuses = 2
    world.workers.pop()
    world.jobs["2"] = Word(State.ENDED, "NODE_FAIL")
    world.hears("slurm is away: tried again")
    world.hears("job 3 submitted in place")
    world.fleet.check()


def test_what_jobs_wait_for_can_be_asked(world: World) -> None:
    world.fleet.begin()
    assert all("PENDING (Priority)" in line for line in world.fleet.states())


@pytest.fixture
def two_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Job 1 infers, job 2 cuts."""
    own = tmp_path / "own.yaml"
    own.write_text("kind: slurm\npatience: 1\ncutters: {workers: 1, threads: 1}\n")
    made = World(tmp_path, monkeypatch, f"{own}:workers=1")
    yield made
    made.fleet.end()


def test_a_kind_that_waits_is_told_of_while_the_other_works(two_kinds: World) -> None:
    two_kinds.fleet.begin()
    two_kinds.comes(2)
    two_kinds.hears("no inferring worker yet: job 1 for 1 s: PENDING (Priority)")
    assert not any("cutting" in line for line in two_kinds.said)


def test_a_kind_whose_jobs_fail_ends_the_run_while_the_other_works(two_kinds: World) -> None:
    two_kinds.first = FAILED
    two_kinds.fleet.begin()
    two_kinds.comes(2)
    with pytest.raises(OutsideFault, match="2 jobs ended and no inferring worker came of them"):
        two_kinds.ends()


def test_jobs_of_which_nobody_knows_whether_they_are_cancelled_are_named(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets, "cancel", posted.cancel)
    world.fleet.begin()

    async def silent(words: list[str]) -> None:
        raise TimeoutError("no answer")

    for job in world.fleet._posted.values():
        monkeypatch.setattr(job.job, "_call", silent)
    world.fleet.end()
    assert "still be there, look at them: 1, 2 (TimeoutError: no answer)" in world.said[-1]


def test_many_jobs_are_asked_about_less_often(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fleets.words, "pause", lambda kind, jobs: 30.0 * jobs)
    world.fleet.begin()
    time.sleep(0.1)  # some of the usual pauses
    assert all(job.word is None for job in world.fleet._posted.values())


def test_a_job_is_replaced_before_it_ends(world: World) -> None:
    """As early as the jobs waited in the queue, so that one begins when the other ends."""
    world.fleet.begin()
    world.comes(1)
    world.comes(2)
    until(lambda: all(p.began for p in world.fleet._posted.values()), 10)
    (kind,), first = world.fleet._kinds, world.fleet._posted["survey-gampen-1"]
    assert kind.ask.walltime
    kind.longest_wait = 300.0
    first.began = time.monotonic() - kind.ask.walltime + 310  # ends in 310 s
    time.sleep(0.1)
    assert len(world.jobs) == 2
    first.began -= 20
    world.hears("job 3 submitted in place of one that has ended or will soon")
    time.sleep(0.1)
    assert len(world.jobs) == 3
    assert world.jobs["1"] is RUNS  # and goes on until its end
