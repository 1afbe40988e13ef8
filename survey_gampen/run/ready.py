"""Whether ready cutouts, which are found by object_id, can be those of a catalogue's galaxies."""

from __future__ import annotations

import pyarrow as pa

from survey_gampen.catalog.source import Catalog
from survey_gampen.errors import InputError
from survey_gampen.images.base import ImageSource
from survey_gampen.images.ready.group import ReadySource
from survey_gampen.images.stack import StackedSource
from survey_gampen.model.presets import Architecture


def ready_one(source: ImageSource) -> ReadySource | None:
    """The Zarr group that a source is, of several bands the first; None where it is none."""
    first = source.sources[0] if isinstance(source, StackedSource) else source
    return first if isinstance(first, ReadySource) else None


def check_names(catalog: Catalog, source: ReadySource) -> None:
    """Refuse images whose names are of another kind than the rows', where no two are the same.

    Rows are read only where the kinds differ, up to the first that has an image.

    Raises
    ------
    InputError
    """
    numbers = pa.types.is_integer(catalog.schema.field("object_id").type)
    if numbers == source.numbers:
        return
    names = (batch["object_id"].to_pylist() for batch in catalog.batches())
    if any(source.has(some).any() for some in names):
        return
    here, there = ("whole numbers", "text") if numbers else ("text", "whole numbers")
    raise InputError(
        f"{source.path}: object_ids are {there} there and {here} in {catalog.path}, and none is the"
        " same: write one of them anew as the other has them"
    )


def too_small(source: ReadySource, arch: Architecture) -> str:
    """Say what comes of images that do not fill the frame; empty where they do."""
    frame, width, height = arch.size * arch.pixel_scale, *source.extent
    if min(width, height) >= frame - source.pixel_scale:
        return ""
    # As images/pixels/repair.py has it.
    half = min(width, frame) * min(height, frame) < frame**2 / 2
    outcome = "which is more than half: no galaxy gets a posterior" if half else "padded"
    return (
        f'{source.path}: the images are {width:.3g}" x {height:.3g}", the network sees'
        f' {frame:.3g}": what is beyond them is missing, {outcome}; cut them larger'
    )
