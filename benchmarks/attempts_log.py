"""What a run's log of attempts says about its time: who did what, from when to when."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

_LINE = re.compile(
    r"(?P<when>\S+ \S+) (?P<stage>cut|infer) \S+ (?P<key>\S+) "
    r"(?:(?P<begins>begins)|done on (?P<worker>\S+) after \S+ s: (?P<spent>.*))$"
)


@dataclass(frozen=True)
class Task:
    """One that was done.

    Attributes
    ----------
    stage, worker : str
    begins, ends : float
        Seen by the client [s since 1970].
    seconds : dict of str to float
        In each stage of it, on the worker.
    """

    stage: str
    worker: str
    begins: float
    ends: float
    seconds: dict[str, float]


@dataclass(frozen=True)
class Record:
    """A run that began at `started` [s since 1970], and its tasks in order of their ends."""

    started: float
    tasks: list[Task]

    def of(self, stage: str) -> list[Task]:
        """Tasks of a stage: ``cut`` or ``infer``."""
        return [task for task in self.tasks if task.stage == stage]

    @property
    def begins(self) -> float:
        """When the first partition began to be inferred."""
        return min(task.begins for task in self.of("infer"))

    @property
    def ends(self) -> float:
        """When the last was done."""
        return max(task.ends for task in self.of("infer"))

    def last_ends(self) -> list[float]:
        """When each worker had done its last: from then on it had nothing left to do."""
        return list({task.worker: task.ends for task in self.of("infer")}.values())

    def busy(self, stage: str) -> dict[str, float]:
        """Seconds of all workers in each part of a stage."""
        whole: Counter[str] = Counter()
        for task in self.of(stage):
            whole.update(task.seconds)
        return dict(whole)


def read_record(path: Path, started: float) -> Record:
    """Read the log of a run that nothing disturbed.

    Raises
    ------
    ValueError
        Where an attempt failed or was lost: its time is no measure of anything.
    """
    begun, tasks = dict[str, float](), []
    for line in path.read_text().splitlines():
        found = _LINE.match(line)
        if not found:
            raise ValueError(f"{path}: {line}")
        when = datetime.fromisoformat(found["when"]).timestamp()
        if found["begins"]:
            begun[found["key"]] = when
            continue
        words = (part.rsplit(" ", 1) for part in found["spent"].split(", "))
        spent = {name: float(seconds) for name, seconds in words}
        tasks.append(Task(found["stage"], found["worker"], begun[found["key"]], when, spent))
    return Record(started, sorted(tasks, key=lambda task: task.ends))
