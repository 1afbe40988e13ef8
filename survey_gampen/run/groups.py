"""The Zarr groups beside the published files: whose they are, and how they go."""

from __future__ import annotations

import os
import shutil
import uuid
from contextlib import suppress
from pathlib import Path

from survey_gampen import storage
from survey_gampen.generations import remove_group
from survey_gampen.images.store import is_complete
from survey_gampen.outside import outside_faults
from survey_gampen.run.layout import RunDir
from survey_gampen.run.plan import Partition
from survey_gampen.run.spec import RunSpec


def is_cut(run: RunDir, spec: RunSpec, partition: Partition) -> bool:
    """Tell whether the cutouts of a partition are there, whole, and of the present images."""
    return is_complete(run.cutout_group(partition.name), images=spec.parts["images"])


def discard(path: Path, staging: Path) -> None:
    """Remove a group in one step for all who look at it, then for good."""
    if storage.is_remote(path):
        with outside_faults(path):
            remove_group(path)
        return
    away = staging / f"away-{uuid.uuid4().hex}"
    with outside_faults(path), suppress(FileNotFoundError):
        staging.mkdir(parents=True, exist_ok=True)
        os.rename(path, away)
        shutil.rmtree(away, ignore_errors=True)
