"""What becomes of the rows of an input file: which are kept, under which names, as which types."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa
from hats.pixel_math.spatial_index import SPATIAL_INDEX_COLUMN, compute_spatial_index

from survey_gampen.catalog.selection import Selection, Tally


@dataclass(frozen=True)
class Shape:
    """The way from a file's columns to ours.

    Attributes
    ----------
    schema : pyarrow.Schema
        Of the rows: object_id, ra, dec, extras.
    sources : tuple of str
        What each of these columns is called in the file.
    selection : Selection or None
    """

    schema: pa.Schema
    sources: tuple[str, ...]
    selection: Selection | None

    @property
    def columns(self) -> list[str]:
        """What has to be read of a file."""
        chosen = self.selection.columns if self.selection else ()
        return list(dict.fromkeys([*self.sources, *chosen]))

    def only(self, names: Sequence[str]) -> Shape:
        """The same rows with fewer columns."""
        pairs = zip(self.schema, self.sources, strict=True)
        kept = [(field, source) for field, source in pairs if field.name in names]
        schema = pa.schema([field for field, _ in kept])
        return Shape(schema, tuple(source for _, source in kept), self.selection)

    def of(self, batch: pa.RecordBatch, tally: Tally, left: int | None = None) -> pa.RecordBatch:
        """The selected rows of a batch, the first `left` of them.

        Raises
        ------
        pyarrow.ArrowException
            When a value does not fit the type of its column.
        """
        if self.selection is not None:
            batch = self.selection.keep(batch, tally, left)
        else:
            batch = batch if left is None else batch.slice(0, left)
            tally.read += batch.num_rows
        columns = [
            batch[source].cast(target.type)
            for source, target in zip(self.sources, self.schema, strict=True)
        ]
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def with_index(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The rows with their _healpix_29 in front, from ra and dec."""
    index = compute_spatial_index(batch["ra"].to_numpy(), batch["dec"].to_numpy())
    return batch.add_column(0, SPATIAL_INDEX_COLUMN, pa.array(index, pa.int64()))
