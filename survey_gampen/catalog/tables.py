"""Catalogues that are not Parquet, read whole through astropy: small ones only."""

from __future__ import annotations

import warnings
from collections.abc import Collection
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy import units
from astropy.table import Column, MaskedColumn, Table

from survey_gampen.errors import GampenError, InputError

#: Above this a table is refused: it would be held in memory several times over.
LARGEST_BYTES = 2 << 30

_SUFFIXES = {
    ".fits": "fits", ".fit": "fits", ".fits.gz": "fits", ".fit.gz": "fits", ".fz": "fits",
    ".vot": "votable", ".votable": "votable", ".xml": "votable",
    ".ecsv": "ascii.ecsv", ".csv": "ascii.csv", ".csv.gz": "ascii.csv",
}  # fmt: skip


def table_format(path: Path) -> str | None:
    """The astropy format of a file by its name, None when it is none of ours."""
    name = path.name.lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)


def read_table(path: Path, kind: str, positions: Collection[str]) -> pa.Table:
    """Read a small FITS, VOTable, ECSV or CSV table.

    Masked values become nulls; columns that hold an array a row become fixed-size lists.

    Parameters
    ----------
    path, kind
        The file and its astropy format.
    positions : collection of str
        Names of the columns of ra and dec: turned to degrees where their unit is another angle.

    Raises
    ------
    InputError
        When the file is too large for this way in, or is not what its name says.
    """
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise InputError(
            f"{path}: {size / 1e9:.1f} GB is too large for {kind}; convert it to Parquet first"
        )
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            table = Table.read(path, format=kind)
    except GampenError:  # Ctrl-C
        raise
    except Exception as error:
        words = " ".join(str(error).split())[:200]
        raise InputError(
            f"{path} cannot be read as {kind.removeprefix('ascii.')}: {words}"
        ) from None
    columns = {}
    for name in table.colnames:
        column = table[name]
        if name in positions and _is_other_angle(getattr(column, "unit", None)):
            column = column.to(units.deg)
        array = _to_arrow(column)
        if kind == "ascii.csv" and array is not None:
            array = _large_whole_numbers(array)
        columns[name] = array
    return pa.table({name: array for name, array in columns.items() if array is not None})


def _to_arrow(column: Column) -> pa.Array | None:
    """A column as Arrow; None for the kinds that have no place here (Python objects)."""
    mask = np.ma.getmaskarray(column) if isinstance(column, MaskedColumn) else None
    values = np.asarray(getattr(column, "value", column))
    if values.dtype.hasobject:
        try:
            return pa.array([None if value is np.ma.masked else value for value in column])
        except pa.ArrowException:
            return None
    values = values.astype(values.dtype.newbyteorder("="), copy=False)
    if values.ndim > 1:
        flat = pa.array(values.reshape(-1))
        return pa.FixedSizeListArray.from_arrays(flat, values[0].size) if len(values) else None
    if values.dtype.kind == "S":
        values = np.char.decode(values, "utf-8", "replace")
    if values.dtype.kind not in "biufU":
        return None
    return pa.array(values.tolist() if values.dtype.kind == "U" else values, mask=mask)


def _is_other_angle(unit: units.UnitBase | None) -> bool:
    return unit is not None and unit != units.deg and unit.is_equivalent(units.deg)


def _large_whole_numbers(array: pa.Array) -> pa.Array:
    """Text that holds whole numbers above 2^63 - 1 only, as unsigned: CSV readers give them up."""
    if not pa.types.is_string(array.type) or len(array) == array.null_count:
        return array
    digits = pc.all(pc.match_substring_regex(array, r"^(0|[1-9][0-9]{0,19})$")).as_py()
    if not digits:
        return array
    try:
        return array.cast(pa.uint64())
    except pa.ArrowInvalid:
        return array
