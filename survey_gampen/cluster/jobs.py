"""From a profile to job scripts: what dask-jobqueue needs to know, for each batch system.

Scripts, submission and cancelling are dask-jobqueue's (its ``Job`` classes). Which jobs there are,
when they are replaced and what is said of them is the fleet's (:mod:`survey_gampen.cluster.fleet`).
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dask
import yaml
from distributed import Security

from survey_gampen.cluster.jobqueue import Job, dask_jobqueue, module
from survey_gampen.cluster.local import CALM, process_environment
from survey_gampen.cluster.profile import Ask, Batch, Profile

_CLASSES = {
    "slurm": "SLURMJob",
    "pbs": "PBSJob",
    "sge": "SGEJob",
    "lsf": "LSFJob",
    "htcondor": "HTCondorJob",
    "oar": "OARJob",
    "moab": "MoabJob",
}
#: How a script is handed over.
SUBMIT = {
    "slurm": "sbatch {script}",
    "pbs": "qsub {script}",
    "sge": "qsub {script}",
    "lsf": "bsub < {script}",
    "htcondor": "condor_submit {script}",
    "oar": "oarsub -S {script}",
    "moab": "msub {script}",
}
#: How one asks for `{gpus}` GPUs: as a directive of its own, or inside the one request that cores,
#: memory and GPUs share (:data:`_SPEC`).
_GPU_REQUEST = {
    "slurm": "--gres=gpu:{gpus}",
    "sge": "-l gpu={gpus}",
    "lsf": '-gpu "num={gpus}"',
    "htcondor": "request_gpus = {gpus}",
    "pbs": "ngpus={gpus}",
    "moab": "gpus={gpus}",
    "oar": "gpu={gpus}",
}
#: Moab's dialect is that of Torque, which knows no ``select``; OAR is told of memory by its own
#: properties, and gives cores with its GPUs.
_SPEC = {
    "pbs": "select=1:ncpus={cores}:mem={mib}mb",
    "moab": "nodes=1:ppn={cores},mem={mib}mb",
    "oar": "/nodes=1/core={cores}",
}
_SPEC_GPU = {
    "pbs": "select=1:ncpus={cores}:mem={mib}mb:{gpu}",
    "moab": "nodes=1:ppn={cores}:{gpu},mem={mib}mb",
    "oar": "/nodes=1/{gpu}",
}
#: Threads of a worker process: one waits for the network while others cut.
_THREADS = 2


@cache
def shipped(kind: str) -> Mapping[str, Any]:
    """Return what dask-jobqueue's own configuration says of a batch system, without any site's."""
    path = Path(dask_jobqueue.__file__).with_name("jobqueue.yaml")
    found: Mapping[str, Any] = yaml.safe_load(path.read_text())["jobqueue"][kind]
    return found


def resources(ask: Ask, cuts: bool) -> dict[str, int]:
    """Slots of one worker: ``GPU`` or ``INFER``, and ``CPU``.

    Parameters
    ----------
    ask : Ask
    cuts : bool
        Whether this worker cuts for itself.
    """
    return {"GPU" if ask.gpus else "INFER": 1} | ({"CPU": 1} if cuts else {})


def kinds(batch: Batch) -> list[tuple[Ask, dict[str, int]]]:
    """Kinds of job of a run, with the slots of their workers."""
    wanted = [(batch.ask, resources(batch.ask, cuts=batch.cutters is None))]
    if batch.cutters:
        wanted.append((batch.cutters, {"CPU": batch.cutters.threads}))
    return wanted


def make_job(
    profile: Profile,
    ask: Ask,
    slots: dict[str, int],
    *,
    name: str = "worker",
    scheduler: str = "tls://scheduler:0",
    security: Security | None = None,
    logs: Path | None = None,
) -> Job:
    """Return a job that can be shown, submitted and cancelled.

    Parameters
    ----------
    profile : Profile
        Of a batch system.
    ask : Ask
        What this job is to ask for.
    slots : dict
        Of each of its workers.
    name : str
        Of the worker.
    scheduler : str
        Address of Dask's scheduler.
    security : Security, optional
        With files as certificates.
    logs : Path, optional
        Folder for what the jobs print.
    """
    kind, batch = profile.kind, profile.batch
    assert batch is not None
    cores, gpus = ask.threads * ask.processes, ask.gpus * ask.processes
    facts = {"cores": cores, "mib": -(-ask.memory * ask.processes // 2**20), "gpus": gpus}
    gpu = (ask.gpu_request or _GPU_REQUEST[kind]).format(**facts) if gpus else ""
    directives = _directives(kind, batch.name, ask, logs)
    spec = ask.resource_spec
    if gpus and kind not in _SPEC:
        directives.insert(0, gpu)
    if spec is None and kind in _SPEC and "resource-spec" not in ask.site:
        spec = (_SPEC_GPU if gpus else _SPEC)[kind].format(gpu=gpu, **facts)
    skip = (*ask.site.get("job-directives-skip", ()), *ask.skip_directives)
    words = " ".join(f"{slot}={number}" for slot, number in slots.items())
    options: dict[str, Any] = {
        "scheduler": scheduler,
        "name": name,
        "cores": cores,
        "memory": f"{facts['mib']} MiB",
        "processes": ask.processes,
        "job_name": batch.name,
        "python": batch.python,
        "protocol": "tls://",
        "security": security,
        "interface": profile.interface,
        "local_directory": batch.scratch,
        "death_timeout": 60,
        "log_directory": None if logs is None else str(logs),
        "job_script_prologue": _prologue(batch, ask, profile.cuda),
        "job_directives_skip": skip or None,
        "worker_extra_args": [
            f'--resources "{words}"',
            "--preload survey_gampen.cluster.worker",
            "--dashboard-address 127.0.0.1:0",
        ],
        "job_extra_directives": directives or None,
    }
    options |= _own_words(kind, ask, spec)
    if kind == "htcondor" and directives:
        pairs = (line.partition("=") for line in directives)
        options["job_extra_directives"] = {k.strip(): v.strip() for k, _, v in pairs}
    made = _construct(kind, ask, options)
    _set_threads(made, max(_THREADS, slots.get("CPU", 0)))
    return made


def _construct(kind: str, ask: Ask, options: Mapping[str, Any]) -> Job:
    """Make dask-jobqueue's job.

    What it is not told it looks up in dask's configuration. There it must find no more of the
    site's keys than this job takes: a `job-mem` would go before the memory of the profile.
    """
    found = {**shipped(kind), **ask.site}
    with warnings.catch_warnings(), dask.config.set({f"jobqueue.{kind}": found}):
        warnings.simplefilter("ignore")  # of OAR, about memory: its profile says what to do
        made: Job = _class(kind)(**options)
    return made


def _set_threads(job: Job, threads: int) -> None:
    """Set the threads of a worker process, for which dask-jobqueue takes the cores of a worker."""
    theirs = f"--nthreads {job.worker_process_threads} --memory-limit"
    ours = f"--nthreads {threads} --memory-limit"
    job._command_template = job._command_template.replace(theirs, ours)


def _directives(kind: str, name: str, ask: Ask, logs: Path | None) -> list[str]:
    """Lines that dask-jobqueue does not write itself: those of the site, then the profile's."""
    # These run scripts by the user's login shell, whatever the first line says.
    found = ["-S /bin/bash"] if kind in ("pbs", "sge", "moab") else []
    if kind == "oar" and logs is not None:
        found += [f"-O {logs}/{name}-%jobid%.out", f"-E {logs}/{name}-%jobid%.err"]
    site = ask.site.get("job-extra-directives", [])
    if isinstance(site, Mapping):  # HTCondor's
        site = [f"{key} = {value}" for key, value in site.items()]
    return [*found, *site, *ask.directives]


def _own_words(kind: str, ask: Ask, spec: str | None) -> dict[str, Any]:
    """Return what batch systems have different names for."""
    if kind == "htcondor":
        return {"disk": "4 GiB"}
    minutes, seconds = divmod(ask.walltime or 0, 60)
    hours, minutes = divmod(minutes, 60)
    said: dict[str, Any] = {
        "queue": ask.queue,
        "walltime": f"{hours:02d}:{minutes:02d}:{seconds:02d}",
    }
    said["account" if kind in ("slurm", "pbs", "moab") else "project"] = ask.account
    if kind == "lsf":
        said["walltime"] = f"{hours:02d}:{minutes:02d}"
    elif kind != "slurm":
        said["resource_spec"] = spec
    return said


def _prologue(batch: Batch, ask: Ask, cuda: bool) -> list[str]:
    """Shell lines before the worker begins. The clock first: modules may take minutes to load."""
    # As dask reads its configuration from the environment.
    settings = {
        f"DASK_{k.replace('.', '__').replace('-', '_').upper()}": v for k, v in CALM.items()
    }
    lines = [
        "export SURVEY_GAMPEN_BEGAN=`date +%s`",  # HTCondor has its own ideas about $( )
        f"export SURVEY_GAMPEN_WALLTIME={ask.walltime or ''}",
        f"export SURVEY_GAMPEN_PROCESSES={ask.processes}",
        *(
            f"export {k}={v}"
            for k, v in (process_environment(ask.threads, ask.memory) | settings).items()
        ),
    ]
    if ask.gpus:
        lines.append(f"export SURVEY_GAMPEN_GPU={'cuda' if cuda else 'any'}")
    return [*lines, *ask.site.get("job-script-prologue", ()), *batch.prologue]


def _class(kind: str) -> type[Job]:
    if kind in ("lsf", "htcondor"):
        return {"lsf": _LSF, "htcondor": _HTCondor}[kind]
    found: type[Job] = getattr(module(kind), _CLASSES[kind])
    return found


class _LSF(module("lsf").LSFJob):  # type: ignore[misc]
    """LSF, whose words dask-jobqueue sends to /dev/null."""

    async def _submit_job(self, script_filename: str) -> str:
        said: str = await self._call([f"{self.submit_command} < {script_filename}"], shell=True)
        return said


class _HTCondor(module("htcondor").HTCondorJob):  # type: ignore[misc]
    """HTCondor with the shell that prologues are written for."""

    executable = "/bin/bash"

    def __init__(self, *args: Any, job_directives_skip: Sequence[str] | None, **words: Any) -> None:
        super().__init__(*args, job_directives_skip=(), **words)
        for key in list(self.job_header_dict):
            if any(skip in key for skip in job_directives_skip or ()):
                del self.job_header_dict[key]
