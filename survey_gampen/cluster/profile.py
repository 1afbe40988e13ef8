"""What a cluster profile comes to: how many workers, what each has, how jobs are submitted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

#: Batch systems, by the names that dask-jobqueue has for them.
BATCH = ("slurm", "pbs", "sge", "lsf", "htcondor", "oar", "moab")
KINDS = ("local", *BATCH, "allocation")


@dataclass(frozen=True)
class Ask:
    """What the batch system is asked for.

    Attributes
    ----------
    workers : int
        Worker processes of this kind in all jobs together.
    processes : int
        Workers of one job.
    threads : int
        Cores of one worker.
    memory : int
        Bytes of one worker.
    gpus : int
        GPUs of one worker: 0 or 1.
    walltime : int or None
        Of a job [s]; None where jobs may last for ever.
    queue, account, resource_spec, gpu_request : str or None
        In the batch system's own words.
    directives, skip_directives : tuple of str
        Lines to add to a job script, and words whose lines are left out.
    site : mapping
        What this job takes of the site's configuration of dask-jobqueue, by dask's names.
    """

    workers: int
    processes: int
    threads: int
    memory: int
    gpus: int
    walltime: int | None
    queue: str | None = None
    account: str | None = None
    resource_spec: str | None = None
    gpu_request: str | None = None
    directives: tuple[str, ...] = ()
    skip_directives: tuple[str, ...] = ()
    site: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def jobs(self) -> int:
        """Jobs that hold all workers."""
        return -(-self.workers // self.processes)


@dataclass(frozen=True)
class Batch:
    """How jobs are submitted.

    Attributes
    ----------
    ask : Ask
        Workers that infer; they cut too where there are no others for that.
    driver : Ask
        The client's own job, where it is one.
    cutters : Ask or None
        Workers without a GPU that cut.
    name : str
        Of the jobs.
    python : str or None
        Interpreter on the nodes; this one, if None.
    prologue : tuple of str
        Shell lines before the worker begins.
    shared : str or None
        Folder that all nodes see and nobody else may read; in the run's folder, if None.
    scratch : str or None
        Local folder of a node.
    patience : int
        Seconds without any worker after which it is told what the jobs wait for.
    from_site : mapping
        Keys of the site's configuration that the workers' jobs take.
    """

    ask: Ask
    driver: Ask
    cutters: Ask | None = None
    name: str = "survey-gampen"
    python: str | None = None
    prologue: tuple[str, ...] = ()
    shared: str | None = None
    scratch: str | None = None
    patience: int = 60
    from_site: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Profile:
    """A resolved cluster profile.

    Attributes
    ----------
    name : str
        How it was asked for.
    kind : str
        One of :data:`KINDS`.
    path : Path
        The file.
    workers : int
        Worker processes that infer.
    threads : int
        Cores that the network uses in one worker.
    memory : int
        Bytes of one worker, 0 for no limit.
    gpus : int
        GPUs of one worker: 0 or 1.
    cuda : bool
        Whether a worker with a GPU must be able to compute on it.
    dashboard_port : int
        Port on loopback.
    scratch : str
        Local folder of the workers.
    window : int
        Partitions in the works for each worker.
    interface : str or None
        Network interface by which workers reach the scheduler.
    batch : Batch or None
        How jobs are submitted, if they are.
    """

    name: str
    kind: str
    path: Path
    workers: int
    threads: int
    memory: int
    gpus: int
    cuda: bool
    dashboard_port: int
    scratch: str
    window: int
    interface: str | None = None
    batch: Batch | None = None

    @property
    def walltime(self) -> int | None:
        """How long the job of a worker may last [s]; None: for ever, or it is in none."""
        return self.batch.ask.walltime if self.batch else None


def without_cutters(profile: Profile) -> Profile:
    """The same without workers that only cut."""
    if profile.batch is None:
        return profile
    return replace(profile, batch=replace(profile.batch, cutters=None))
