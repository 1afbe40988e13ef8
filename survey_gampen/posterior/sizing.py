"""Resolve precision, device, threads and shapes before the first partition, and time a galaxy."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray

from survey_gampen.model.checkpoint import Checkpoint
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.settings import (
    EngineSettings,
    resolve_device,
    resolve_precision,
    usable_cores,
    wait,
)
from survey_gampen.posterior.summary import summarise

#: Passes whose time is taken: enough that it is not lost in the scatter of all that is done once.
_PASSES = 8
#: Parts of a batch that are tried as shapes for the last one of a partition, which is short:
#: partitions on a CPU have few.
SHAPES = 8
#: Masked activations to compare in each shape. Sums that were added up in another order differ by
#: 1e-7 or so, which bfloat16 shows in one of ten thousand.
ENOUGH = 200_000


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
    model: Checkpoint,
    batch: int,
    *,
    device: str = "auto",
    precision: str = "auto",
    threads: int | None = None,
) -> EngineSettings:
    """Settle what the bits of a run depend on.

    Parameters
    ----------
    model : Checkpoint
    batch : int
        Galaxies at once.
    device, precision : str
        "auto" or a name.
    threads : int, optional
        Cores of one worker; all that this process may use unless given.

    Raises
    ------
    InputError
        As :func:`~survey_gampen.posterior.settings.resolve_precision`.
    """
    device = resolve_device(device)
    precision = resolve_precision(precision, device, model)
    settings = EngineSettings(device, precision, batch, threads or usable_cores())
    return replace(settings, shapes=alike(model, settings))


def alike(model: Checkpoint, settings: EngineSettings) -> tuple[int, ...]:
    """Return the shapes, smaller than a batch, in which a galaxy's bits are those of a whole batch.

    A library chooses its kernels by shape, and others may add up in another order: then the last
    bits would depend on how many galaxies are together. So each shape is tried. None on a GPU,
    whose partitions have many batches.
    """
    if settings.device != "cpu":
        return ()
    step = -(-settings.batch // SHAPES)
    shapes = tuple(range(step, settings.batch, step))
    activations = step * sum(map(math.prod, model.network.site_shapes))
    passes = max(2, -(-ENOUGH // activations))
    engine = Engine(model, passes=passes, seed=0, **replace(settings, shapes=shapes).to_dict())
    engine.orientations = 1  # all have the same shapes
    images, keys = _noise(model, settings.batch)
    whole = engine.draws(images, keys)

    def same(n: int) -> bool:
        few = engine.draws(images[:n], keys[:n])
        pairs = [(few.scaled, whole.scaled), (few.crop, whole.crop)]
        if few.novelty is not None and whole.novelty is not None:
            pairs.append((few.novelty, whole.novelty))
        return all(torch.equal(some, every[:n]) for some, every in pairs)

    return tuple(n for n in shapes if same(n))


def measure_speed(checkpoint: Checkpoint, settings: EngineSettings, passes: int = _PASSES) -> Speed:
    """Time a full batch with so many passes, after one that loads kernels."""
    images, keys = _noise(checkpoint, settings.batch)
    engine = Engine(checkpoint, passes=passes, seed=0, **settings.to_dict())

    def seconds(run: Callable[[], object]) -> float:
        begun = time.perf_counter()
        run()
        wait(engine.device)
        return (time.perf_counter() - begun) / settings.batch

    look = engine.look(images)
    engine.through(look)
    whole = seconds(lambda: summarise(engine.draws(images, keys)))
    through = seconds(lambda: engine.through(look))
    return Speed(max(0.0, whole - through), through / passes)


def _noise(model: Checkpoint, n: int) -> tuple[NDArray[np.float32], NDArray[np.uint64]]:
    """Images of empty sky [nJy], and keys."""
    shape = (n, model.config.size, model.config.size)
    images = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    return images, np.arange(n, dtype=np.uint64)
