"""The flow of a run: a bounded window of partitions, cut ahead, inferred, taken note of.

The conductor knows a *crew*, which runs functions somewhere and tells when they ended. That it is
Dask's, over a laptop or a cluster, is told in :mod:`survey_gampen.cluster`; tests use others.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

from survey_gampen.errors import OutsideFault, UnfitWorker, WorkerLeaving
from survey_gampen.run import quarantine, task
from survey_gampen.run.attempts import Attempts
from survey_gampen.run.groups import is_cut
from survey_gampen.run.layout import RunDir
from survey_gampen.run.plan import Partition
from survey_gampen.run.progress import Meter
from survey_gampen.run.spec import RunSpec
from survey_gampen.run.triage import Action, Triage

CUT, INFER = "cut", "infer"


class Crew(Protocol):
    """Workers that do tasks."""

    def seats(self, slot: str) -> int:
        """Return how many tasks of a kind those that are there can do at once.

        Raises where nobody is left and nobody will come.
        """
        ...

    def submit(self, key: str, slot: str, function: Callable[..., Any], *args: Any) -> None:
        """Begin a task in a slot of some worker."""
        ...

    def finished(self, timeout: float) -> list[tuple[str, Any]]:
        """Wait for tasks to end; return their keys, with a result or an exception."""
        ...

    def through(self, key: str) -> int:
        """Return how many galaxies of a task are through the network."""
        ...

    def retire(self, worker: str) -> None:
        """Send a worker away."""
        ...

    def tell(self, state: dict[str, Any]) -> None:
        """Hear how far the run is."""
        ...

    def more_work(self, there_is: bool) -> None:
        """Hear whether work is left to give out."""
        ...


@dataclass
class Job:
    """A partition in the works."""

    partition: Partition
    stage: str = CUT
    again: bool = False
    batch: int | None = None
    number: int = 0


class Conductor:
    """Gives partitions out until all are published or given up.

    Parameters
    ----------
    run, spec
        The run.
    token : str
        The client's corner of the staging area.
    crew : Crew
    meter : Meter
    window : int
        Partitions in the works for each worker.
    halted : callable
        Called all the time; raises where the run must stop.
    attempts : Attempts
        Notes them.
    """

    def __init__(
        self,
        run: RunDir,
        spec: RunSpec,
        token: str,
        crew: Crew,
        meter: Meter,
        window: int,
        halted: Callable[[], None],
        attempts: Attempts,
    ) -> None:
        self._run, self._spec, self._token = run, spec, token
        self._crew, self._meter, self._window = crew, meter, window
        self._halted, self._attempts = halted, attempts
        self._triage = Triage()
        self._waiting: dict[str, deque[Job]] = {CUT: deque(), INFER: deque()}
        self._running: dict[str, Job] = {}
        self._held: dict[int, Job] = {}
        self._done_rows = self._published = self._quarantined = 0

    def go(self, jobs: Iterator[Job], done_rows: int, published: int, quarantined: int) -> int:
        """Do all jobs; return the number of quarantined partitions.

        Parameters
        ----------
        jobs : iterator of Job
            Read only as far as the window goes.
        done_rows, published, quarantined : int
            Galaxies and partitions published, and partitions given up before.

        Raises
        ------
        OutsideFault
            Stopped for a cause outside the data; nothing was quarantined for it.
        """
        self._done_rows, self._published, self._quarantined = done_rows, published, quarantined
        while True:
            self._halted()
            seats = self._crew.seats(INFER)
            all_given = self._fill(jobs, self._window * max(1, seats))
            self._hand_out()
            left = not all_given or any(self._waiting.values())
            self._crew.more_work(left)
            if not left and not self._running:
                break
            for key, outcome in self._crew.finished(timeout=0.5):
                job = self._running.pop(key)
                self._attempts.ended(key, job.stage, job.partition.name, outcome)
                self._take(job, outcome)
            self._show()
        for index in self._triage.at_the_end():
            self._quarantine(self._held.pop(index))
        if self._triage.stop:
            raise OutsideFault(self._triage.stop)
        self._show()
        return self._quarantined

    def _fill(self, jobs: Iterator[Job], most: int) -> bool:
        """Take partitions from the plan until the window is full; True: there are no more."""
        while sum(map(len, self._waiting.values())) + len(self._running) < most:
            job = next(jobs, None)
            if job is None:
                return True
            self._queue(job)
        return False

    def _queue(self, job: Job) -> None:
        cut = is_cut(self._run, self._spec, job.partition)
        job.stage = INFER if cut else CUT
        self._waiting[job.stage].append(job)

    def _hand_out(self) -> None:
        """Begin as many tasks as there are free slots.

        What waits for a slot waits here and not at a worker, which could die under it.
        """
        for stage in (INFER, CUT):
            busy = sum(1 for job in self._running.values() if job.stage == stage)
            waiting = self._waiting[stage]
            for _ in range(min(self._crew.seats(stage) - busy, len(waiting))):
                job = waiting.popleft()
                job.number += 1
                key = f"{stage}-{job.partition.name}-{self._token}-{job.number}"
                self._running[key] = job
                self._attempts.begins(key, stage, job.partition.name)
                self._crew.submit(key, stage, *self._call(job))

    def _call(self, job: Job) -> tuple[Any, ...]:
        out = str(self._run.root)
        if job.stage == CUT:
            return task.cut_partition, out, job.partition, self._token
        return task.infer_partition, out, job.partition, job.batch, self._token, job.again

    def _take(self, job: Job, outcome: Any) -> None:
        """Take note of a task that ended."""
        index = job.partition.index
        if isinstance(outcome, WorkerLeaving):
            self._waiting[job.stage].appendleft(job)
            return
        if not isinstance(outcome, BaseException):
            if job.stage == CUT:
                job.stage = INFER
                self._waiting[INFER].append(job)
                return
            self._done_rows += job.partition.rows
            self._published += 1
            quarantine.clear(self._run, job.partition)
            for guilty in self._triage.published(index):
                self._quarantine(self._held.pop(guilty))
            return
        # Only the network's memory depends on the batch.
        batch = job.batch or int(self._spec.engine["batch"]) if job.stage == INFER else 1
        action = self._triage.failed(index, job.stage, outcome, batch)
        failure = self._triage.failures[index]
        self._meter.say(f"{job.stage} {job.partition.name}: {failure.cause} ({action.value})")
        if isinstance(outcome, UnfitWorker):
            self._crew.retire(outcome.where)
        if action is Action.SMALLER:
            job.batch = batch // 2
            self._waiting[INFER].appendleft(job)
        elif action is Action.AGAIN:
            self._queue(job)
        elif action is Action.QUARANTINE:
            self._quarantine(job)
        elif action is Action.HOLD:
            self._held[index] = job
        else:
            raise OutsideFault(self._triage.stop)

    def _quarantine(self, job: Job) -> None:
        failure = self._triage.failures.pop(job.partition.index)
        staging = self._run.staging(self._token)
        quarantine.write(self._run, job.partition, failure, staging)
        self._quarantined += 1
        self._meter.say(f"{job.partition.name} is quarantined: {failure.cause}")

    def _show(self) -> None:
        extra = sum(self._crew.through(k) for k, j in self._running.items() if j.stage == INFER)
        self._meter.show(self._done_rows, extra, self._quarantined)
        self._crew.tell(self._meter.state() | {"partitions": self._states()})

    def _states(self) -> dict[str, int]:
        """How many partitions are in which state."""
        running = Counter(job.stage for job in self._running.values())
        known = {
            "cutting": running[CUT],
            "cut": len(self._waiting[INFER]),
            "inferring": running[INFER],
            "published": self._published,
            "quarantined": self._quarantined,
        }
        return {"waiting": max(0, self._spec.plan.partitions - sum(known.values()))} | known
