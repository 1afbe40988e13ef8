"""One GPU, one worker: which it is, whether it works, and whether somebody else has it."""

from __future__ import annotations

import fcntl
import os
import re
import socket
import sys
from contextlib import suppress
from pathlib import Path

from survey_gampen.errors import UnfitWorker

#: Seen by all processes of a machine, whoever owns them, and gone with it.
_LOCKS = Path("/dev/shm") if Path("/dev/shm").is_dir() else Path("/tmp")
#: Open for as long as the process lives: the kernel takes the lock back however it ends.
_held: list[int] = []


def visible() -> list[str]:
    """Return the GPUs that this process may use, in the words of CUDA_VISIBLE_DEVICES."""
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is not None:
        return [device.strip() for device in given.split(",") if device.strip()]
    import torch

    return [str(number) for number in range(torch.cuda.device_count())]


def hold_gpu(place: int = 0, cuda: bool = True) -> str:
    """Take one of the visible GPUs for this process alone.

    Call it before anything initialises CUDA: it leaves one GPU in CUDA_VISIBLE_DEVICES.

    Parameters
    ----------
    place : int
        Which of them.
    cuda : bool
        Whether this process must be able to compute on it.

    Returns
    -------
    str
        The GPU's name: its UUID, or, where it can't be asked, machine and number.

    Raises
    ------
    UnfitWorker
        If there is no such GPU, it can't be used, or another process holds it.
    """
    devices = visible()
    if place >= len(devices):
        raise UnfitWorker(
            f"it was promised a GPU, and sees {len(devices) or 'none'}"
            f" (CUDA_VISIBLE_DEVICES={os.environ.get('CUDA_VISIBLE_DEVICES', '')}): look at what"
            " the profile asks for (gpus, gpu_request)"
        )
    os.environ["CUDA_VISIBLE_DEVICES"] = devices[place]
    name = _uuid() if cuda else f"{_node()}-{devices[place]}"
    _lock(name)
    return name


def gpu_metrics() -> dict[str, float]:
    """Memory and use of the GPU that this process computes on; nothing before it does."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return {}
    free, total = torch.cuda.mem_get_info()
    found = {"gpu_memory_used_bytes": float(total - free), "gpu_memory_total_bytes": float(total)}
    with suppress(ImportError, RuntimeError, AttributeError):  # NVML is no part of torch
        found["gpu_utilisation_ratio"] = torch.cuda.utilization() / 100
    return found


def _uuid() -> str:
    import torch

    if not torch.cuda.is_available():
        built = torch.version.cuda or "no CUDA"
        raise UnfitWorker(
            "it was given a GPU and torch can't use it"
            f" (torch {torch.__version__}, built for {built}): install a build for this driver"
        )
    return str(torch.cuda.get_device_properties(0).uuid)


def _node() -> str:
    """Name of this machine; several Slurm nodes may be one machine in a rehearsal."""
    return os.environ.get("SLURMD_NODENAME") or socket.gethostname()


def _opened(path: Path) -> int:
    # Before it is created: a sticky folder lets nobody create over what another user owns.
    with suppress(FileNotFoundError):
        return os.open(path, os.O_RDONLY)
    with suppress(FileExistsError):
        made = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL)
        os.fchmod(made, 0o644)  # whatever the umask: other users must be able to look
        os.close(made)
    return os.open(path, os.O_RDONLY)


def _lock(name: str) -> None:
    path = _LOCKS / f"survey-gampen-gpu-{re.sub(r'[^A-Za-z0-9-]', '_', name)}.lock"
    try:
        handle = _opened(path)
    except OSError as error:
        raise UnfitWorker(f"it can't see who holds GPU {name}: {error}") from error
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        os.close(handle)
        raise UnfitWorker(
            f"another worker holds GPU {name}: each must be given one of its own (two runs on one"
            " machine, or a batch system that shares GPUs?)"
        ) from None
    _held.append(handle)
