"""Resolve precision, device and threads before the first partition, and time a galaxy."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

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
    return EngineSettings(device, precision, batch, threads or usable_cores())


def measure_speed(checkpoint: Checkpoint, settings: EngineSettings, passes: int = _PASSES) -> Speed:
    """Time a full batch with so many passes, after one that loads kernels."""
    shape = (settings.batch, *checkpoint.config.image_shape)
    images = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
    keys = np.arange(settings.batch, dtype=np.uint64)
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
