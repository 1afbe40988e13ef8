"""A published table: its columns under our names, whatever file and spelling they come in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from survey_gampen.catalog.formats import table_format
from survey_gampen.catalog.tables import read_table
from survey_gampen.errors import InputError

#: Our name of a column to the spellings under which files have it, the likeliest first.
Spellings = Mapping[str, Sequence[str]]


def read_published(path: Path, needed: Spellings, optional: Spellings, advice: str) -> pa.Table:
    """Read columns of FITS, VOTable, ECSV, CSV or Parquet.

    Parameters
    ----------
    path : Path
    needed, optional : mapping of str to sequence of str
        A spelling holds but for its case where no column has it to the letter. Columns of angles
        named ``ra`` or ``dec`` in `needed` are turned to degrees.
    advice : str
        Ends the line about missing columns: where to get the right file.

    Returns
    -------
    pyarrow.Table
        The needed columns and those of the optional ones that are there, under our names.

    Raises
    ------
    InputError
        When the file cannot be read, lacks a needed column, or holds no rows.
    """
    if not path.is_file():
        raise InputError(f"{path} is no file; {advice}")
    kind = table_format(path)
    if kind is not None:
        table = read_table(path, kind, (*needed.get("ra", ()), *needed.get("dec", ())))
        names = _find(path, table.column_names, needed, optional, advice)
        table = table.select(list(names.values()))
    else:
        try:
            names = _find(path, pq.read_schema(path).names, needed, optional, advice)
            table = pq.read_table(path, columns=list(names.values()))
        except (pa.ArrowException, OSError) as error:
            raise InputError(
                f"{path} cannot be read ({' '.join(str(error).split())[:200]}); FITS, VOTable, "
                "ECSV, CSV and Parquet can, known by the ends of their names"
            ) from None
    if not table.num_rows:
        raise InputError(f"{path} is empty: it has the columns but no rows")
    return table.rename_columns(list(names))


def numbers(table: pa.Table, name: str, path: Path, no_value: float) -> NDArray[np.float64]:
    """A column as numbers, (n,), NaN where it holds nothing or `no_value`.

    Raises
    ------
    InputError
        When it holds something else than numbers.
    """
    try:
        values = pc.fill_null(table[name].cast(pa.float64()), np.nan).to_numpy()
    except pa.ArrowException:
        raise InputError(
            f"{path}: its column of {name} is {table[name].type}; it must hold numbers"
        ) from None
    # Files hold single precision: -99.99 is -99.98999786 there.
    return np.where(np.abs(values - no_value) < 1e-3, np.nan, values)


def _find(
    path: Path, there: Sequence[str], needed: Spellings, optional: Spellings, advice: str
) -> dict[str, str]:
    """Our names to the file's."""
    lower = {name.lower(): name for name in there}
    found = {}
    for key, spellings in {**needed, **optional}.items():
        exact = [name for name in spellings if name in there]
        near = [lower[name.lower()] for name in spellings if name.lower() in lower]
        if exact or near:
            found[key] = (exact + near)[0]
    if missing := [" or ".join(needed[key]) for key in needed if key not in found]:
        shown = ", ".join(there[:80]) + (", ..." if len(there) > 80 else "")
        raise InputError(f"{path} has no column {'; '.join(missing)}; it has: {shown}; {advice}")
    return found
