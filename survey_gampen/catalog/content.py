"""What holds the rows of a catalogue, and what tells whether it is still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import pyarrow as pa

from survey_gampen.catalog.files import File
from survey_gampen.catalog.footers import Agreement, read_footers
from survey_gampen.catalog.listing import Listing
from survey_gampen.catalog.selection import Selection


@dataclass(frozen=True)
class Leaves:
    """The files of a HATS catalogue.

    Attributes
    ----------
    folder : str
        What :func:`~survey_gampen.catalog.files.folder_at` takes.
    names : tuple of str
        The files in it, along the sky.
    footers : tuple of bytes
        SHA-256 of each file's size and footer.
    differing : str
        A column that is needed and not of one type in all files; empty where there is none.
    """

    folder: str
    names: tuple[str, ...]
    footers: tuple[bytes, ...]
    differing: str


@dataclass(frozen=True)
class Content:
    """What holds the rows, and what tells whether it is still the same.

    Attributes
    ----------
    files : tuple of File
    rows, size : int
        Rows and bytes of all files.
    table : pyarrow.Table or None
        The rows themselves where they are in memory.
    footers : bytes
        SHA-256 of each Parquet file's size and footer.
    digests : tuple of bytes
        SHA-256 of each file's content where it is known already.
    leaves : Leaves or None
        The files again, where they are those of a HATS catalogue.
    """

    files: tuple[File, ...]
    rows: int
    size: int
    table: pa.Table | None = None
    footers: bytes = b""
    digests: tuple[bytes, ...] = ()
    leaves: Leaves | None = None


def parquet_content(
    files: tuple[File, ...],
    listing: Listing | None,
    schema: pa.Schema,
    names: Mapping[str, str],
    wanted: Sequence[str],
    selection: Selection | None,
) -> tuple[Content, dict[str, pa.DataType]]:
    """What all footers say together: rows, sizes, and a type for each column.

    Raises
    ------
    InputError
        When a file cannot be read, or files don't go together.
    """
    needed = dict.fromkeys([*wanted, *(selection.columns if selection else ())])
    agreement = Agreement(files[0], schema, tuple(needed), names["object_id"])
    rows = size = 0
    footers = []
    for file, footer in read_footers(files):
        agreement.look(file, footer.schema)
        rows, size = rows + footer.rows, size + footer.size
        footers.append(footer.digest)
    whole = hashlib.sha256(b"".join(footers)).digest()
    leaves = None
    if listing is not None and listing.is_hats:
        leaves = Leaves(listing.folder.place, listing.names, tuple(footers), agreement.differing)
    return Content(files, rows, size, footers=whole, leaves=leaves), agreement.types
