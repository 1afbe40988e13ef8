"""Columns of a joined catalogue: what rows of all runs have in common once, the rest by run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from survey_gampen.bands.rows import take
from survey_gampen.errors import InputError

#: Columns of every catalogue, never null.
SHARED = ("_healpix_29", "object_id", "ra", "dec")


@dataclass(frozen=True)
class Measured:
    """The rows of one run.

    Attributes
    ----------
    name : str
        What its columns end in.
    band : str
    schema : pyarrow.Schema
        Of its published rows: shared columns, extras, band, and what was measured.
    """

    name: str
    band: str
    schema: pa.Schema

    @property
    def extras(self) -> list[str]:
        """Columns passed through from the input."""
        return list(self.schema.names[len(SHARED) : self.schema.names.index("band")])

    @property
    def measured(self) -> list[str]:
        """Columns of the measurement; the band stands in their names."""
        return list(self.schema.names[self.schema.names.index("band") + 1 :])


class Columns:
    """Where each column of a joined catalogue comes from.

    Parameters
    ----------
    runs : sequence of Measured
        Where several have a value, the first counts.
    footer : dict of str to str
        What each file says about itself.

    Raises
    ------
    InputError
        Where columns of two runs can't stand under one name.
    """

    def __init__(self, runs: Sequence[Measured], footer: dict[str, str]) -> None:
        self._from: list[tuple[str, list[int]]] = []
        fields: list[pa.Field] = []
        for name in SHARED:
            fields.append(_common(runs, name))
            self._from.append((name, list(range(len(runs)))))
        for name in dict.fromkeys(extra for run in runs for extra in run.extras):
            holders = [number for number, run in enumerate(runs) if name in run.extras]
            fields.append(_common([runs[number] for number in holders], name))
            self._from.append((name, holders))
        for number, run in enumerate(runs):
            for name in run.measured:
                fields.append(_of_run(run.schema.field(name), run))
                self._from.append((name, [number]))
        seen: set[str] = set()
        for field in fields:
            if field.name.lower() in seen:
                raise InputError(
                    f"two columns would be called {field.name}: give a run another name, as in"
                    " `join NAME=OUT ...`"
                )
            seen.add(field.name.lower())
        self.schema = pa.schema(fields, metadata=footer)

    def join(self, tables: Sequence[pa.Table | None], places: NDArray[np.int64]) -> pa.Table:
        """Rows of the joined catalogue.

        Parameters
        ----------
        tables : sequence of pyarrow.Table or None
            Rows of each run.
        places : ndarray, (runs, n)
            From :func:`survey_gampen.bands.rows.align`.
        """
        n = places.shape[1]
        arrays: list[pa.ChunkedArray | pa.Array] = []
        for (name, holders), field in zip(self._from, self.schema, strict=True):
            found = [
                take(table[name], places[number])
                for number in holders
                if (table := tables[number]) is not None
            ]
            arrays.append(pc.coalesce(*found) if found else pa.nulls(n, field.type))
        return pa.Table.from_arrays(arrays, schema=self.schema)


def _common(runs: Sequence[Measured], name: str) -> pa.Field:
    """A column that stands there once."""
    fields = [run.schema.field(name) for run in runs]
    for run, field in zip(runs, fields, strict=True):
        if field.type != fields[0].type:
            raise InputError(
                f"column {name} is {fields[0].type} in {runs[0].name} and {field.type} in"
                f" {run.name}: join runs of one catalogue"
            )
    return fields[0]


def _of_run(field: pa.Field, run: Measured) -> pa.Field:
    """A column of one run, null where a galaxy is not in it."""
    about = {key.decode(): value.decode() for key, value in (field.metadata or {}).items()}
    said = about.get("description", "")
    about["description"] = f"{said}; band {run.band}" if said else f"band {run.band}"
    if field.name == "status":
        about["description"] += "; null: the galaxy is not in that run"
    return pa.field(f"{field.name}_{run.name}", field.type, nullable=True, metadata=about)
