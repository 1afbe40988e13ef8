"""A column of an astropy table as Arrow, value by value the same."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from astropy.table import Column, MaskedColumn
from numpy.typing import NDArray


def to_arrow(column: Column) -> pa.Array | None:
    """A column as Arrow; None for the kinds that have no place here (times, Python objects).

    Masked values become nulls. Several numbers a row become a list of fixed size. Texts lose the
    blanks that a format pads them with, at their end and nowhere else.
    """
    try:
        mask = np.ma.getmaskarray(column) if isinstance(column, MaskedColumn) else None
        values = np.asarray(getattr(column, "value", column))
        if values.dtype.hasobject:
            return pa.array([_plain(value) for value in column])
    except (pa.ArrowException, TypeError, ValueError):
        return None
    if values.ndim > 1:
        width = int(np.prod(values.shape[1:]))
        flat = _flat(values.reshape(-1), None if mask is None else mask.reshape(-1))
        return (
            pa.FixedSizeListArray.from_arrays(flat, width) if flat is not None and width else None
        )
    return _flat(values, mask)


def _flat(values: NDArray[Any], mask: NDArray[np.bool_] | None) -> pa.Array | None:
    if values.dtype.kind == "S":
        values = _decode(values)
    if values.dtype.kind == "U":
        return pa.array(np.char.rstrip(values, " \0").tolist(), mask=mask, type=pa.string())
    if values.dtype.kind not in "biuf":
        return None
    # Arrow knows the machine's own order of bytes only; FITS has the other.
    return pa.array(values.astype(values.dtype.newbyteorder("="), copy=False), mask=mask)


def _decode(values: NDArray[np.bytes_]) -> NDArray[np.str_]:
    """Bytes as text: UTF-8, or else Latin-1, in which any bytes are letters and none is lost."""
    try:
        return np.char.decode(values, "utf-8")
    except UnicodeDecodeError:
        return np.char.decode(values, "latin-1")


def _plain(value: object) -> object:
    """A Python value of a column of objects."""
    if value is np.ma.masked:
        return None
    return value.rstrip(" \0") if isinstance(value, str) else value
