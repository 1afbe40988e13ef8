"""Footers of all Parquet files of a catalogue: how many rows, and one type for each column.

A catalogue may have tens of thousands of files. Their footers are read by many threads, for that is
waiting for a disk or a server; of each stay its number of rows, its size and a hash.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from survey_gampen.ahead import ahead
from survey_gampen.catalog.files import File
from survey_gampen.errors import InputError

#: Footers read at a time, and before their turn.
_THREADS, _AT_ONCE = 16, 512
#: Bytes that hold most footers, with what the end of the file says about them.
_GUESS = 64 << 10


@dataclass(frozen=True)
class Footer:
    """What the end of a Parquet file says.

    Attributes
    ----------
    rows, size : int
        Of the file; its size in bytes.
    schema : pyarrow.Schema
    digest : bytes
        SHA-256 of the size and the footer, which holds the place, size and extremes of every
        column's chunks.
    """

    rows: int
    size: int
    schema: pa.Schema
    digest: bytes


def read_footer(file: File) -> Footer:
    """Read the footer of a file, and nothing else of it.

    Raises
    ------
    InputError
        When the file is no Parquet file or may not be read.
    """
    try:
        tail, size = file.tail(_GUESS)
        # A file ends with its footer, the footer's length (4 bytes) and "PAR1".
        length = int.from_bytes(tail[-8:-4], "little") + 8
        if len(tail) < length <= size:
            tail, _ = file.tail(length)
        footer = pq.read_metadata(pa.BufferReader(tail))
    except PermissionError:
        raise InputError(f"{file.name} may not be read; ask its owner for permission") from None
    except FileNotFoundError:
        raise InputError(
            f"{file.name} is missing, though the catalogue names it: put it back, or copy the"
            " catalogue again"
        ) from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file.name} is not a Parquet file ({one_line(error)}); Parquet, FITS, VOTable, ECSV "
            "and CSV can be read"
        ) from None
    digest = hashlib.sha256(size.to_bytes(8, "little") + tail[-length:]).digest()
    return Footer(footer.num_rows, size, footer.schema.to_arrow_schema(), digest)


def read_footers(files: Sequence[File]) -> Iterator[tuple[File, Footer]]:
    """The footers of all files, in order, so many at once that memory stays bounded."""
    yield from zip(files, ahead(read_footer, files, _THREADS, _AT_ONCE), strict=True)


class Agreement:
    """One type for each column that is needed, such that all files can be read as it.

    Parameters
    ----------
    first : File
        Whose columns the others are compared with.
    schema : pyarrow.Schema
        Its columns.
    needed : sequence of str
        Names of the columns that are read.
    exact : str
        The one of them that holds object_ids: never turned from or into floating-point numbers.

    Attributes
    ----------
    types : dict of str to pyarrow.DataType
    differing : str
        The first column that was not of one type in all files so far; empty: there is none.
    """

    def __init__(self, first: File, schema: pa.Schema, needed: Sequence[str], exact: str) -> None:
        self._first = first
        self._exact = exact
        self.types = {name: value_type(schema.field(name).type) for name in needed}
        self.differing = ""
        self._first_types = {name: schema.field(name).type for name in needed}

    def look(self, file: File, schema: pa.Schema) -> None:
        """Take another file's columns into account.

        Raises
        ------
        InputError
            When one is missing there, or is of a type that does not go together with the others.
        """
        for name, kind in self.types.items():
            place = schema.get_field_index(name)
            if place < 0:
                raise InputError(
                    f"{file.name} has no column {name!r}, which other files of this catalogue "
                    "have; leave the file out or add the column"
                )
            there = schema.field(place).type
            if there != self._first_types[name]:
                self.differing = self.differing or name
            other = value_type(there)
            if other == kind:
                continue
            common = _common(kind, other, exact=name == self._exact)
            if common is None:
                raise InputError(
                    f"{file.name}: column {name!r} is {other}, in {self._first.name} it is {kind}; "
                    "write all files with the same types"
                )
            self.types[name] = common


def _common(one: pa.DataType, other: pa.DataType, exact: bool) -> pa.DataType | None:
    """A type for the values of both, None where there is none.

    Where it might not hold them all (int64 and uint64), reading fails later with the value's name
    and nothing is rounded.
    """
    if pa.types.is_null(one) or pa.types.is_null(other):
        return other if pa.types.is_null(one) else one
    if _is_text(one) and _is_text(other):
        return pa.large_string()
    whole = pa.types.is_integer(one), pa.types.is_integer(other)
    if all(whole):
        return pa.uint64() if pa.uint64() in (one, other) else pa.int64()
    numbers = [w or pa.types.is_floating(kind) for w, kind in zip(whole, (one, other), strict=True)]
    return pa.float64() if all(numbers) and not exact else None


def _is_text(kind: pa.DataType) -> bool:
    return bool(
        pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)
    )


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of the values: how they are coded is no matter."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def one_line(error: BaseException) -> str:
    """What an error says, in one line."""
    return " ".join(str(error).split())[:200]
