"""One published file that holds the rows of several partitions.

Its footer keeps what all of them said alike at the top, where any reader looks, and the rest part
by part, so that a merged leaf can be taken apart again into the leaves it was made of.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from hats.pixel_math.spatial_index import SPATIAL_INDEX_COLUMN

from survey_gampen import parquet
from survey_gampen.catalog.hats_out import Pixel, span
from survey_gampen.catalog.leaves import ROWS_AT_ONCE, WRITING, fitted

#: Footer key of the list of parts (JSON).
PARTS_KEY = "survey_gampen.parts"


@dataclass(frozen=True)
class Part:
    """A partition inside a merged leaf.

    Attributes
    ----------
    norder, npix : int
        Its pixel.
    rows : int
        Number of its rows.
    footer : dict
        What its own file said about itself.
    """

    norder: int
    npix: int
    rows: int
    footer: dict[str, str]


def read_parts(file: Path) -> list[Part]:
    """The parts of a merged leaf with their whole footers; none for a leaf as it was published."""
    footer = _footer(file)
    listed = json.loads(footer.pop(PARTS_KEY, "[]"))
    return [Part(**{**part, "footer": {**footer, **part["footer"]}}) for part in listed]


def write_merged(staged: Path, files: Sequence[Path], pixels: Sequence[Pixel]) -> None:
    """Write the rows of leaves, which follow each other on the sky, as one file.

    Memory does not grow with the number of rows. A leaf that was merged before brings its own
    parts along.
    """
    parts: list[Part] = []
    for file, pixel in zip(files, pixels, strict=True):
        rows = parquet.read_metadata(file).num_rows
        parts += read_parts(file) or [Part(pixel.norder, pixel.npix, rows, _footer(file))]
    first = parts[0].footer
    common = {
        key: value
        for key, value in first.items()
        if all(part.footer.get(key) == value for part in parts)
    }
    listed = [asdict(part) for part in parts]
    for part in listed:
        part["footer"] = {k: v for k, v in part["footer"].items() if k not in common}
    metadata = {**common, PARTS_KEY: json.dumps(listed, sort_keys=True)}
    # A run that a newer version went on with may have leaves with a column more.
    widest = max((parquet.read_schema(file) for file in files), key=len)
    schema = widest.with_metadata(metadata)
    with pq.ParquetWriter(staged, schema, **WRITING) as writer:
        for file in files:
            with parquet.open_file(file) as source:
                for batch in source.iter_batches(ROWS_AT_ONCE):
                    writer.write_batch(fitted(batch, schema))


def write_part(staged: Path, merged: Path, part: Part) -> None:
    """Write the rows of one part of a merged leaf as the leaf that it was."""
    low, high = span(part)
    with parquet.open_file(merged) as source:
        schema = source.schema_arrow.with_metadata(part.footer)
        with pq.ParquetWriter(staged, schema, **WRITING) as writer:
            for batch in source.iter_batches(ROWS_AT_ONCE):
                first, last = np.searchsorted(batch[SPATIAL_INDEX_COLUMN].to_numpy(), [low, high])
                if last > first:
                    writer.write_batch(batch.slice(int(first), int(last - first)))


def _footer(file: Path) -> dict[str, str]:
    metadata = parquet.read_schema(file).metadata or {}
    return {key.decode(): value.decode() for key, value in metadata.items()}
