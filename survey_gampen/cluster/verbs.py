"""`survey-gampen cluster list | show | check`: what profiles there are, what they ask for, whether
they work.
"""

from __future__ import annotations

import os
import platform
import shutil
import socket
import sys
import tempfile
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import yaml
from dask.utils import format_bytes
from rich.console import Console
from rich.table import Table

from survey_gampen.cluster.crew import on_one
from survey_gampen.cluster.jobs import SUBMIT, kinds, make_job
from survey_gampen.cluster.load import cores, known, load_profile, own_folder
from survey_gampen.cluster.profile import without_cutters
from survey_gampen.cluster.start import start
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.run.layout import RunDir

#: Packages whose versions must be the same for the same bits, or for talking to each other at all.
_PACKAGES = ("survey-gampen", "dask", "distributed", "torch", "numpy", "zarr", "pyarrow", "astropy")


def list_profiles() -> int:
    """Print all profiles that have a name."""
    table = Table("name", "kind", "what it is", box=None, pad_edge=False)
    table.add_column("where", overflow="fold")  # a path of which the end is missing is none
    for name, path in known().items():
        kind, first = _first_words(path)
        command = SUBMIT.get(kind, "").partition(" ")[0]
        if command and not shutil.which(command):
            kind += f" (no {command} here)"
        whose = "yours: " if path.parent == own_folder() else ""
        table.add_row(name, kind, first, f"{whose}{path}")
    console = Console()
    console = console if console.is_terminal else Console(width=200)
    console.print(table)
    print(f"your own go to {own_folder()}")
    return 0


def _first_words(path: Path) -> tuple[str, str]:
    """Kind and first sentence of a profile; they may be anything in a user's own."""
    try:
        text = path.read_text()
        kind = str(yaml.safe_load(text).get("kind", "local"))
    except (OSError, UnicodeError, yaml.YAMLError, AttributeError):
        return "?", "can't be read"
    comments = [line.lstrip("# ") for line in text.splitlines() if line.startswith("#")]
    return kind, comments[0].partition(". ")[0].rstrip(".") if comments else ""


def show(spec: str) -> int:
    """Print what a profile comes to: its settings, and its job scripts."""
    profile = load_profile(spec)
    print(f"# {profile.path}")
    print(f"# {_in_words(profile.workers, profile.threads, profile.memory, profile.gpus)}")
    if profile.batch is None:
        return 0
    for key, value in profile.batch.from_site.items():
        print(f"# from the site's jobqueue.yaml: {key}: {value}")
    for asked, slots in kinds(profile.batch):
        print(f"# {asked.jobs} of these jobs:")
        job = make_job(profile, asked, slots)
        print(job.job_script())
    return 0


def _in_words(workers: int, threads: int, memory: int, gpus: int) -> str:
    each = f"{threads} cores, {format_bytes(memory) if memory else 'any memory'}"
    many = f"{workers} workers, each" if workers > 1 else "1 worker:"
    return f"{many} {each}" + (", a GPU" if gpus else "")


def check(spec: str, patience: float = 600.0) -> int:
    """Start one worker of a profile, print what it is, and take everything down.

    Parameters
    ----------
    spec : str
        Profile.
    patience : float
        Seconds to wait for the worker.

    Raises
    ------
    InputError
        If the batch system refuses the job, or its versions are not those of this machine.
    OutsideFault
        If no worker comes in time.
    """
    name, colon, changes = spec.partition(":")
    one = load_profile(spec)
    if one.kind == "allocation":
        raise InputError(
            "cluster profile allocation has no workers of its own: try it by a small run,"
            " srun -n 3 survey-gampen run ... --cluster allocation --limit 10"
        )
    per_job = one.batch.ask.processes if one.batch else 1
    one = load_profile(f"{name}:{changes + ',' if colon and changes else ''}workers={per_job}")
    one = without_cutters(one)
    begun = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="survey-gampen-check-", dir=Path.cwd()))
    try:
        with start(one, folder) as cluster:

            def waiting() -> None:
                cluster.check()
                if time.monotonic() - begun > patience:
                    jobs = "; ".join(cluster.fleet.states()) if cluster.fleet else ""
                    raise OutsideFault(
                        f"no worker came within {patience:.0f} s; {jobs}".rstrip("; ")
                    )

            facts = on_one(cluster, about_here, check=waiting)
            seconds = time.monotonic() - begun
    except BaseException:
        logs = RunDir(folder).job_logs
        if logs.is_dir() and any(logs.iterdir()):
            print(f"what the job printed is in {logs}")
        else:
            shutil.rmtree(folder, ignore_errors=True)
        raise
    shutil.rmtree(folder, ignore_errors=True)
    mine = about_here()
    print(f"a worker was ready and had answered {seconds:.1f} s after submission")
    for key in ("host", "cores", "memory", "python", "gpu"):
        print(f"{key:>12}  {facts[key]}")
    differ = [p for p in _PACKAGES if facts["versions"][p] != mine["versions"][p]]
    for package in differ:
        theirs, ours = facts["versions"][package], mine["versions"][package]
        print(f"{package:>12}  {theirs} there, {ours} here")
    if differ:
        raise InputError(
            f"versions differ ({', '.join(differ)}): let the profile's python or prologue choose"
            " the environment of this command"
        )
    print("    versions  the same as here")
    return 0


def about_here() -> dict[str, Any]:
    """On a worker: what it is."""
    import psutil

    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            versions[package] = "none"
    return {
        "host": socket.gethostname(),
        "cores": f"{cores()} usable, {platform.machine()}",
        "memory": f"{format_bytes(psutil.virtual_memory().available)} free of the machine's",
        "python": f"{platform.python_version()}, {sys.executable}",
        "gpu": _gpu(),
        "versions": versions,
    }


def _gpu() -> str:
    import torch

    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    shown = "" if given is None else f" (CUDA_VISIBLE_DEVICES={given})"
    if not torch.cuda.is_available():
        return f"none that torch {torch.__version__} can use{shown}"
    free, whole = torch.cuda.mem_get_info()
    name = torch.cuda.get_device_name()
    return f"{name}, {format_bytes(free)} free of {format_bytes(whole)}{shown}"
