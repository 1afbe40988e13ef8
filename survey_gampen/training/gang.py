"""One training on several workers of a Dask cluster: all ranks, or none.

Each rank is a task on a worker of its own. The first opens a store on its machine, and all meet
there. When a rank is lost, what it was computing with the others is lost with it: all of them
end, and begin again together from the last epoch.
"""

from __future__ import annotations

import contextlib
import os
import queue
import socket
import time
import uuid
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
from distributed import Variable, Worker, get_worker
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from survey_gampen.cluster.crew import outcome
from survey_gampen.cluster.present import workers_of
from survey_gampen.cluster.start import Cluster, start
from survey_gampen.errors import GampenError, InputError, OutsideFault, WorkerLost
from survey_gampen.pool import profile_for_tasks
from survey_gampen.posterior.settings import use_threads
from survey_gampen.run.words import say
from survey_gampen.training.order import Order, work
from survey_gampen.training.ranks import Ranks, joined
from survey_gampen.training.watch import Watch

#: Gangs that may break one after the other with no epoch between them; one more for each further
#: rank that runs in a job, which may end by its own walltime.
TRIES = 3
_TOPIC = "training"
#: How long to wait for workers to come, for the first rank to say where it is, and for ranks to
#: notice that one of them has gone [s].
_WORKERS, _MEETING, _ENDING = 120.0, 300.0, 60.0


def train_on(name: str, order: Order, ranks: int, watch: Watch, check: Callable[[], None]) -> None:
    """Train on the workers of a cluster profile.

    Parameters
    ----------
    name : str
        Cluster profile.
    order : Order
    ranks : int
        Workers to train on.
    watch : Watch
    check : callable
        Raises where the right to train here was lost.

    Raises
    ------
    InputError
        If the profile has fewer workers, or the training itself can't be done.
    OutsideFault
        If ranks are lost again and again.
    """
    profile = profile_for_tasks(name, workers=ranks)
    if profile.workers < ranks:
        raise InputError(
            f"cluster profile {name!r} has {profile.workers} workers: give fewer --ranks, or set "
            "workers in a copy of the profile"
        )
    order = replace(order, limit=profile.memory)
    tries = TRIES if profile.batch is None else TRIES + ranks - 1
    with start(profile, Path(order.out), say) as cluster:
        for line in cluster.dashboard_lines():
            say(line)
        relay = _Relay(watch)
        cluster.client.subscribe_topic(_TOPIC, relay.hear)
        broken = 0
        while True:
            check()
            epochs = relay.epochs
            try:
                _gang(cluster, order, ranks, profile.threads)
                return
            except WorkerLost as error:
                broken = broken + 1 if relay.epochs == epochs else 1
                if broken == tries:
                    raise OutsideFault(
                        f"{error}, {tries} times with no epoch between: give the workers more "
                        "memory, or their jobs more time, then run the same command again"
                    ) from error
                say(f"{error}: all ranks begin again after the last epoch")


def _gang(cluster: Cluster, order: Order, ranks: int, threads: int) -> None:
    """Train with ranks that begin together; return when all have ended.

    Raises
    ------
    WorkerLost
        If one of them was lost.
    """
    name = uuid.uuid4().hex
    client, workers = cluster.client, _workers(cluster, ranks)
    futures = {
        client.submit(
            _rank,
            Ranks(index, ranks),
            order,
            threads,
            name,
            key=f"train-rank-{index}-{name[:8]}",
            workers=[worker],
            allow_other_workers=False,
            resources={cluster.slots["infer"]: 1},
            pure=False,
        ): worker
        for index, worker in enumerate(workers)
    }
    ended: queue.SimpleQueue[Any] = queue.SimpleQueue()
    for future in futures:
        future.add_done_callback(ended.put)
    running = dict(futures)
    errors: list[BaseException] = []
    patience = float("inf")
    try:
        while running and time.monotonic() < patience:
            with contextlib.suppress(queue.Empty):
                future = ended.get(timeout=1.0)
                # Of one whose worker was seen to be gone, Dask may tell as well, and later.
                if running.pop(future, None) is not None:
                    told = outcome(future)
                    if isinstance(told, BaseException):
                        errors.append(told)
            # A task tied to a worker that has died waits for it, and never ends.
            there = client.nthreads()
            for future in [f for f, worker in running.items() if worker not in there]:
                errors.append(WorkerLost(f"the worker at {running.pop(future)} died"))
            if errors:
                patience = min(patience, time.monotonic() + _ENDING)
    finally:
        client.cancel(list(futures))
        if running:
            with contextlib.suppress(Exception):
                client.restart_workers(list(running.values()))
    if errors:
        raise _cause(errors)


def _cause(errors: list[BaseException]) -> BaseException:
    """Of all that the ranks say, what came first: the others fail because that one did."""
    ours = [e for e in errors if isinstance(e, GampenError)]
    told = [e for e in ours if not isinstance(e, WorkerLost)]
    return (told or ours or errors)[0]


def _workers(cluster: Cluster, n: int) -> list[str]:
    """Wait for workers that infer: on this machine not long, and as long as jobs may wait."""
    slot, begun = cluster.slots["infer"], time.monotonic()
    while True:
        cluster.check()
        with contextlib.suppress(OSError):  # no answer now
            workers = workers_of(cluster.client)
            able = _longest_lived(workers, slot)
            if len(able) >= n:
                return able[:n]
        if cluster.fleet is None and time.monotonic() - begun > _WORKERS:
            raise OutsideFault(
                f"there are no {n} workers after {_WORKERS:.0f} s: run the same command again"
            )
        time.sleep(0.2)


def _longest_lived(workers: dict[str, dict[str, Any]], slot: str) -> list[str]:
    """Addresses of workers with a slot, those first whose jobs last longest."""

    def left(address: str) -> float:
        told = workers[address]["metrics"].get("survey_gampen") or {}
        return float(told.get("job_seconds_left", float("inf")))

    able = sorted(address for address, facts in workers.items() if facts["resources"].get(slot))
    return sorted(able, key=left, reverse=True)


def _rank(ranks: Ranks, order: Order, threads: int, name: str) -> None:
    """On a worker: be one rank, from the meeting to the last epoch."""
    worker = get_worker()
    use_threads(threads)
    host = str(urlsplit(worker.address).hostname)
    os.environ["GLOO_SOCKET_IFNAME"] = _interface(host)
    place = Variable(name)
    if ranks.first:
        store = _open_store(host, ranks.size)
        place.set((host, store.port))
    else:
        try:
            host, port = place.get(timeout=_MEETING)
        except TimeoutError:
            raise WorkerLost("the first rank did not come") from None
        store = TCPStore(host, port, ranks.size, is_master=False)
    with joined(ranks, order.device, store) as ranks:
        work(order, ranks, _Teller(worker) if ranks.first else Watch())


def _open_store(host: str, ranks: int) -> TCPStore:
    """A store that listens on one address; left to itself it would on all of the machine."""
    listening = socket.create_server((host, 0))
    port = listening.getsockname()[1]
    return TCPStore(
        *(host, port, ranks),
        is_master=True,
        wait_for_workers=False,
        master_listen_fd=listening.detach(),
    )


def _interface(host: str) -> str:
    """Name of the network interface by which other workers reach this machine."""
    for name, addresses in psutil.net_if_addrs().items():
        if any(a.family == socket.AF_INET and a.address == host for a in addresses):
            return name
    raise OutsideFault(f"no network interface of {socket.gethostname()} has the address {host}")


class _Teller(Watch):
    """On the worker: tells the client."""

    def __init__(self, worker: Worker) -> None:
        self._worker, self._steps, self._told = worker, 0, 0.0

    def begins(self, epoch: int, epochs: int, steps: int) -> None:
        self._steps = 0
        self._worker.log_event(_TOPIC, ("begins", (epoch, epochs, steps)))

    def step(self, n: int = 1) -> None:
        self._steps += n
        if time.monotonic() - self._told > 1.0:
            self._worker.log_event(_TOPIC, ("step", (self._steps,)))
            self._steps, self._told = 0, time.monotonic()

    def says(self, line: str) -> None:
        self._worker.log_event(_TOPIC, ("says", (line,)))

    def ended(self, found: dict[str, Any], epochs: int) -> None:
        self._worker.log_event(_TOPIC, ("ended", (found, epochs)))


class _Relay:
    """At the client: hears what the first rank tells."""

    def __init__(self, watch: Watch) -> None:
        self._watch, self.epochs = watch, 0

    def hear(self, event: tuple[float, tuple[str, tuple[Any, ...]]]) -> None:
        what, arguments = event[1]
        self.epochs += what == "ended"
        getattr(self._watch, what)(*arguments)
