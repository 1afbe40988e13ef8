"""From a profile to a Dask cluster.

A profile is a YAML file whose every key has a comment; ``cluster/local.yaml`` is the first. The
workers of any cluster look the same to the runner: two threads, one slot of the resource
``infer`` and one of ``cut``, so that a worker cuts the next partition while it infers this one.
"""

from __future__ import annotations

import contextlib
import getpass
import logging
import queue
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import CancelledError
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import dask
import yaml
from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed import Client, Future, KilledWorker, LocalCluster, Security, get_worker
from distributed.system import MEMORY_LIMIT

from survey_gampen.errors import InputError, OutsideFault, UnfitWorker, WorkerLost
from survey_gampen.paths import data_file, is_path, names
from survey_gampen.tomlfile import check_keys

#: Slots of one worker: what a task asks for with ``resources=``.
SLOTS = {"infer": 1, "cut": 1}
_TOPIC = "galaxies"
MOST_THREADS = 4  # convolutions of this size gain little from more

T = TypeVar("T")

_DASK = {
    # The runner counts the losses of a partition itself, with all else that goes wrong.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": True,
    "distributed.comm.timeouts.connect": "60s",
    "distributed.worker.daemon": True,
    # Spilling has nothing to spill: results are small reports.
    "distributed.worker.memory.target": False,
    "distributed.worker.memory.spill": False,
    "distributed.worker.memory.pause": False,
}


@dataclass(frozen=True)
class Profile:
    """A resolved cluster profile.

    Attributes
    ----------
    name : str
        How it was asked for.
    kind : str
        ``local``.
    workers : int
        Worker processes.
    threads : int
        Cores that the network uses in one worker.
    memory : int
        Bytes of one worker, 0 for no limit.
    dashboard_port : int
        Port on loopback.
    scratch : str
        Local folder of the workers.
    window : int
        Partitions in the works for each worker.
    """

    name: str
    kind: str
    workers: int
    threads: int
    memory: int
    dashboard_port: int
    scratch: str
    window: int


def cores() -> int:
    """Return the cores that this process may use, affinity and control groups included."""
    return max(1, CPU_COUNT)


def load_profile(spec: str | Path = "local", workers: int | None = None) -> Profile:
    """Read a profile by name or path and resolve what it leaves to us.

    Parameters
    ----------
    spec : str or Path
    workers : int, optional
        As many workers as the job asks for, where the profile says ``auto``.

    Raises
    ------
    InputError
        Where there is no such profile, or a key is missing, unknown or no good.
    """
    if is_path(str(spec)):
        path = Path(spec).expanduser()
        if not path.is_file():
            raise InputError(f"no cluster profile {path}: give a YAML file or a name that is known")
    else:
        if str(spec) not in names("cluster", ".yaml"):
            known = ", ".join(names("cluster", ".yaml"))
            raise InputError(f"no cluster profile {str(spec)!r}: choose one of {known}, or a path")
        path = data_file("cluster", f"{spec}.yaml")
    try:
        given = yaml.safe_load(path.read_bytes())
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise InputError(f"{path} is no cluster profile: it must be keys and values")
    known_keys = {f.name for f in fields(Profile)} - {"name"}
    check_keys(map(str, given), known_keys, str(path))
    try:
        return _resolve(str(spec), given, workers)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None


def _resolve(name: str, given: Mapping[str, Any], wanted: int | None) -> Profile:
    if given.get("kind", "local") != "local":
        raise ValueError(f"kind {given['kind']!r} is not known; it must be local")
    have = cores()
    workers = _number(given, "workers", least=1) or wanted
    threads = _number(given, "threads", least=1)
    threads = threads or max(1, min(MOST_THREADS, have // (workers or 1)))
    workers = workers or max(1, have // threads)
    memory, scratch = given.get("memory", "auto"), given.get("scratch", "auto")
    if scratch != "auto" and not Path(str(scratch)).is_dir():
        raise ValueError(f"scratch {scratch} is no folder")
    return Profile(
        name=name,
        kind="local",
        workers=workers,
        threads=threads,
        memory=MEMORY_LIMIT // workers if memory == "auto" else int(parse_bytes(memory)),
        dashboard_port=_number(given, "dashboard_port", least=0) or 0,
        scratch=tempfile.gettempdir() if scratch == "auto" else str(scratch),
        window=_number(given, "window", least=2) or 3,
    )


def _number(given: Mapping[str, Any], key: str, least: int) -> int | None:
    """Return a whole number of the profile, None where it is left to us."""
    value = given.get(key, "auto")
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{key} must be a whole number of at least {least}, or auto")
    return value


@contextlib.contextmanager
def start(profile: Profile) -> Iterator[Client]:
    """Start the cluster of a profile and end it on leaving.

    Everything talks over TLS with certificates that live as long as the cluster: a port on
    loopback is open to all users of a machine, and who can talk to a scheduler can run code.

    Parameters
    ----------
    profile : Profile
        What `load_profile` returned.

    Yields
    ------
    Client
        Connected; its workers may still be coming.
    """
    threads = {f"{library}_NUM_THREADS": profile.threads for library in ("OMP", "MKL", "OPENBLAS")}
    settings = _DASK | {
        "distributed.nanny.pre-spawn-environ": {"MALLOC_TRIM_THRESHOLD_": 65536, **threads},
    }
    with (
        warnings.catch_warnings(),
        dask.config.set(settings),
        tempfile.TemporaryDirectory(
            prefix="survey-gampen-", dir=profile.scratch, ignore_cleanup_errors=True
        ) as scratch,
    ):
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        cluster = _local(profile, scratch)
        try:
            client = Client(cluster, set_as_default=False)
            try:
                yield client
            finally:
                with contextlib.suppress(Exception):
                    client.close(timeout=5)
        finally:
            with contextlib.suppress(Exception):
                cluster.close(timeout=10)


def _local(profile: Profile, scratch: str) -> LocalCluster:
    try:
        return LocalCluster(
            n_workers=profile.workers,
            threads_per_worker=sum(SLOTS.values()),
            resources=SLOTS,
            memory_limit=profile.memory,
            processes=True,
            host="127.0.0.1",
            protocol="tls://",
            security=Security.temporary(),
            dashboard_address=f"127.0.0.1:{profile.dashboard_port}",
            worker_dashboard_address="127.0.0.1:0",
            local_directory=scratch,
            silence_logs=logging.CRITICAL,
            # The workers leave Ctrl-C to the client, which ends them in order.
            preload=["survey_gampen.run.deaf"],
        )
    except (RuntimeError, OSError, TimeoutError) as error:  # a worker died as it began, say
        reason = " ".join(str(error).split())
        raise OutsideFault(f"the workers did not start ({reason}): run the same again") from error


def ask(client: Client, function: Callable[..., T], *args: Any, tries: int = 3) -> T:
    """Call a function on some worker; again, where that worker dies.

    Raises
    ------
    OutsideFault
        Where worker after worker dies.
    """
    for number in range(tries):
        future = client.submit(function, *args, key=f"{function.__name__}-{number}", pure=False)
        with contextlib.suppress(CancelledError):
            future.exception()  # waits
        ended = outcome(future)
        if not isinstance(ended, BaseException):
            answer: T = ended
            return answer
        if not isinstance(ended, WorkerLost):
            raise ended
    raise OutsideFault(f"{tries} workers died one after the other: give them more memory")


def dashboard_lines(client: Client) -> list[str]:
    """Return what to print about the dashboard: its address, and how to see it from elsewhere."""
    link = client.dashboard_link
    if not link:
        return []
    port = urlsplit(link).port
    host = socket.gethostname()
    return [
        f"dashboard: {link}",
        f"  from another machine: ssh -N -L {port}:127.0.0.1:{port} {getpass.getuser()}@{host}",
    ]


class DaskCrew:
    """The workers of a Dask client, as the conductor wants them.

    Results are small reports; each is forgotten here and on the cluster once it is told, so the
    memory of client and scheduler does not grow with the number of tasks.
    """

    def __init__(self, client: Client) -> None:
        self._client = client
        self._futures: dict[str, Future] = {}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._through: dict[str, int] = {}
        self._workers: list[str] = []
        self._looked = 0.0
        client.subscribe_topic(_TOPIC, self._hear)

    def workers(self) -> list[str]:
        """Return the addresses of the workers that are there."""
        now = time.monotonic()
        if now - self._looked > 1.0 or not self._workers:
            if self._client.status not in ("running", "connecting"):
                raise OutsideFault("the connection to the cluster is lost: run the same again")
            self._workers = list(self._client.nthreads())
            self._looked = now
        return self._workers

    def submit(self, key: str, slot: str, function: Callable[..., Any], *args: Any) -> None:
        """Begin a task in a slot of some worker.

        Dask chooses which: a task tied to a worker that has just died would wait for it for ever.
        """
        future = self._client.submit(
            _do,
            function,
            key,
            *args,
            key=key,
            resources={slot: 1},
            pure=False,
        )
        self._futures[key] = future
        future.add_done_callback(lambda ended: self._ended.put(ended.key))

    def finished(self, timeout: float) -> list[tuple[str, Any]]:
        """Wait for a task to end; return (key, result or exception) of all that did."""
        keys = []
        with contextlib.suppress(queue.Empty):
            keys.append(self._ended.get(timeout=timeout))
            while True:
                keys.append(self._ended.get_nowait())
        told = []
        for key in keys:
            future = self._futures.pop(key)
            told.append((key, outcome(future)))
            future.release()
            self._through.pop(key, None)
        if any(isinstance(ended, WorkerLost) for _, ended in told):
            self._looked = 0.0
        return told

    def through(self, key: str) -> int:
        """Return how many galaxies of a task are through the network."""
        return self._through.get(key, 0)

    def retire(self, worker: str) -> None:
        """Send a worker away."""
        self._client.retire_workers([worker])
        self._looked = 0.0

    def _hear(self, event: tuple[float, tuple[str, int]]) -> None:
        key, galaxies = event[1]
        if key in self._futures:
            self._through[key] = self._through.get(key, 0) + galaxies


def _do(function: Callable[..., Any], key: str, *args: Any) -> Any:
    """On the worker: call a function, which may tell how far it is."""
    worker = get_worker()
    try:
        return function(*args, tick=lambda galaxies: worker.log_event(_TOPIC, (key, galaxies)))
    except UnfitWorker as error:
        error.where = worker.address
        raise


def outcome(future: Future) -> Any:
    """Return the result of a future that ended, or the exception that ended it."""
    if future.status == "finished":
        return future.result()
    if future.status != "error":
        return WorkerLost("the task was dropped by the cluster")
    error = future.exception()
    if isinstance(error, KilledWorker):
        return WorkerLost(f"the worker at {error.last_worker.address} died")
    return error.with_traceback(future.traceback())
