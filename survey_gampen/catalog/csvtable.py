"""CSV: the type of each column found from all of its cells, so that nothing is rounded.

Readers guess: they make a floating-point number of an id with an empty cell beside it or above
2^63, and drop the zeros in front of ``007``. Here a column is whole numbers only where every cell
is one as a computer writes it, and text where it might be a name.
"""

from __future__ import annotations

import csv
import io
import re
from collections import Counter
from collections.abc import Collection
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from survey_gampen.errors import InputError

#: Cells that say that there is no number. In a column of texts only the empty one says nothing.
_NOTHING = pa.array(["", "nan", "NaN", "NAN", "null", "NULL", "N/A", "--"])
_WHOLE = "^(0|-?[1-9][0-9]*)$"
_NUMBER = "^[+-]?(([0-9]+[.]?[0-9]*|[.][0-9]+)([eE][+-]?[0-9]+)?|inf|Inf|Infinity)$"
#: A number in a name: what stands before its first digit would be lost.
_PADDED = "^[+-]?0[0-9]+$"
_TRUTH = {"true": True, "false": False}
#: Bytes in which the names must stand.
_HEADER = 1 << 20


def read_csv(path: Path, positions: Collection[str]) -> pa.Table:
    """Read a table of comma-separated values, packed by gzip or not.

    The first line has the names; a ``#`` before them, or before one of them, is no part of a name.

    Parameters
    ----------
    path : Path
    positions : collection of str
        Names of columns that hold numbers in any case.

    Raises
    ------
    InputError
        When two columns have one name.
    pyarrow.ArrowException, OSError, UnicodeError
        When it is no such table.
    """
    with path.open("rb") as stream:
        packing = "gzip" if stream.read(2) == b"\x1f\x8b" else None
    with pa.input_stream(str(path), compression=packing) as stream:
        names, lines = _names(stream.read(_HEADER))
    again = [name for name, count in Counter(names).items() if count > 1]
    if again:
        raise InputError(f"{path} has several columns {again[0]!r}; give each a name of its own")
    with pa.input_stream(str(path), compression=packing) as stream:
        table = arrow_csv.read_csv(
            stream,
            arrow_csv.ReadOptions(column_names=names, skip_rows=lines),
            arrow_csv.ParseOptions(newlines_in_values=True),
            arrow_csv.ConvertOptions(column_types=dict.fromkeys(names, pa.string())),
        )
    return pa.table(
        {name: _typed(table[name], number=name in positions) for name in table.column_names}
    )


def _names(start: bytes) -> tuple[list[str], int]:
    """Names of the columns, and the number of lines up to the first row."""
    lines = start.decode("utf-8-sig", errors="ignore").splitlines()
    count = next((i for i, line in enumerate(lines) if not line.startswith("#")), len(lines))
    header = _cells(lines[count]) if count < len(lines) else []
    if count:
        # Lines of remarks; the last of them may have the names, as in the exports of HSC.
        above = _cells(lines[count - 1])
        numbers = any(re.match(_NUMBER, cell.strip()) for cell in header)
        if not header or (len(above) == len(header) and numbers):
            header, count = above, count - 1
    names = [cell.strip().lstrip("#").strip() for cell in header]
    return [name or f"column_{i}" for i, name in enumerate(names)], count + 1


def _cells(line: str) -> list[str]:
    return next(csv.reader(io.StringIO(line)), [])


def _typed(cells: pa.ChunkedArray, number: bool) -> pa.ChunkedArray:
    """A column of texts as what all of its cells are."""
    cells = pc.utf8_trim_whitespace(cells)
    nothing = pc.is_in(cells, _NOTHING)
    some = cells.filter(pc.invert(nothing))
    if number or (len(some) and not _any(some, _PADDED)):
        kinds = [pa.int64(), pa.uint64()] if _all(some, _WHOLE) else []
        if number or (not kinds and _all(some, _NUMBER)):
            kinds = [pa.float64()]
        values = pc.if_else(nothing, pa.scalar(None, pa.string()), cells)
        for kind in kinds:
            try:
                return pc.replace_substring_regex(values, "^[+]", "").cast(kind)
            except pa.ArrowInvalid:  # out of its range, or no number at all
                continue
        if set(pc.unique(pc.utf8_lower(some)).slice(0, 3).to_pylist()) <= set(_TRUTH):
            return pc.equal(pc.utf8_lower(values), "true")
    return pc.if_else(pc.equal(cells, ""), pa.scalar(None, pa.string()), cells)


def _all(cells: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.all(pc.match_substring_regex(cells, pattern)).as_py())


def _any(cells: pa.ChunkedArray, pattern: str) -> bool:
    return bool(pc.any(pc.match_substring_regex(cells, pattern)).as_py())
