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
from survey_gampen.model.checkpoint import Checkpoint

#: Arithmetics of the passes, the fastest first.
PRECISIONS = ("int8", "bf16", "fp32")


#: Instruction sets of CPUs, of which one is enough. Without VNNI, sums of bytes would saturate.
_INSTRUCTIONS = {
    "int8": {"avx512_vnni", "avx_vnni", "amx_int8"},
    "bf16": {"avx512_bf16", "amx_bf16", "bf16"},
}


@dataclass(frozen=True)
class EngineSettings:
    """Resolved settings of an :class:`~survey_gampen.posterior.engine.Engine`.

    Attributes
    ----------
    device : str
        "cpu" or "cuda".
    precision : str
        "int8", "bf16" or "fp32": of the masked convolutions; all else is float32.
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


def resolve_precision(precision: str, device: str, model: Checkpoint) -> str:
    """Name the precision: "auto" is the fastest for which the device has instructions, and in which
    the model is known to say the same as in float32.

    Raises
    ------
    InputError
        If it is none of auto, int8, bf16, fp32, or one that the device or the model cannot.
    """
    if precision not in ("auto", *PRECISIONS):
        raise InputError(f"no precision {precision!r}: choose auto, {', '.join(PRECISIONS)}")
    if precision == "auto":
        usable = (p for p in PRECISIONS if has(p, device) and model.is_faithful(p))
        return next(usable)
    if not has(precision, device):
        raise InputError(f"this {device} has no instructions for {precision}: use --precision auto")
    if precision == "int8" and not model.ranges:
        raise InputError(
            "the model does not say how large its activations are, which int8 must know: "
            "`survey-gampen widths` adds that, or use --precision auto"
        )
    return precision


def has(precision: str, device: str) -> bool:
    """Whether the device has instructions that multiply such numbers."""
    if precision == "fp32":
        return True
    if device == "cuda":
        if precision != "bf16" or not torch.cuda.is_available():
            return False
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if precision == "int8" and not hasattr(torch.ops.onednn, "qconv2d_pointwise"):
        return False
    return bool(_INSTRUCTIONS[precision] & _cpu_flags())


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
    if not has(settings.precision, settings.device):
        raise OutsideFault(
            f"the run was planned for {settings.precision} and this worker's {settings.device} has "
            "no instructions for it: use workers of one kind, or start a run with --precision fp32"
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


def wait(device: torch.device) -> None:
    """A GPU works on after a call has returned: wait until it has done so."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


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
