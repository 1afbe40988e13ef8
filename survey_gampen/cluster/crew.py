"""Workers of a Dask client that do single tasks, and how a task ended."""

from __future__ import annotations

import contextlib
import queue
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import CancelledError
from typing import Any, TypeVar

from distributed import Future, KilledWorker, get_worker

from survey_gampen.cluster import worker as at_worker
from survey_gampen.cluster.page import STATE
from survey_gampen.cluster.present import workers_of
from survey_gampen.cluster.start import Cluster
from survey_gampen.errors import OutsideFault, UnfitWorker, WorkerLeaving, WorkerLost

_TOPIC = "galaxies"
#: Seconds between two words to the dashboard.
_TELL = 2.0
#: Seconds in which a worker that is about to leave has told so: until then it looks free.
_LEAVING = 1.5

T = TypeVar("T")


def on_one(
    cluster: Cluster,
    function: Callable[..., T],
    *args: Any,
    check: Callable[[], None] | None = None,
    tries: int = 3,
) -> T:
    """Call a function on some worker that infers; again, where that worker dies.

    Parameters
    ----------
    cluster : Cluster
    function : callable
    *args
        Its arguments.
    check : callable, optional
        Called while waiting, in place of the cluster's own check.
    tries : int

    Raises
    ------
    OutsideFault
        Where worker after worker dies.
    """
    for number in range(tries):
        future = cluster.client.submit(
            function,
            *args,
            key=f"{function.__name__}-{number}",
            resources={cluster.slots["infer"]: 1},
            pure=False,
        )
        while not future.done():
            (check or cluster.check)()
            with contextlib.suppress(CancelledError, TimeoutError):
                future.exception(timeout=0.5)
        ended = outcome(future)
        if not isinstance(ended, BaseException):
            answer: T = ended
            return answer
        if not isinstance(ended, WorkerLost):
            raise ended
    raise OutsideFault(f"{tries} workers died one after the other: give them more memory")


class DaskCrew:
    """The workers of a Dask client, as the conductor wants them.

    Results are small reports; each is forgotten here and on the cluster once it is told, so the
    memory of client and scheduler does not grow with the number of tasks.

    Parameters
    ----------
    cluster : Cluster
    """

    def __init__(self, cluster: Cluster) -> None:
        self._cluster, self._client = cluster, cluster.client
        self._futures: dict[str, Future] = {}
        self._ended: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._through: dict[str, int] = {}
        self._longest: dict[str, float] = {}
        self._kind: dict[str, str] = {}
        self._seats: Counter[str] = Counter()
        self._looked = self._told = 0.0
        self._client.subscribe_topic(_TOPIC, self._hear)

    def seats(self, slot: str) -> int:
        """Return how many tasks of a kind the workers that are there can do at once.

        Raises
        ------
        OutsideFault, InputError
            Where none is left, and none will come.
        """
        self._cluster.check()
        now = time.monotonic()
        if now - self._looked > 1.0:
            self._looked = now
            with contextlib.suppress(OSError):  # no answer now: as many as a moment ago
                workers = workers_of(self._client).values()
                self._seats = Counter()
                for worker in workers:
                    self._seats.update({k: int(v) for k, v in worker["resources"].items()})
        return self._seats[self._cluster.slots[slot]]

    def submit(self, key: str, slot: str, function: Callable[..., Any], *args: Any) -> None:
        """Begin a task in a slot of some worker.

        Dask chooses which: a task tied to a worker that has just died would wait for it for ever.
        """
        future = self._client.submit(
            _do,
            function,
            key,
            slot,
            self._longest.get(slot, 0.0),
            *args,
            key=key,
            resources={self._cluster.slots[slot]: 1},
            pure=False,
        )
        self._futures[key], self._kind[key] = future, slot
        future.add_done_callback(lambda ended: self._ended.put(ended.key))

    def expect(self, slot: str, seconds: float) -> None:
        """Say how long a task of a kind may take, before one was seen."""
        self._longest[slot] = max(self._longest.get(slot, 0.0), seconds)

    def finished(self, timeout: float) -> list[tuple[str, Any]]:
        """Wait for a task to end; return (key, result or exception) of all that did."""
        keys = []
        with contextlib.suppress(queue.Empty):
            keys.append(self._ended.get(timeout=timeout))
            while True:
                keys.append(self._ended.get_nowait())
        told = []
        for key in keys:
            future, slot = self._futures.pop(key), self._kind.pop(key)
            ended = outcome(future)
            if isinstance(ended, dict):
                self.expect(slot, float(ended.get("seconds", 0.0)))
            told.append((key, ended))
            future.release()
            self._through.pop(key, None)
        if any(isinstance(ended, WorkerLost | WorkerLeaving) for _, ended in told):
            self._looked = 0.0
        return told

    def through(self, key: str) -> int:
        """Return how many galaxies of a task are through the network."""
        return self._through.get(key, 0)

    def retire(self, worker: str) -> None:
        """Send a worker away."""
        self._client.retire_workers([worker])
        self._looked = 0.0

    def tell(self, state: dict[str, Any]) -> None:
        """Tell the dashboard how far the run is; now and then is enough."""
        now = time.monotonic()
        if now - self._told > _TELL:
            self._told = now
            self._client.log_event(STATE, state)

    def more_work(self, there_is: bool) -> None:
        """Hear whether work is left to give out: if not, workers that end are not replaced."""
        self._cluster.more_work(there_is)

    def _hear(self, event: tuple[float, tuple[str, int]]) -> None:
        key, galaxies = event[1]
        if key in self._futures:
            self._through[key] = self._through.get(key, 0) + galaxies


def _do(function: Callable[..., Any], key: str, slot: str, longest: float, *args: Any) -> Any:
    """On the worker: call a function, which may tell how far it is."""
    worker = get_worker()

    def tick(galaxies: int) -> None:
        at_worker.through(galaxies)
        worker.log_event(_TOPIC, (key, galaxies))

    try:
        result = in_time(slot, longest, function, *args, tick=tick)
        return {**result, "worker": str(worker.name)} if isinstance(result, dict) else result
    except UnfitWorker as error:
        error.where = worker.address
        raise


def in_time(
    kind: str, longest: float, function: Callable[..., T], *args: Any, **keywords: Any
) -> T:
    """On the worker: call a function if what is left of the worker's job is long enough.

    Parameters
    ----------
    kind : str
        Of task.
    longest : float
        How long one of the kind has taken elsewhere [s].
    function : callable
    *args, **keywords
        Its arguments.

    Raises
    ------
    WorkerLeaving
        If the job ends too soon.
    """
    at_worker.took(kind, longest)
    if not at_worker.begins(kind):
        time.sleep(_LEAVING)
        raise WorkerLeaving(f"the job of {get_worker().name} ends too soon for another task")
    begun = time.monotonic()
    try:
        return function(*args, **keywords)
    finally:
        at_worker.took(kind, time.monotonic() - begun)


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
