"""Loaded by each worker as it begins: what it holds, and when it must stop taking tasks.

Settings come by environment variables, which every way of starting a worker can set:

``SURVEY_GAMPEN_GPU``
    ``cuda``: this worker was promised a GPU and must be able to compute on it; ``any``: it must
    have been given one (a rehearsal where GPUs are not real).
``SURVEY_GAMPEN_BEGAN``, ``SURVEY_GAMPEN_WALLTIME``
    When its job began [s since 1970] and how long it may last [s].

A worker that can't be what it was promised joins without any slot, says why, and leaves.
"""

from __future__ import annotations

import asyncio
import logging
import multiprocessing
import os
import signal
import socket
import time
from collections import deque
from typing import TYPE_CHECKING

from survey_gampen.cluster.gpu import gpu_metrics, hold_gpu
from survey_gampen.errors import UnfitWorker

if TYPE_CHECKING:
    from distributed import Worker

#: Topics of what workers tell: that one leaves, and why; that one was refused.
LEAVING, REFUSED = "survey-gampen-leaving", "survey-gampen-refused"
#: A task is not begun unless what is left is so many times the longest of its kind so far, and so
#: many seconds.
MARGIN, GRACE = 1.5, 10.0
#: But one is begun where such a part of the job is left: no other job would have more.
FRESH = 0.8

#: The rate of a worker is that of so many seconds [s].
_LATE = 60.0

_longest: dict[str, float] = {}
#: Tasks that were begun, and not begun for want of time.
_tasks = {True: 0, False: 0}
_begun = time.monotonic()
_through: deque[tuple[float, int]] = deque([(_begun, 0)])


async def dask_setup(worker: Worker) -> None:
    """Prepare the process; called by distributed before the worker joins."""
    worker.metrics["survey_gampen"] = metrics
    # The terminal sends its interrupt to all processes of the run. The client ends the workers
    # itself, in order, and one that died first would look like one that was lost.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    leave_no_names()
    # A nanny that has gone first is the end of a run, not a fault that deserves a traceback.
    logging.getLogger("distributed.nanny").addFilter(_not_of_the_nanny)
    try:
        if promised := os.environ.get("SURVEY_GAMPEN_GPU"):
            hold_gpu(place=_place(str(worker.name)), cuda=promised == "cuda")
    except Exception as error:  # else it would join all the same, and nobody would have looked
        why = str(error) if isinstance(error, UnfitWorker) else f"{type(error).__name__}: {error}"
        _strip(worker)
        worker.loop.add_callback(_refuse, worker, " ".join(why.split()))
        return
    if (ends := job_ends()) is not None:
        worker.loop.add_callback(_watch, worker, ends)


def leave_no_names() -> None:
    """Have this process's locks give back their names as soon as they are made.

    A name is for processes that are spawned, and a worker spawns none. But libraries make such
    locks (that of Blosc, say), and who is killed under a task, as at the end of a run that was told
    to stop, can't give back the names, of which Python then complains.
    """
    multiprocessing.set_start_method("fork", force=True)


def job_ends() -> float | None:
    """When the job of this process ends [s since 1970]; None if it may last for ever."""
    began, lasts = (os.environ.get(f"SURVEY_GAMPEN_{key}") for key in ("BEGAN", "WALLTIME"))
    return float(began) + float(lasts) if began and lasts else None


def took(kind: str, seconds: float) -> None:
    """Remember how long a task took, here or elsewhere."""
    _longest[kind] = max(_longest.get(kind, 0.0), seconds)


def begins(kind: str) -> bool:
    """Whether a task of a kind may begin; remembers what came of it."""
    may = enough_time(kind)
    _tasks[may] += 1
    return may


def enough_time(kind: str, now: float | None = None) -> bool:
    """Whether a task of a kind may begin, given what is left of the job."""
    ends = job_ends()
    if ends is None:
        return True
    left = ends - (time.time() if now is None else now)
    lasts = float(os.environ["SURVEY_GAMPEN_WALLTIME"])
    return left > min(MARGIN * _longest.get(kind, 0.0) + GRACE, FRESH * lasts)


def through(galaxies: int) -> None:
    """Remember that so many galaxies more are through the network."""
    now = time.monotonic()
    _through.append((now, _through[-1][1] + galaxies))
    while len(_through) > 2 and _through[1][0] < now - _LATE:
        _through.popleft()


def metrics(worker: Worker | None = None) -> dict[str, float]:
    """What a heartbeat tells: galaxies so far and of late, the job's end, the GPU's state."""
    first, last = _through[0], _through[-1]
    seconds = max(time.monotonic() - max(first[0], time.monotonic() - _LATE), 1.0)
    found = {
        "galaxies_total": float(last[1]),
        "galaxies_per_second": (last[1] - first[1]) / seconds,
    }
    if (ends := job_ends()) is not None:
        found["job_seconds_left"] = max(0.0, ends - time.time())
    return found | gpu_metrics()


def _not_of_the_nanny(record: logging.LogRecord) -> bool:
    return "died unexpectedly" not in record.getMessage()


def _place(name: str) -> int:
    """Number of a worker in its job: the jobs' workers are called NAME-0, NAME-1."""
    if int(os.environ.get("SURVEY_GAMPEN_PROCESSES", "1")) == 1:
        return 0
    return int(name.rpartition("-")[2])


def _strip(worker: Worker) -> None:
    worker.state.total_resources.clear()
    worker.state.available_resources.clear()


async def _refuse(worker: Worker, why: str) -> None:
    await _joined(worker)
    worker.log_event(REFUSED, (str(worker.name), f"{socket.gethostname()}: {why}"))
    await asyncio.sleep(1.0)  # what was said must leave before the connection does
    await worker.close(nanny=True, reason="survey-gampen-refused")


async def _watch(worker: Worker, ends: float) -> None:
    """Take no more tasks when the job is about to end, and leave once the last one is done."""
    await _joined(worker)
    while enough_time(_slowest()):
        await asyncio.sleep(1.0)
    await worker.set_resources(**dict.fromkeys(worker.state.total_resources, 0))
    left = max(0.0, ends - time.time())
    late = bool(_tasks[False]) and not _tasks[True]  # it came too late for any
    worker.log_event(LEAVING, (str(worker.name), f"{left:.0f} s are left of its job", late))
    while worker.state.executing_count:
        await asyncio.sleep(0.5)
    await asyncio.sleep(1.0)
    await worker.close(nanny=True, reason="survey-gampen-end-of-job")


def _slowest() -> str:
    return max(_longest, key=lambda kind: _longest[kind], default="")


async def _joined(worker: Worker) -> None:
    while worker.status.name != "running":
        await asyncio.sleep(0.1)
