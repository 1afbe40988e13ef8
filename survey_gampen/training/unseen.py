"""Unseen galaxies, and the engine that looks at them: what a finished model is judged by."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import zarr
from numpy.typing import NDArray

from survey_gampen.model.checkpoint import Checkpoint
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.settings import resolve_device, resolve_precision, usable_cores

#: Galaxies at once.
BATCH = 64


def engine_here(checkpoint: Checkpoint, passes: int, seed: int, precision: str = "auto") -> Engine:
    """An engine with the device and all the cores of this process.

    Raises
    ------
    InputError
        If there is no such precision here, or not for this model.
    """
    device = resolve_device()
    return Engine(
        checkpoint,
        passes=passes,
        seed=seed,
        precision=resolve_precision(precision, device, checkpoint),
        batch=BATCH,
        device=device,
        threads=usable_cores(),
    )


def batches(n: int) -> list[slice]:
    """Rows of n galaxies, by the batch."""
    return [slice(start, min(n, start + BATCH)) for start in range(0, n, BATCH)]


def cutouts(data: Path, n: int) -> Iterator[NDArray[np.float32]]:
    """The first n finished cutouts of a simulation, by the batch."""
    array = zarr.open_array(str(data / "image"), mode="r")
    return (np.asarray(array[where]) for where in batches(n))
