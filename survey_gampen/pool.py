"""Independent tasks on the workers of a cluster, with progress."""

from __future__ import annotations

import itertools
import queue
import sys
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from distributed import Future
from rich.console import Console
from rich.progress import Progress

from survey_gampen.cluster import crew
from survey_gampen.cluster.profile import Profile, cores, load_profile
from survey_gampen.cluster.start import Cluster, start
from survey_gampen.errors import OutsideFault, WorkerLost

#: Workers that may die under one task.
TRIES = 3


def one_a_core(name: str, workers: int | None = None) -> Profile:
    """A cluster profile with `workers` workers, or one a core, where it says ``auto``."""
    return load_profile(name, workers=workers or cores())


def compute(
    function: Callable[..., Any],
    calls: Iterable[tuple[Any, ...]],
    what: str,
    profile: Profile,
    folder: Path,
) -> None:
    """Call `function` with each of `calls`, one at a time on each worker of a profile.

    `function` publishes its own result; nothing travels back. A call whose worker dies is made
    again elsewhere; the first that fails otherwise ends all.

    Parameters
    ----------
    function : callable
    calls : iterable of tuple
        Its arguments.
    what : str
        What a call does, for the progress display.
    profile : Profile
    folder : Path
        Where the results go; jobs of a batch system leave their logs there.

    Raises
    ------
    OutsideFault
        If worker after worker dies under one call.
    """
    todo = list(calls)
    if not todo:
        return
    with start(profile, folder) as cluster, _Count(len(todo), what) as count:
        tasks = (_Task(cluster, function, number, call) for number, call in enumerate(todo))
        ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        running = {
            task.begin(ended): task
            for task in itertools.islice(tasks, profile.window * profile.workers)
        }
        while running:
            cluster.check()
            try:
                future = ended.get(timeout=1.0)
            except queue.Empty:
                continue
            task = running.pop(future)
            outcome = crew.outcome(future)
            if isinstance(outcome, WorkerLost) and task.tries < TRIES:
                running[task.begin(ended)] = task
                continue
            if isinstance(outcome, WorkerLost):
                raise OutsideFault(f"{outcome}, {TRIES} times: give the workers more memory")
            if isinstance(outcome, BaseException):
                raise outcome
            count.one()
            for following in itertools.islice(tasks, 1):
                running[following.begin(ended)] = following


class _Task:
    def __init__(
        self, cluster: Cluster, function: Callable[..., Any], number: int, call: tuple[Any, ...]
    ) -> None:
        self._cluster, self._function, self._call = cluster, function, call
        self._name = f"{function.__name__.replace('_', '-')}-{number}"
        self.tries = 0

    def begin(self, ended: queue.SimpleQueue[Future]) -> Future:
        self.tries += 1
        future = self._cluster.client.submit(
            self._function,
            *self._call,
            key=f"{self._name}-{self.tries}",
            resources={self._cluster.slots["infer"]: 1},  # one a worker
            pure=False,
        )
        future.add_done_callback(ended.put)
        return future


class _Count:
    """Counts finished tasks: a bar on a terminal, a line each tenth elsewhere."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.done, self.what = total, 0, what
        self.progress = Progress(console=Console(), disable=not sys.stdout.isatty())
        self.bar = self.progress.add_task(what, total=total)

    def __enter__(self) -> _Count:
        self.progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.stop()

    def one(self) -> None:
        """One more is done."""
        self.done += 1
        self.progress.advance(self.bar)
        tenth = self.done * 10 // self.total > (self.done - 1) * 10 // self.total
        if self.progress.disable and tenth:
            print(f"{self.what}: {self.done} of {self.total}", flush=True)
