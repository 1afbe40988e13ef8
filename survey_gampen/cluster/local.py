"""Workers on this machine."""

from __future__ import annotations

import logging
import os
import socket
from typing import Any

import dask
import psutil
from distributed import Nanny, Scheduler, Security, SpecCluster

from survey_gampen.cluster.gpu import visible
from survey_gampen.cluster.profile import Profile
from survey_gampen.errors import InputError, OutsideFault

#: Nothing to spill: results are small reports. And Dask looks less often at itself, which took 6 %
#: of a core by default: whenever a core leaves the network, the others wait for it.
CALM = {f"distributed.worker.memory.{what}": False for what in ("target", "spill", "pause")} | {
    "distributed.worker.profile.enabled": False,
    "distributed.admin.tick.interval": "1s",
    "distributed.admin.system-monitor.interval": "2s",
    "distributed.worker.memory.monitor-interval": "500ms",
}
#: Free memory that a worker keeps at most, and the largest array that it keeps so (glibc takes no
#: more) [bytes].
KEPT, LARGEST_KEPT = 2**30, 2**25
_LOOPBACK = "127.0.0.1"
_PAGE = "survey_gampen.cluster.page"


def worker_settings(profile: Profile) -> dict[str, Any]:
    """Dask's configuration for workers that are started from here."""
    return CALM | {
        "distributed.worker.daemon": True,
        "distributed.nanny.pre-spawn-environ": process_environment(profile.threads, profile.memory),
    }


def process_environment(threads: int, memory: int) -> dict[str, int]:
    """Environment of a worker process whose network uses so many cores, and memory [bytes; 0: any].

    A batch takes and gives back the same arrays again and again. Dask's own setting has the C
    library return them to the system each time, and then every page of them must be zeroed anew.
    A thread's own arena would do that too, so all share one.
    """
    kept = min(KEPT, memory // 4) if memory else KEPT
    allocator = {
        "MALLOC_TRIM_THRESHOLD_": kept,
        "MALLOC_MMAP_THRESHOLD_": LARGEST_KEPT,
        "MALLOC_ARENA_MAX": 1,
    }
    libraries = {f"{name}_NUM_THREADS": threads for name in ("OMP", "MKL", "OPENBLAS")}
    return allocator | libraries


def scheduler(profile: Profile, security: Security, host: str | None = _LOOPBACK) -> dict[str, Any]:
    """Dask's scheduler, for a cluster's specification; its dashboard is on loopback in any case.

    Parameters
    ----------
    profile : Profile
    security : Security
    host : str or None
        Where it listens for workers: None for all addresses of this machine.

    Raises
    ------
    InputError
        If this machine lacks the profile's interface.
    """
    where = {} if host is None else {"host": host}
    if profile.interface:
        known = psutil.net_if_addrs()
        if profile.interface not in known:
            raise InputError(
                f"there is no network interface {profile.interface!r} on {socket.gethostname()}:"
                f" choose one of {', '.join(known)} in cluster profile {profile.path}"
            )
        where = {"interface": profile.interface}
    options = {
        "protocol": "tls://",
        "security": security,
        "dashboard": True,
        "dashboard_address": f"{_LOOPBACK}:{profile.dashboard_port}",
    }
    routes = dask.config.get("distributed.scheduler.http.routes")
    if _PAGE not in routes:
        dask.config.set({"distributed.scheduler.http.routes": [*routes, _PAGE]})
    return {"cls": Scheduler, "options": options | where}


def start(profile: Profile, scratch: str) -> SpecCluster:
    """Start scheduler and workers.

    Raises
    ------
    InputError
        If there are fewer GPUs than workers.
    OutsideFault
        If the workers did not start.
    """
    # A port on loopback is open to all users of a machine.
    security = Security.temporary()
    slots = {"GPU" if profile.gpus else "INFER": 1, "CPU": 1}
    common = {
        "host": _LOOPBACK,
        "protocol": "tls://",
        "security": security,
        "nthreads": sum(slots.values()),
        "resources": slots,
        "memory_limit": profile.memory,
        "dashboard_address": f"{_LOOPBACK}:0",
        "local_directory": scratch,
        "silence_logs": logging.CRITICAL,
        "preload": ["survey_gampen.cluster.worker"],
    }
    pinned = _pinned(profile) if profile.gpus else [{} for _ in range(profile.workers)]
    workers = {
        number: {"cls": Nanny, "options": common | {"env": environment}}
        for number, environment in enumerate(pinned)
    }
    try:
        return SpecCluster(
            workers=workers,
            scheduler=scheduler(profile, security),
            security=security,
            silence_logs=logging.CRITICAL,
        )
    except (RuntimeError, OSError, TimeoutError) as error:  # a worker died as it began, say
        reason = " ".join(str(error).split())
        raise OutsideFault(f"the workers did not start ({reason}): run the same again") from error


def _pinned(profile: Profile) -> list[dict[str, str]]:
    """One GPU for each worker."""
    devices = visible()
    if len(devices) < profile.workers:
        given = os.environ.get("CUDA_VISIBLE_DEVICES")
        raise InputError(
            f"cluster profile {profile.name!r} wants {profile.workers} GPUs, this machine shows"
            f" {len(devices)}" + (f" (CUDA_VISIBLE_DEVICES={given})" if given is not None else "")
        )
    need = "cuda" if profile.cuda else "any"
    return [
        {"CUDA_VISIBLE_DEVICES": device, "SURVEY_GAMPEN_GPU": need}
        for device in devices[: profile.workers]
    ]
