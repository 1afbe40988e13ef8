"""From a name to a cluster profile: YAML files whose every key has a comment, see ``cluster/``.

A profile is asked for by name or path, and single keys may be set beside it::

    --cluster slurm-gpu:account=abc,walltime=04:00:00,workers=8

A name is looked up in ``~/.config/survey-gampen/cluster/`` first, then among those shipped. What a
profile leaves to us (``auto``) is taken from the machine, or, for batch systems, from what the site
has set in dask's own ``jobqueue.yaml``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed.system import MEMORY_LIMIT

from survey_gampen.cluster import values
from survey_gampen.cluster.gpu import visible
from survey_gampen.cluster.profile import BATCH, KINDS, Ask, Batch, Profile
from survey_gampen.cluster.site import site_settings, taken
from survey_gampen.errors import InputError
from survey_gampen.paths import data_file, is_path, names, own_dir
from survey_gampen.tomlfile import check_keys

MOST_THREADS = 4  # convolutions of this size gain little from more
#: What a job asks for where neither profile nor site says.
_CORES, _MEMORY, _WALLTIME = 4, 16 * 2**30, 2 * 3600
_DRIVER_MEMORY = "4 GiB"

_COMMON = {"kind", "workers", "threads", "memory", "gpus", "cuda", "dashboard_port", "window"}
#: Of all workers of a batch system, and of one job.
_OF_ALL = {"name", "python", "prologue", "interface", "shared", "scratch", "patience"}
_OF_JOB = {
    *("workers", "threads", "memory", "processes", "walltime", "queue", "account"),
    *("resource_spec", "gpu_request", "directives", "skip_directives"),
}
#: Of those, what a batch system has no word for: a key that did nothing would be a trap.
_MEANINGLESS = {
    "slurm": {"resource_spec"},
    "lsf": {"resource_spec"},
    "htcondor": {"resource_spec", "queue", "account", "driver"},
}

_KEYS = {
    "local": _COMMON | {"scratch"},
    "allocation": _COMMON | {"scratch", "interface"},
} | {
    kind: (_COMMON | _OF_ALL | _OF_JOB | {"cutters", "driver"}) - _MEANINGLESS.get(kind, set())
    for kind in BATCH
}


def cores() -> int:
    """Return the cores that this process may use, affinity and control groups included."""
    return max(1, CPU_COUNT)


def own_folder() -> Path:
    """Where a user's own profiles lie."""
    return own_dir("cluster")


def known() -> dict[str, Path]:
    """Return all profiles that have a name: the user's own go before the shipped ones."""
    shipped = {name: data_file("cluster", f"{name}.yaml") for name in names("cluster", ".yaml")}
    own = {path.stem: path for path in sorted(own_folder().glob("*.yaml"))}
    return dict(sorted((shipped | own).items()))


def load_profile(spec: str | Path = "local", workers: int | None = None) -> Profile:
    """Read a profile by name or path and resolve what it leaves to us.

    Parameters
    ----------
    spec : str or Path
        ``NAME``, ``FILE`` or either with ``:key=value,key=value`` behind it.
    workers : int, optional
        As many workers as the job asks for, where the profile says ``auto``.

    Raises
    ------
    InputError
        Where there is no such profile, or a key is missing, unknown or no good.
    """
    name, _, changes = str(spec).partition(":")
    path = _find(name)
    given = values.read(path)
    kind = given.get("kind", "local")
    if kind not in KINDS:
        raise InputError(f"{path}: kind {kind!r} is not known; choose one of {', '.join(KINDS)}")
    changed = values.changes(changes)
    if "kind" in changed:
        raise InputError(
            f"--cluster: kind can't be set beside a name, for {name} is of kind {kind}: choose"
            " another profile, see survey-gampen cluster list"
        )
    given |= changed
    check_keys(map(str, given), _KEYS[kind], f"{path} (kind {kind})")
    try:
        return _resolve(name, kind, path, given, workers)
    except (TypeError, ValueError) as error:
        raise InputError(f"{path}: {error}") from None


def _find(name: str) -> Path:
    if is_path(name):
        path = Path(name).expanduser()
        if not path.is_file():
            raise InputError(f"no cluster profile {path}: give a YAML file or a name that is known")
        return path
    if name not in known():
        raise InputError(
            f"no cluster profile {name!r}: choose one of {', '.join(known())}, or a path"
        )
    return known()[name]


def _resolve(
    name: str, kind: str, path: Path, given: dict[str, Any], wanted: int | None
) -> Profile:
    batch = _batch(kind, given, wanted) if kind in BATCH else None
    site = batch.from_site if batch else None
    resolve = {"allocation": _of_step}.get(kind, _here)
    ask = batch.ask if batch else resolve(given, wanted)
    scratch = values.text(given, "scratch") or tempfile.gettempdir()
    if batch is None and not Path(scratch).is_dir():
        raise ValueError(f"scratch {scratch} is no folder")
    return Profile(
        name=name,
        kind=kind,
        path=path,
        workers=ask.workers,
        threads=ask.threads,
        memory=ask.memory,
        gpus=ask.gpus,
        cuda=values.yes(given, "cuda", default=True),
        dashboard_port=values.number(given, "dashboard_port", least=0, most=65535) or 0,
        scratch=scratch,
        window=values.number(given, "window", least=2) or 3,
        interface=values.text(given, "interface") or (site or {}).get("interface"),
        batch=batch,
    )


def _here(given: dict[str, Any], wanted: int | None) -> Ask:
    """What workers take of this machine."""
    gpus, have = _gpus(given), cores()
    workers = values.number(given, "workers", least=1)
    workers = workers or (max(1, len(visible())) if gpus else wanted)
    threads = values.number(given, "threads", least=1)
    threads = threads or max(1, min(MOST_THREADS, have // (workers or 1)))
    workers = workers or max(1, have // threads)
    memory = values.size(given, "memory")
    memory = MEMORY_LIMIT // workers if memory is None else memory
    return Ask(workers, 1, threads, memory, gpus, walltime=None)


def _of_step(given: dict[str, Any], wanted: int | None) -> Ask:
    """What workers take of a step of Slurm; nothing of it is known outside one."""
    tasks = int(os.environ.get("SLURM_NTASKS", "3"))
    return Ask(
        workers=values.number(given, "workers", least=1) or wanted or max(1, tasks - 2),
        processes=1,
        threads=values.number(given, "threads", least=1)
        or int(os.environ.get("SLURM_CPUS_PER_TASK") or 1),
        memory=values.size(given, "memory") or 0,
        gpus=_gpus(given),
        walltime=None,
    )


def _gpus(given: dict[str, Any]) -> int:
    gpus = values.number(given, "gpus", least=0) or 0
    if gpus > 1:
        raise ValueError("gpus is that of one worker, 0 or 1; for more GPUs raise workers")
    return gpus


def _batch(kind: str, given: dict[str, Any], wanted: int | None) -> Batch:
    site = site_settings(kind)
    ask = _ask(kind, given, site, wanted)  # first: what is wrong for all kinds is told as it stands
    cutters = _other(kind, given, "cutters", site)
    small = {"threads": 1, "memory": _DRIVER_MEMORY, "workers": 1, "processes": 1}
    driver = _other(kind, given, "driver", site, small)
    assert driver is not None
    shared = values.text(given, "shared")
    return Batch(
        ask=ask,
        cutters=cutters,
        driver=driver,
        name=values.text(given, "name") or "survey-gampen",
        python=values.text(given, "python") or ask.site.get("python"),
        prologue=values.lines(given, "prologue"),
        shared=None if shared is None else str(Path(os.path.expandvars(shared)).expanduser()),
        scratch=values.text(given, "scratch"),
        patience=values.number(given, "patience", least=1) or 60,
        from_site={**ask.site, **(cutters.site if cutters else {})},
    )


def _other(
    kind: str,
    given: dict[str, Any],
    key: str,
    site: Mapping[str, Any],
    usual: dict[str, Any] | None = None,
) -> Ask | None:
    """Another kind of job, which has what it does not set itself in common with the first."""
    own = given.get(key)
    if own is None and usual is None:
        return None
    if not isinstance(own, dict | None):
        raise ValueError(f"{key} must be keys and values")
    own = (usual or {}) | (own or {})
    check_keys(map(str, own), _OF_JOB & _KEYS[kind], key)
    shared = {"queue", "account", "walltime", *_OF_ALL}
    common = {k: v for k, v in given.items() if k in shared}
    try:
        return _ask(kind, common | own, site, None)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{key}: {error}") from None


def _ask(kind: str, given: dict[str, Any], site: Mapping[str, Any], wanted: int | None) -> Ask:
    site = taken(site, given)
    processes = values.number(given, "processes", least=1) or int(site.get("processes") or 1)
    workers = values.number(given, "workers", least=1)
    if workers and workers % processes:
        raise ValueError(
            f"workers ({workers}) must be a multiple of processes ({processes}), for jobs are whole"
        )
    threads = values.number(given, "threads", least=1)
    if threads is None:
        threads = max(1, int(site.get("cores") or _CORES * processes) // processes)
    memory = values.size(given, "memory")
    if memory is None:
        whole = site.get("memory")
        memory = int(parse_bytes(whole)) // processes if whole else _MEMORY
    walltime = values.seconds(given.get("walltime", "auto"), "walltime")
    if walltime is None:
        walltime = values.seconds(site.get("walltime", "auto"), "walltime of your jobqueue.yaml")
    if walltime is None and kind != "htcondor":  # which knows no walltime
        walltime = _WALLTIME
    if walltime and kind == "lsf":  # which counts whole minutes
        walltime = -(-walltime // 60) * 60
    return Ask(
        workers=workers or -(-(wanted or 1) // processes) * processes,
        processes=processes,
        threads=threads,
        memory=memory,
        gpus=_gpus(given),
        walltime=walltime,
        queue=values.text(given, "queue"),
        account=values.text(given, "account"),
        resource_spec=values.text(given, "resource_spec"),
        gpu_request=values.text(given, "gpu_request"),
        directives=values.lines(given, "directives"),
        skip_directives=values.lines(given, "skip_directives"),
        site=site,
    )
