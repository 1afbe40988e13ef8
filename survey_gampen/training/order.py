"""What to train, in a form that travels, and the one process that does it. Needs no Dask."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.run.layout import RunDir
from survey_gampen.training.data import TrainingSet
from survey_gampen.training.labelled import LabelledSet
from survey_gampen.training.loop import Training
from survey_gampen.training.memory import room
from survey_gampen.training.parts import PartsSet
from survey_gampen.training.ranks import Ranks
from survey_gampen.training.watch import Watch


@dataclass(frozen=True)
class Order:
    """What to train, in a form that travels to a worker.

    Attributes
    ----------
    recipe : dict
        From :func:`load_recipe`.
    data, out : str
        Folder made by ``simulate --parts``, or of a run; folder of state and model.
    labels : str, optional
        Table with the labels of the run's galaxies.
    init : str, optional
        Model whose weights to start from.
    device : str
        ``cpu`` or ``cuda``.
    token : str
        Of the client's claim: names the corner of the staging area where files are made. A rank
        that outlives its client finds its corner closed, and can publish nothing.
    memory : str
        ``auto``, ``resident`` or ``stream``: where the parts lie.
    limit : int
        Bytes at which a worker is ended by its cluster; 0: never.
    """

    recipe: dict[str, Any]
    data: str
    labels: str | None
    out: str
    init: str | None
    device: str
    token: str
    memory: str = "auto"
    limit: int = 0


def work(order: Order, ranks: Ranks, watch: Watch) -> None:
    """Train as one of `ranks`, which have joined if they are several. Runs without Dask too."""
    data = training_set(order, ranks.here)
    watch.says(data.place)
    staging = RunDir(Path(order.out)).staging(order.token)
    Training(order.recipe, data, Path(order.out), order.init, ranks, staging).run(watch)


def training_set(order: Order, here: int = 1) -> TrainingSet:
    """What to train on, in the memory that `here` processes on this machine share."""
    device = _usable(order.device)
    if order.labels is None:
        return PartsSet(Path(order.data), device, order.memory, room(here, order.limit))
    return LabelledSet(Path(order.data), Path(order.labels), device)


def _usable(device: str) -> str:
    """A device that is there.

    Raises
    ------
    InputError, OutsideFault
        If there is no such kind of device; if this machine has none.
    """
    if device == "cuda":
        if not torch.cuda.is_available():
            raise OutsideFault("there is no GPU here: train with --device cpu, or elsewhere")
        # All steps have one shape: the fastest kernels are worth looking for.
        torch.backends.cudnn.benchmark = True
    elif device != "cpu":
        raise InputError(f"no device {device!r}: choose cpu or cuda")
    return device
