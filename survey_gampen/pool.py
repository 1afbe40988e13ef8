"""Independent tasks on the workers of a cluster, with progress."""

from __future__ import annotations

import sys
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import Progress

from survey_gampen.cluster.crew import DaskCrew
from survey_gampen.cluster.load import cores, load_profile
from survey_gampen.cluster.profile import Profile, without_cutters
from survey_gampen.cluster.start import start
from survey_gampen.errors import InputError, OutsideFault, WorkerLeaving, WorkerLost
from survey_gampen.run.words import say

#: Workers that may die under one task.
TRIES = 3
#: One task a worker, whatever it does.
_SLOT = "infer"


def profile_for_tasks(name: str, workers: int | None = None) -> Profile:
    """A cluster profile for tasks, with `workers` workers where it says ``auto``.

    Raises
    ------
    InputError
        As `load_profile`; and for an allocation, whose tasks all run one `run`.
    """
    profile = load_profile(name, workers=workers)
    if profile.kind == "allocation":
        raise InputError("cluster profile allocation is for run and resume: choose another")
    return without_cutters(profile)  # who would idle: no task here is a cutting


def one_a_core(name: str, workers: int | None = None) -> Profile:
    """A cluster profile with `workers` workers where it says ``auto``; on this machine one a core
    unless given."""
    profile = profile_for_tasks(name, workers)
    on_this_machine = profile.batch is None
    return profile_for_tasks(name, cores()) if on_this_machine and not workers else profile


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
    waiting, running = deque(range(len(todo))), dict[str, int]()
    since: dict[str, float] = {}
    begun, losses = Counter[int](), Counter[int]()
    with start(profile, folder, say) as cluster, _Count(len(todo), what) as count:
        crew = DaskCrew(cluster)
        for line in cluster.dashboard_lines() if profile.batch else []:
            say(line)
        while waiting or running:
            # What waits for a worker waits here, and not at one that may end before.
            for _ in range(min(crew.seats(_SLOT) - len(running), len(waiting))):
                number = waiting.popleft()
                begun[number] += 1
                key = f"{function.__name__.replace('_', '-')}-{number}-{begun[number]}"
                running[key], since[key] = number, time.monotonic()
                crew.submit(key, _SLOT, _timed, function, *todo[number])
            crew.more_work(bool(waiting))
            for key, outcome in crew.finished(timeout=0.5):
                number = running.pop(key)
                seconds = time.monotonic() - since.pop(key)
                if isinstance(outcome, WorkerLost) and not _by_walltime(profile, seconds):
                    losses[number] += 1
                    if losses[number] == TRIES:
                        raise OutsideFault(
                            f"{outcome}, {TRIES} times: give workers more memory, or jobs more"
                            " time; the same command goes on"
                        )
                if isinstance(outcome, WorkerLost | WorkerLeaving):
                    waiting.appendleft(number)
                elif isinstance(outcome, BaseException):
                    raise outcome
                else:
                    count.one()


def _by_walltime(profile: Profile, seconds: float) -> bool:
    """Whether a call that was lost after so long was ended by its job, and not by itself.

    It has come some way by then, and goes on from there.
    """
    return profile.walltime is not None and seconds > profile.walltime / 2


def _timed(
    function: Callable[..., Any], *args: Any, tick: Callable[[int], None]
) -> dict[str, float]:
    """On the worker: call a function and return how long it took [s]."""
    begun = time.monotonic()
    function(*args)
    return {"seconds": time.monotonic() - begun}


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
