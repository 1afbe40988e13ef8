"""Inside one allocation: `srun survey-gampen run ... --cluster allocation`.

All ranks of the step run the same command. Rank 0 becomes Dask's scheduler, rank 1 the client, all
others workers (dask-jobqueue's ``SLURMRunner``). They find each other by a folder that all nodes
see, and that nobody else can enter. A step of Slurm lasts until its last task ends, so the others
must see it when the client has gone: it says so as it ends, and where it was killed its claim on
the run is no longer kept alive.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import logging
import os
import shutil
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import dask
from distributed import Client, Scheduler, Security

from survey_gampen.cluster import certificates
from survey_gampen.cluster.jobqueue import module
from survey_gampen.cluster.local import scheduler, worker_settings
from survey_gampen.cluster.profile import Profile
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.run.claim import holder_of
from survey_gampen.run.layout import RunDir
from survey_gampen.storage import at

_CLIENT = 1
#: Until the others of a step are there, and until a client that shows no sign of life counts as
#: gone [s].
_PATIENCE, _GONE = 300.0, 60.0
#: How long a task that begins late is waited for at the end [s].
_LATE = 30.0
_PREFIX = "allocation-"
#: In the folder where they meet: the client is through.
_OVER = "over"


def step_aside(profile: Profile, out: Path) -> None:
    """Be scheduler or worker, if that is what this rank is; return only where it is the client.

    Parameters
    ----------
    profile : Profile
        Nothing happens unless it is that of an allocation.
    out : Path
        Folder of the results; the ranks meet in it.

    Raises
    ------
    InputError
        As :func:`is_client`.
    """
    if profile.kind != "allocation":
        return
    run = RunDir(at(out))
    if not is_client():
        _serve(profile, run)
    atexit.register(_dismiss, _place(run))


def is_client() -> bool:
    """Whether this process is the one that plans and publishes the run.

    Raises
    ------
    InputError
        If this is no step of Slurm, or one of too few tasks.
    """
    try:
        # A batch script has the first two as well: as rank 0 of tasks that nobody started.
        rank, size = int(os.environ["SLURM_PROCID"]), int(os.environ["SLURM_NTASKS"])
        os.environ["SLURM_STEP_ID"]
    except KeyError:
        raise InputError(
            "cluster profile allocation works in the tasks of a step of Slurm: type srun before the"
            " command, in the job's script too"
        ) from None
    if size < 3:
        raise InputError(
            f"srun has {size} tasks: give 3 or more (scheduler, client, and one for each worker)"
        )
    return rank == _CLIENT


def _serve(profile: Profile, run: RunDir) -> NoReturn:
    place = _place(run)
    if os.environ["SLURM_PROCID"] == "0":
        with _meeting_place(place) as security:
            _be(profile, security, place, run)
    else:
        _be(profile, _security(place), place, run)
    sys.exit(0)


@contextlib.contextmanager
def connected(out: Path) -> Iterator[Client]:
    """Be the client: yield the connection to the scheduler, and end all on leaving."""
    place = _place(RunDir(at(out)))
    security = _security(place)
    for prefix in (_PREFIX, f".{_PREFIX}"):  # the claim is ours: others here are of killed steps
        certificates.sweep(place.parent, prefix, but=place)
    file, begun = place / "scheduler.json", time.monotonic()
    while not file.exists():
        if time.monotonic() - begun > _PATIENCE:
            raise OutsideFault("the scheduler of this allocation did not start: look at rank 0")
        time.sleep(0.2)
    client = Client(scheduler_file=str(file), security=security, set_as_default=False)
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.shutdown()


def _place(run: RunDir) -> Path:
    step = "-".join(os.environ.get(f"SLURM_{key}", "0") for key in ("JOB_ID", "STEP_ID"))
    return run.cluster / f"{_PREFIX}{step}"


def _dismiss(place: Path) -> None:
    """Tell the others of the step that the client ends, whatever for."""
    begun = time.monotonic()
    while not place.is_dir() and time.monotonic() - begun < _GONE / 2:
        if (place.parent / f".{place.name}").is_dir() or time.monotonic() - begun < _GONE / 6:
            time.sleep(0.2)
            continue
        return  # they have gone before
    with contextlib.suppress(OSError):
        (place / _OVER).touch()


@contextlib.contextmanager
def _meeting_place(place: Path) -> Iterator[Security]:
    """Certificates in a folder that is there, whole, from one moment to the next."""
    making = place.with_name(f".{place.name}")
    while True:
        place.parent.mkdir(parents=True, exist_ok=True)
        with contextlib.suppress(FileNotFoundError):  # the client tidies up after a failure
            making.mkdir(mode=0o700)
            break
    certificates.write(making)
    making.rename(place)
    try:
        yield certificates.read(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)
        with contextlib.suppress(OSError):  # only while nothing else is in them
            place.parent.rmdir()
            place.parent.parent.rmdir()


def _security(place: Path) -> Security:
    begun = time.monotonic()
    while not place.is_dir():
        if time.monotonic() - begun > _PATIENCE:
            raise OutsideFault(f"rank 0 did not make {place}: do all nodes see this folder?")
        time.sleep(0.2)
    return certificates.read(place)


def _be(profile: Profile, security: Security, place: Path, run: RunDir) -> None:
    slots = {"GPU" if profile.gpus else "INFER": 1, "CPU": 1}
    if profile.gpus:
        os.environ["SURVEY_GAMPEN_GPU"] = "cuda" if profile.cuda else "any"
    if end := os.environ.get("SLURM_JOB_END_TIME"):  # workers stop in time; newer Slurms tell it
        now = time.time()
        os.environ["SURVEY_GAMPEN_BEGAN"] = f"{now:.0f}"
        os.environ["SURVEY_GAMPEN_WALLTIME"] = f"{max(1.0, float(end) - now):.0f}"
    options: dict[str, Any] = {
        "protocol": "tls://",
        "security": security,
        "nthreads": sum(slots.values()),
        "resources": slots,
        "memory_limit": profile.memory or None,
        "dashboard_address": "127.0.0.1:0",
        "local_directory": profile.scratch,
        "preload": ["survey_gampen.cluster.worker"],
    }
    if profile.interface:
        options["interface"] = profile.interface
    # All tasks share one terminal.
    warnings.filterwarnings("ignore", message="Port .* is already in use")
    logging.getLogger("distributed").setLevel(logging.ERROR)
    os.environ["DASK_LOGGING__DISTRIBUTED"] = "error"
    where = dict(scheduler(profile, security, host=None)["options"])
    try:
        with dask.config.set(worker_settings(profile)):
            _Runner(
                run,
                scheduler_file=str(place / "scheduler.json"),
                scheduler_options=where,
                worker_class="distributed.Nanny",
                worker_options=options,
            )
    except KeyboardInterrupt:  # which the runner sends itself when all is over
        pass
    except (RuntimeError, OSError) as error:
        if place.is_dir() and not (place / _OVER).exists():
            reason = " ".join(str(error.__cause__ or error).split())
            raise OutsideFault(f"a task of this step did not start: {reason}") from error


class _Runner(module("slurm").SLURMRunner):  # type: ignore[misc]
    """One task of the step, other than the client."""

    def __init__(self, run: RunDir, **words: Any) -> None:
        self._run = run
        super().__init__(**words)

    async def on_scheduler_start(self, scheduler: Scheduler) -> None:
        """See to it that the scheduler, and with it the workers, end with the client."""
        scheduler.loop.add_callback(self._end_with_client, scheduler)

    async def _end_with_client(self, scheduler: Scheduler) -> None:
        end = time.monotonic() + _PATIENCE
        while time.monotonic() < end and not (_place(self._run) / _OVER).exists():
            if _connections(scheduler) or holder_of(self._run) is not None:
                end = time.monotonic() + _GONE
            await asyncio.sleep(1.0)
        late = time.monotonic() + _LATE
        while len(scheduler.workers) < self.n_workers and time.monotonic() < late:
            await asyncio.sleep(0.2)  # who comes after the end would wait for a beginning
        await scheduler.close(reason="the client has gone")


def _connections(scheduler: Scheduler) -> int:
    """Clients that are connected; the scheduler counts one more that is none."""
    return len(scheduler.clients.keys() - {"fire-and-forget"})
