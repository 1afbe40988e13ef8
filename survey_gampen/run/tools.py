"""What a worker keeps open from one partition to the next: the images and the network."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Any

from survey_gampen.errors import InputError, OutsideFault, UnfitWorker
from survey_gampen.images.base import ImageSource
from survey_gampen.images.open import open_bands
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.posterior.engine import Engine
from survey_gampen.run.layout import RunDir
from survey_gampen.run.spec import RunSpec


@dataclass
class _Kept:
    """What this process has open, and what it belongs to."""

    source: tuple[str, ImageSource] | None = None
    engine: tuple[tuple[str, int], Engine, dict[str, Any]] | None = None


_kept = _Kept()
_lock = threading.Lock()  # one thread cuts while another infers


def source_of(run: RunDir, spec: RunSpec) -> ImageSource:
    """Return the images of a run.

    Raises
    ------
    OutsideFault
        Where they are others now than those that the run was planned with.
    """
    with _lock:
        key = f"{run.root} {spec.parts['images']}"
        if _kept.source is None or _kept.source[0] != key:
            _kept.source = (key, _open_source(run, spec))
        return _kept.source[1]


def _open_source(run: RunDir, spec: RunSpec) -> ImageSource:
    """Open the images that the run was planned with.

    Raises
    ------
    OutsideFault
        Where they are others now, or gone: what comes of them would not be this run's.
    """
    settings = spec.settings
    try:
        source = open_bands(
            settings.images,
            spec.survey,
            settings.image_bands,
            spec.model["pixel_scale"],
            run.cache,
            frozen=True,
        )
    except InputError as error:  # they were there at planning
        raise OutsideFault(
            f"{error} (at planning there were): put that right and run the same command again"
        ) from error
    if source.inventory() != spec.parts["images"]:
        raise OutsideFault(
            f"{settings.images} has changed since the run was planned: go on with"
            f" `survey-gampen resume {run.root}`"
        )
    return source


def engine_of(spec: RunSpec, batch: int) -> tuple[Engine, dict[str, Any]]:
    """Return the engine of a run, and what its model says about itself.

    Raises
    ------
    OutsideFault
        Where the model's file is another now.
    UnfitWorker
        Where this process can't compute as the run needs it.
    """
    with _lock:
        key = (spec.fingerprint, batch)
        if _kept.engine is None or _kept.engine[0] != key:
            _kept.engine = None  # before the next is built: two may not fit
            _kept.engine = (key, *_new_engine(spec, batch))
        return _kept.engine[1:]


def _new_engine(spec: RunSpec, batch: int) -> tuple[Engine, dict[str, Any]]:
    try:
        checkpoint = load_checkpoint(spec.model["path"])
    except InputError as error:  # it was there at planning
        raise OutsideFault(str(error)) from error
    if checkpoint.sha256 != spec.model["sha256"]:
        raise OutsideFault(f"{spec.model['path']} has changed since the run was planned")
    settings = {**spec.engine, "batch": batch}
    passes, seed = spec.settings.passes, spec.settings.seed
    try:
        return Engine(checkpoint, passes=passes, seed=seed, **settings), checkpoint.meta
    except OutsideFault as error:
        raise UnfitWorker(str(error)) from error
