"""What a cluster profile says: a YAML file whose every key has a comment, see ``cluster/``.

A profile is asked for by name or path, and single keys may be set beside it::

    --cluster slurm-gpu:account=abc,walltime=04:00:00,workers=8

A name is looked up in ``~/.config/survey-gampen/cluster/`` first, then among those shipped. What a
profile leaves to us (``auto``) is taken from the machine, or, for batch systems, from what the site
has set in dask's own ``jobqueue.yaml``.
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import dask
import yaml
from dask.system import CPU_COUNT
from dask.utils import parse_bytes
from distributed.system import MEMORY_LIMIT

from survey_gampen.cluster.gpu import visible
from survey_gampen.errors import InputError
from survey_gampen.paths import data_file, is_path, names
from survey_gampen.tomlfile import check_keys

#: Batch systems, by the names that dask-jobqueue has for them.
BATCH = ("slurm", "pbs", "sge", "lsf", "htcondor", "oar", "moab")
KINDS = ("local", *BATCH, "allocation")
MOST_THREADS = 4  # convolutions of this size gain little from more
#: What a job asks for where neither profile nor site says.
_CORES, _MEMORY, _WALLTIME = 4, 16 * 2**30, 2 * 3600
_DRIVER_MEMORY = 4 * 2**30

_COMMON = {"kind", "workers", "threads", "memory", "gpus", "cuda", "dashboard_port", "window"}
#: Of all workers of a batch system, and of one job.
_OF_ALL = {"name", "python", "prologue", "interface", "shared", "scratch", "patience"}
_OF_JOB = {
    *("workers", "threads", "memory", "processes", "walltime", "queue", "account"),
    *("resource_spec", "gpu_request", "directives", "skip_directives"),
}
_KEYS = {
    "local": _COMMON | {"scratch"},
    "allocation": _COMMON | {"scratch", "interface"},
} | {kind: _COMMON | _OF_ALL | _OF_JOB | {"cutters", "driver"} for kind in BATCH}


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
    cutters : Ask or None
        Workers without a GPU that cut.
    driver : Ask
        The client's own job, where it is one.
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
        Keys that dask's own configuration has set.
    """

    ask: Ask
    cutters: Ask | None = None
    driver: Ask = field(default_factory=lambda: Ask(1, 1, 1, _DRIVER_MEMORY, 0, _WALLTIME))
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


def cores() -> int:
    """Return the cores that this process may use, affinity and control groups included."""
    return max(1, CPU_COUNT)


def own_folder() -> Path:
    """Where a user's own profiles lie."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "survey-gampen" / "cluster"


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
    given = _read(path)
    kind = given.get("kind", "local")
    if kind not in KINDS:
        raise InputError(f"{path}: kind {kind!r} is not known; choose one of {', '.join(KINDS)}")
    given |= _changes(changes)
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


def _read(path: Path) -> dict[str, Any]:
    try:
        given = yaml.load(path.read_bytes(), _Loader)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise InputError(f"{path} is no cluster profile: it must be keys and values")
    return given


def _changes(text: str) -> dict[str, Any]:
    """Return keys that were set beside a profile's name."""
    changes = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--cluster: {pair!r} sets no key: write NAME:key=value,key=value")
        changes[key.strip()] = yaml.load(value, _Loader)
    return changes


class _Loader(yaml.SafeLoader):
    """YAML in which 12:00:00 is a text: YAML 1.1 has it as a number to the base of sixty."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":int", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789")
)


def _resolve(
    name: str, kind: str, path: Path, given: dict[str, Any], wanted: int | None
) -> Profile:
    batch = _batch(kind, given, wanted) if kind in BATCH else None
    resolve = {"allocation": _of_step}.get(kind, _here)
    ask = batch.ask if batch else resolve(given, wanted)
    scratch = _text(given, "scratch") or tempfile.gettempdir()
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
        cuda=_yes(given, "cuda", default=True),
        dashboard_port=_number(given, "dashboard_port", least=0) or 0,
        scratch=scratch,
        window=_number(given, "window", least=2) or 3,
        interface=_text(given, "interface"),
        batch=batch,
    )


def _here(given: dict[str, Any], wanted: int | None) -> Ask:
    """What workers take of this machine."""
    gpus, have = _gpus(given), cores()
    workers = _number(given, "workers", least=1) or (max(1, len(visible())) if gpus else wanted)
    threads = _number(given, "threads", least=1)
    threads = threads or max(1, min(MOST_THREADS, have // (workers or 1)))
    workers = workers or max(1, have // threads)
    memory = _bytes(given, "memory")
    memory = MEMORY_LIMIT // workers if memory is None else memory
    return Ask(workers, 1, threads, memory, gpus, walltime=None)


def _of_step(given: dict[str, Any], wanted: int | None) -> Ask:
    """What workers take of a step of Slurm; nothing of it is known outside one."""
    tasks = int(os.environ.get("SLURM_NTASKS", "3"))
    return Ask(
        workers=_number(given, "workers", least=1) or wanted or max(1, tasks - 2),
        processes=1,
        threads=_number(given, "threads", least=1)
        or int(os.environ.get("SLURM_CPUS_PER_TASK") or 1),
        memory=_bytes(given, "memory") or 0,
        gpus=_gpus(given),
        walltime=None,
    )


def _gpus(given: dict[str, Any]) -> int:
    gpus = _number(given, "gpus", least=0) or 0
    if gpus > 1:
        raise ValueError("gpus is that of one worker, 0 or 1; for more GPUs raise workers")
    return gpus


def _batch(kind: str, given: dict[str, Any], wanted: int | None) -> Batch:
    site = _site(kind)
    cutters = _other(kind, given, "cutters", site)
    small = {"threads": 1, "memory": _DRIVER_MEMORY, "workers": 1, "processes": 1}
    driver = _other(kind, given, "driver", site, small)
    assert driver is not None
    shared = _text(given, "shared")
    return Batch(
        ask=_ask(kind, given, site, wanted),
        cutters=cutters,
        driver=driver,
        name=_text(given, "name") or "survey-gampen",
        python=_text(given, "python"),
        prologue=_lines(given, "prologue"),
        shared=None if shared is None else str(Path(os.path.expandvars(shared)).expanduser()),
        scratch=_text(given, "scratch"),
        patience=_number(given, "patience", least=1) or 60,
        from_site=site,
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
    check_keys(map(str, own), _OF_JOB, key)
    common = {k: v for k, v in given.items() if k in ("queue", "account", "walltime")}
    return _ask(kind, common | own, site, None)


def _site(kind: str) -> dict[str, Any]:
    """Return what the site has set in dask's own configuration and dask-jobqueue has not."""
    from survey_gampen.cluster.jobqueue import dask_jobqueue

    shipped = Path(dask_jobqueue.__file__).with_name("jobqueue.yaml")
    defaults = yaml.safe_load(shipped.read_text())["jobqueue"][kind]
    now = dask.config.get(f"jobqueue.{kind}", {})
    return {key: value for key, value in now.items() if value != defaults.get(key)}


def _ask(kind: str, given: dict[str, Any], site: Mapping[str, Any], wanted: int | None) -> Ask:
    processes = _number(given, "processes", least=1) or int(site.get("processes") or 1)
    threads = _number(given, "threads", least=1)
    if threads is None:
        threads = max(1, int(site.get("cores") or _CORES * processes) // processes)
    memory = _bytes(given, "memory")
    if memory is None:
        whole = site.get("memory")
        memory = int(parse_bytes(whole)) // processes if whole else _MEMORY
    walltime = _seconds(given.get("walltime", "auto"), "walltime")
    if walltime is None:
        walltime = _seconds(site.get("walltime", "auto"), "walltime")
    if walltime is None and kind != "htcondor":  # which knows no walltime
        walltime = _WALLTIME
    return Ask(
        workers=_number(given, "workers", least=1) or wanted or processes,
        processes=processes,
        threads=threads,
        memory=memory,
        gpus=_gpus(given),
        walltime=walltime,
        queue=_text(given, "queue"),
        account=_text(given, "account"),
        resource_spec=_text(given, "resource_spec"),
        gpu_request=_text(given, "gpu_request"),
        directives=_lines(given, "directives"),
        skip_directives=_lines(given, "skip_directives"),
    )


def _number(given: Mapping[str, Any], key: str, least: int) -> int | None:
    """Return a whole number of the profile, None where it is left to us."""
    value = given.get(key, "auto")
    if value == "auto":
        return None
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{key} must be a whole number of at least {least}, or auto")
    return value


def _bytes(given: Mapping[str, Any], key: str) -> int | None:
    value = given.get(key, "auto")
    return None if value == "auto" else int(parse_bytes(value))


def _text(given: Mapping[str, Any], key: str) -> str | None:
    value = given.get(key, "auto")
    return None if value in ("auto", None) else str(value)


def _lines(given: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = given.get(key) or ()
    lines = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(line, str) for line in lines):
        raise ValueError(f"{key} must be a list of texts")
    return lines


def _yes(given: Mapping[str, Any], key: str, default: bool) -> bool:
    value = given.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false")
    return value


def _seconds(value: Any, key: str) -> int | None:
    """Seconds of a time as batch systems write it: [D-]HH:MM[:SS]."""
    if value in ("auto", None):
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d\d)(?::(\d\d))?", str(value).strip())
    if match is None:
        raise ValueError(f"{key} must be HH:MM:SS, or D-HH:MM:SS, and is {value!r}")
    days, hours, minutes, seconds = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + seconds
