"""Resolve precision, batch and threads before the first partition, and time a galaxy.

The batch is measured, not guessed: the cache decides on a CPU, the memory on a GPU. Its choice
changes speed and nothing that a user can see beyond the tolerance of reduced precision; once
chosen it is part of the run's record.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, replace

import numpy as np
import torch

from survey_gampen.model.checkpoint import Checkpoint
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.settings import (
    EngineSettings,
    resolve_device,
    resolve_precision,
    usable_cores,
)
from survey_gampen.posterior.summary import summarise

CPU_BATCHES = (16, 32, 64, 128)
GPU_BATCHES = (64, 128, 256, 512)
#: A larger batch must be faster by this much: it takes more memory, and more padding at the end
#: of a partition.
_WORTH = 0.97
_PASSES = 3


@dataclass(frozen=True)
class Speed:
    """Time of one galaxy in a full batch.

    Attributes
    ----------
    fixed : float
        What is done once a galaxy: the deterministic part and the summary [s].
    per_pass : float
        One Monte-Carlo pass [s].
    """

    fixed: float
    per_pass: float

    def seconds(self, passes: int) -> float:
        """Time of a posterior of so many draws [s]."""
        return self.fixed + passes * self.per_pass


def resolve_engine(
    checkpoint: Checkpoint,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
    batch: int | None = None,
    most: int | None = None,
) -> EngineSettings:
    """Settle what the bits of a run depend on.

    Parameters
    ----------
    checkpoint : Checkpoint
    device, precision : str
        "auto" or a name.
    threads : int, optional
        Cores of one worker; all that this process may use unless given.
    batch : int, optional
        Galaxies at once; measured unless given.
    most : int, optional
        Galaxies of the run: a batch larger than that would be padding.

    Raises
    ------
    InputError
        If the precision has no such name.
    OutsideFault
        If this process cannot compute so.
    """
    device = resolve_device(device)
    precision = resolve_precision(precision, device)
    settings = EngineSettings(device, precision, batch or 1, threads or usable_cores())
    if batch is not None:
        return settings
    sizes = GPU_BATCHES if device == "cuda" else CPU_BATCHES
    # The smallest size that takes the whole run in is the largest worth a try.
    needed = next((size for size in sizes if most is not None and size >= most), sizes[-1])
    best, best_time = replace(settings, batch=sizes[0]), np.inf
    for size in (size for size in sizes if size <= needed):
        candidate = replace(settings, batch=size)
        try:
            per_pass = measure_speed(checkpoint, candidate).per_pass
        except (MemoryError, torch.OutOfMemoryError):
            break
        if per_pass > _WORTH * best_time:
            break
        best, best_time = candidate, per_pass
    return best


def measure_speed(checkpoint: Checkpoint, settings: EngineSettings) -> Speed:
    """Time a full batch with few and with more passes; their difference is the passes' time."""
    side = checkpoint.config.size
    images = np.random.default_rng(0).normal(0, 3, (settings.batch, side, side)).astype(np.float32)
    keys = np.arange(settings.batch, dtype=np.uint64)

    def seconds(passes: int) -> float:
        engine = Engine(checkpoint, passes=passes, seed=0, **settings.to_dict())
        begun = time.perf_counter()
        summarise(engine.draws(images, keys))  # ends on the host, so a GPU has finished
        return (time.perf_counter() - begun) / settings.batch

    seconds(1)  # the first time loads kernels
    few, more = seconds(1), seconds(1 + _PASSES)
    per_pass = max(more - few, 1e-3 * more) / _PASSES
    return Speed(max(0.0, few - per_pass), per_pass)
