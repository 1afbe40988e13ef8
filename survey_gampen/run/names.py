"""Whether images that are found by object_id can be those of a catalogue's galaxies."""

from __future__ import annotations

import pyarrow as pa

from survey_gampen.catalog.source import Catalog
from survey_gampen.errors import InputError
from survey_gampen.images.ready.group import ReadySource


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
