"""What must be fixed for the posteriors of a run to be the same bits wherever they are computed.

The kernels that a library picks, and so the order of its sums, depend on precision, batch shape
and threads. They are resolved once, written to the run's record, and every worker either honours
them or leaves.
"""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from survey_gampen.errors import InputError, OutsideFault

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class EngineSettings:
    """Resolved settings of an :class:`~survey_gampen.posterior.engine.Engine`.

    Attributes
    ----------
    device : str
        "cpu" or "cuda".
    precision : str
        "bf16" or "fp32": of the masked convolutions; all else is float32.
    batch : int
        Galaxies computed at once; fewer are padded to it.
    threads : int
        Of the CPU.
    """

    device: str = "cpu"
    precision: str = "fp32"
    batch: int = 32
    threads: int = 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for TOML and JSON; ``EngineSettings(**values)`` is the inverse."""
        return asdict(self)


def resolve_device(device: str = "auto") -> str:
    """Name the device: "auto" is the GPU where there is one."""
    if device != "auto":
        return device
    return "cuda" if torch.cuda.is_available() else "cpu"


def resolve_precision(precision: str, device: str) -> str:
    """Name the precision: "auto" is bf16 where the device multiplies it in hardware.

    Raises
    ------
    InputError
        If it is none of auto, bf16, fp32, or bf16 where the device cannot.
    """
    if precision not in ("auto", *DTYPES):
        raise InputError(f"no precision {precision!r}: choose auto, bf16 or fp32")
    if precision == "bf16" and not has_bf16(device):
        raise InputError(f"this {device} has no instructions for bf16: use --precision auto")
    if precision != "auto":
        return precision
    return "bf16" if has_bf16(device) else "fp32"


def has_bf16(device: str) -> bool:
    """Whether the device has instructions that multiply bfloat16 numbers."""
    if device == "cuda":
        return torch.cuda.is_available() and torch.cuda.is_bf16_supported(including_emulation=False)
    return bool({"avx512_bf16", "amx_bf16", "bf16"} & _cpu_flags())


def usable_cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def honour(settings: EngineSettings) -> torch.device:
    """Make this process compute as `settings` say.

    Raises
    ------
    OutsideFault
        If it cannot: no GPU, no bfloat16 instructions, no such number of threads.
    """
    if settings.device == "cuda":
        if not torch.cuda.is_available():
            raise OutsideFault("the run was planned for a GPU and this worker has none")
        # Full float32 and one algorithm for each shape, whatever runs beside.
        torch.backends.cuda.matmul.allow_tf32 = False
        torch.backends.cudnn.allow_tf32 = False
        torch.backends.cudnn.deterministic = True
        torch.backends.cudnn.benchmark = False
    if settings.precision == "bf16" and not has_bf16(settings.device):
        raise OutsideFault(
            f"the run was planned for bf16 and this worker's {settings.device} has no instructions "
            "for it: use workers of one kind, or start a run with --precision fp32"
        )
    use_threads(settings.threads)
    return torch.device(settings.device)


def use_threads(threads: int) -> None:
    """Set the number of threads of torch.

    Raises
    ------
    OutsideFault
        If the process is not allowed that many.
    """
    if torch.get_num_threads() != threads:
        torch.set_num_threads(threads)
    if torch.get_num_threads() != threads:
        raise OutsideFault(f"this worker cannot use the {threads} threads of the run's plan")


def _cpu_flags() -> set[str]:
    """Instruction sets of the CPU as Linux names them; empty where that cannot be read."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return set()
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() in ("flags", "Features"):
            return set(value.split())
    return set()
