"""From a profile to a running cluster: `with start(profile, folder) as cluster`."""

from __future__ import annotations

import contextlib
import getpass
import logging
import socket
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol
from urllib.parse import urlsplit

import dask
from distributed import Client, SpecCluster

from survey_gampen.cluster import certificates, local
from survey_gampen.cluster.profile import Profile
from survey_gampen.cluster.worker import REFUSED
from survey_gampen.errors import OutsideFault
from survey_gampen.run.layout import RunDir
from survey_gampen.storage import at

_DASK = {
    # The runner counts the losses of a partition itself, with all else that goes wrong.
    "distributed.scheduler.allowed-failures": 0,
    "distributed.scheduler.work-stealing": True,
    "distributed.comm.timeouts.connect": "60s",
}
#: Seconds without a worker after which a local cluster is given up.
_PATIENCE = 60.0


class Jobs(Protocol):
    """Jobs of a batch system, looked after."""

    def check(self) -> None:
        """Raise where no worker will ever come."""
        ...

    def more_work(self, there_is: bool) -> None:
        """Hear whether work is left to give out: without, jobs end and are not replaced."""
        ...

    def states(self) -> list[str]:
        """Return a line a job: how long ago it was submitted, and what is said of it."""
        ...


@dataclass
class Cluster:
    """A cluster that is up; its workers may still be coming.

    Attributes
    ----------
    profile : Profile
    client : Client
        Connected to the scheduler.
    fleet : Jobs or None
        Its jobs, if it has some.
    """

    profile: Profile
    client: Client
    fleet: Jobs | None = None
    _refused: dict[str, str] = field(default_factory=dict, repr=False)
    _hear: Callable[[tuple[float, tuple[str, str]]], None] = field(
        default=lambda event: None, repr=False
    )
    _last_seen: float = field(default_factory=time.monotonic, repr=False)
    _looked: float = field(default=0.0, repr=False)

    @property
    def slots(self) -> dict[str, str]:
        """The resource that each kind of task takes."""
        return {"infer": "GPU" if self.profile.gpus else "INFER", "cut": "CPU"}

    def check(self) -> None:
        """See that there are workers, or that some may come.

        Raises
        ------
        OutsideFault
            Where none is left, or the connection is lost.
        InputError
            Where the batch system will never give any.
        """
        if self.client.status not in ("running", "connecting"):
            raise OutsideFault("the connection to the cluster is lost: run the same again")
        if self.fleet is not None:
            self.fleet.check()
            return
        now = time.monotonic()
        if now - self._looked < 1.0:
            return
        self._looked = now
        if len(self._refused) >= self.profile.workers:
            raise OutsideFault(f"no worker can be used: {next(iter(self._refused.values()))}")
        if self.client.nthreads():
            self._last_seen = now
            return
        self._hear_past()
        if now - self._last_seen > _PATIENCE:
            raise OutsideFault("no worker is left: look at the machine, then go on")

    def hear_refused(self, say: Callable[[str], None]) -> None:
        """Tell of workers that leave because they can't be what they were promised to be."""

        def hear(event: tuple[float, tuple[str, str]]) -> None:
            name, why = event[1]
            if name not in self._refused:
                self._refused[name] = why
                say(f"worker {name} leaves: {why}")

        self._hear = hear
        self.client.subscribe_topic(REFUSED, hear)
        self._hear_past()

    def _hear_past(self) -> None:
        """Workers may have left before anybody listened."""
        for event in self.client.get_events(REFUSED) or ():
            self._hear(event)

    def more_work(self, there_is: bool) -> None:
        """Say whether work is left to give out: if not, workers that end are not replaced."""
        if self.fleet is not None:
            self.fleet.more_work(there_is)

    def dashboard_lines(self) -> list[str]:
        """Return what to print: where the dashboard is, and how to see it from elsewhere."""
        link = self.client.dashboard_link
        if not link:
            return []
        port, host = urlsplit(link).port, socket.gethostname()
        if self.profile.kind == "allocation":  # the scheduler is another task, on another node
            host = str(urlsplit(self.client.scheduler.address).hostname)
        here = f"http://127.0.0.1:{port}"
        return [
            f"dashboard: {here}/status, this run: {here}/survey-gampen",
            f"  from another machine: ssh -N -L {port}:127.0.0.1:{port} {getpass.getuser()}@{host}",
        ]


@contextlib.contextmanager
def start(
    profile: Profile, folder: Path | None = None, say: Callable[[str], None] = print
) -> Iterator[Cluster]:
    """Start the cluster of a profile and end it on leaving.

    Everything talks over TLS with certificates that live as long as the cluster.

    Parameters
    ----------
    profile : Profile
        What `load_profile` returned.
    folder : Path, optional
        Where jobs find certificates and leave their logs; on a file system that all nodes see.
        A profile on this machine needs none.
    say : callable
        Tells the user a line.

    Raises
    ------
    InputError
        If the batch system refuses the jobs, or the machine lacks what the profile asks for.
    OutsideFault
        If the workers did not start.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(warnings.catch_warnings())
        warnings.filterwarnings("ignore", message="Port .* is already in use")
        stack.enter_context(dask.config.set(_DASK | local.worker_settings(profile)))
        out = at(folder or Path.cwd())
        if profile.kind == "allocation":
            from survey_gampen.cluster import allocation

            client = stack.enter_context(allocation.connected(out))
            cluster = Cluster(profile, client)
            cluster.hear_refused(say)
            yield cluster
        elif profile.batch is None:
            cluster = stack.enter_context(_on_this_machine(profile))
            cluster.hear_refused(say)
            yield cluster
        else:
            yield stack.enter_context(_of_jobs(profile, RunDir(out), say))


@contextlib.contextmanager
def _on_this_machine(profile: Profile) -> Iterator[Cluster]:
    with tempfile.TemporaryDirectory(
        prefix="survey-gampen-", dir=profile.scratch, ignore_cleanup_errors=True
    ) as scratch:
        cluster = local.start(profile, scratch)
        with _ending(cluster), _connected(cluster) as client:
            yield Cluster(profile, client)


@contextlib.contextmanager
def _of_jobs(profile: Profile, run: RunDir, say: Callable[[str], None]) -> Iterator[Cluster]:
    from survey_gampen.cluster.fleet import Fleet

    assert profile.batch is not None
    certificates.check_path(run.job_logs)
    run.job_logs.mkdir(parents=True, exist_ok=True)
    shared = Path(profile.batch.shared) if profile.batch.shared else run.cluster
    with certificates.on_disk(shared, owner=run.home) as security:
        options = local.scheduler(profile, security, host=None)
        cluster = SpecCluster(
            scheduler=options, workers={}, security=security, silence_logs=logging.CRITICAL
        )
        with _ending(cluster), _connected(cluster) as client:
            fleet = Fleet(profile, client, security, run.job_logs, say)
            try:
                fleet.begin()
                yield Cluster(profile, client, fleet)
            finally:
                fleet.end()


@contextlib.contextmanager
def _ending(cluster: SpecCluster) -> Iterator[None]:
    try:
        yield
    finally:
        with contextlib.suppress(Exception):
            cluster.close(timeout=10)


@contextlib.contextmanager
def _connected(cluster: SpecCluster) -> Iterator[Client]:
    client = Client(cluster, set_as_default=False)
    try:
        yield client
    finally:
        with contextlib.suppress(Exception):
            client.close(timeout=5)
