"""Independent tasks on the workers of a cluster, with progress."""

from __future__ import annotations

import itertools
import queue
import sys
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from distributed import Future
from rich.console import Console
from rich.progress import Progress

from survey_gampen.cluster import crew
from survey_gampen.cluster.load import cores, load_profile
from survey_gampen.cluster.profile import Profile
from survey_gampen.cluster.start import Cluster, start
from survey_gampen.errors import OutsideFault, WorkerLeaving, WorkerLost

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

    `function` publishes its own result; nothing travels back. A call whose worker dies, or has no
    time left for it, is made again elsewhere; the first that fails otherwise ends all.

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
        longest = 0.0
        tasks = (_Task(cluster, function, number, call) for number, call in enumerate(todo))
        ended: queue.SimpleQueue[Future] = queue.SimpleQueue()
        running = {
            task.begin(ended, longest): task
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
            if isinstance(outcome, WorkerLost):
                task.losses += 1
                if task.losses == TRIES:
                    raise OutsideFault(
                        f"{outcome}, {TRIES} times: give workers more memory, or jobs more time;"
                        " the same command goes on"
                    )
            if isinstance(outcome, WorkerLost | WorkerLeaving):
                running[task.begin(ended, longest)] = task
                continue
            if isinstance(outcome, BaseException):
                raise outcome
            longest = max(longest, outcome)
            count.one()
            for following in itertools.islice(tasks, 1):
                running[following.begin(ended, longest)] = following


class _Task:
    def __init__(
        self, cluster: Cluster, function: Callable[..., Any], number: int, call: tuple[Any, ...]
    ) -> None:
        self._cluster, self._function, self._call = cluster, function, call
        self._name = f"{function.__name__.replace('_', '-')}-{number}"
        self._tries = self.losses = 0

    def begin(self, ended: queue.SimpleQueue[Future], longest: float) -> Future:
        """Give it to some worker, which is told how long others have taken [s]."""
        self._tries += 1
        future = self._cluster.client.submit(
            _timed,
            longest,
            self._function,
            *self._call,
            key=f"{self._name}-{self._tries}",
            resources={self._cluster.slots["infer"]: 1},  # one a worker
            pure=False,
        )
        future.add_done_callback(ended.put)
        return future


def _timed(longest: float, function: Callable[..., Any], *args: Any) -> float:
    """On the worker: call a function and return how long it took [s]."""
    begun = time.monotonic()
    crew.in_time(function.__name__, longest, function, *args)
    return time.monotonic() - begun


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
