"""Catalogues that are not Parquet, read whole: small ones only.

FITS, VOTable and ECSV go through astropy, CSV through :mod:`survey_gampen.catalog.csvtable`.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from astropy.table import Table

from survey_gampen.catalog import csvtable
from survey_gampen.catalog.arrays import to_arrow
from survey_gampen.catalog.files import File, LocalFile, RemoteFile, content_digest
from survey_gampen.catalog.frames import frame_of, to_degrees, to_icrs
from survey_gampen.catalog.manytables import one_fits_table, one_votable
from survey_gampen.errors import GampenError, InputError

#: Above this a table is refused: it would be held in memory several times over.
LARGEST_BYTES = 2 << 30


@dataclass(frozen=True)
class LoadedTable:
    """A catalogue in memory.

    Attributes
    ----------
    table : pyarrow.Table
        All its columns; ra and dec in degrees, ICRS.
    notes : tuple of str
        What was done to the positions.
    digest : bytes
        SHA-256 of the file.
    """

    table: pa.Table
    notes: tuple[str, ...]
    digest: bytes


def read_catalog(file: File, kind: str, names: Mapping[str, str]) -> LoadedTable:
    """Read a catalogue that is no Parquet file, from wherever it lies.

    Parameters
    ----------
    file : File
    kind : str
        What :func:`~survey_gampen.catalog.formats.table_format` said.
    names : mapping
        Its columns of ``object_id``, ``ra`` and ``dec``. Where a file holds several tables the
        first that has them all is taken.

    Raises
    ------
    InputError
        When the file is too large for this way in, is not what its name says, or its positions are
        in a frame that can't be turned into ICRS.
    """
    if isinstance(file, LocalFile):
        table, notes = _read(file.path, file.name, kind, names)
        return LoadedTable(table, notes, content_digest(file))
    assert isinstance(file, RemoteFile)
    with tempfile.TemporaryDirectory(prefix="survey-gampen-") as folder:
        path = Path(folder, "table")
        file.fetch(path, LARGEST_BYTES)
        table, notes = _read(path, file.name, kind, names)
        return LoadedTable(table, notes, content_digest(LocalFile(path)))


def read_table(path: Path, kind: str, positions: Collection[str]) -> pa.Table:
    """Read a small FITS, VOTable, ECSV or CSV table as it is.

    Masked values become nulls; columns that hold an array a row become fixed-size lists.

    Parameters
    ----------
    path, kind
        The file and what :func:`~survey_gampen.catalog.formats.table_format` said of it.
    positions : collection of str
        Names that columns of ra and dec may have: turned to degrees where they are not.

    Raises
    ------
    InputError
        When the file is too large for this way in, or is not what its name says.
    """
    if kind == "csv":
        return _csv(path, str(path), positions)
    table, _ = _through_astropy(path, str(path), kind, ())
    return _as_arrow(table, str(path), positions, [])


def _read(
    path: Path, name: str, kind: str, names: Mapping[str, str]
) -> tuple[pa.Table, tuple[str, ...]]:
    """The table with positions in degrees, ICRS, and what was done to them."""
    ra, dec = names["ra"], names["dec"]
    if kind == "csv":
        return _csv(path, name, (ra, dec)), ()
    notes: list[str] = []
    table, frames = _through_astropy(path, name, kind, tuple(names.values()))
    read = _as_arrow(table, name, (ra, dec), notes)
    frame = frame_of(name, frames.get(ra), table.meta)
    if frame is not None and {ra, dec} <= set(read.column_names):
        read = to_icrs(read, ra, dec, frame, notes)
    return read, tuple(f"{name}: {note}" for note in notes)


def _csv(path: Path, name: str, positions: Collection[str]) -> pa.Table:
    _check_size(path, name, "csv")
    try:
        return csvtable.read_csv(path, positions)
    except (pa.ArrowException, OSError, UnicodeError, EOFError) as error:
        raise InputError(f"{name} cannot be read as csv: {_words(error)}") from None


def _through_astropy(
    path: Path, name: str, kind: str, needed: Collection[str]
) -> tuple[Table, dict[str, str]]:
    """The table, and the names of the frames that a VOTable gives its columns."""
    _check_size(path, name, kind)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if kind == "fits":
                return one_fits_table(path, needed), {}
            if kind == "votable":
                return one_votable(path, needed)
            return Table.read(path, format=f"ascii.{kind}"), {}
    except GampenError:  # Ctrl-C
        raise
    except Exception as error:
        raise InputError(f"{name} cannot be read as {kind}: {_words(error)}") from None


def _as_arrow(table: Table, name: str, positions: Collection[str], notes: list[str]) -> pa.Table:
    columns = {}
    for each in table.colnames:
        column = table[each]
        if each in positions:
            column = to_degrees(column, f"{name}: column {each!r}", notes)
        array = to_arrow(column)
        if array is not None:
            columns[each] = array
    return pa.table(columns)


def _check_size(path: Path, name: str, kind: str) -> None:
    size = path.stat().st_size
    if size > LARGEST_BYTES:
        raise InputError(
            f"{name}: {size / 1e9:.1f} GB is too large for {kind}; convert it to Parquet first"
        )


def _words(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
