"""The input catalogue: rows of (object_id, ra, dec, extras), in batches, whatever holds them.

Four steps, each in one place: find the files (:mod:`survey_gampen.catalog.listing`), read their
footers (:mod:`~survey_gampen.catalog.footers`), name the columns
(:mod:`~survey_gampen.catalog.columns`), scan (:meth:`Catalog.batches`). What is no Parquet comes
into memory as a whole (:mod:`~survey_gampen.catalog.tables`).
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from survey_gampen.catalog import tables
from survey_gampen.catalog.columns import KEY_COLUMNS, batch_schema, check_columns
from survey_gampen.catalog.content import Content, Leaves, parquet_content
from survey_gampen.catalog.files import (
    File,
    LocalFolder,
    RemoteFolder,
    content_digest,
    open_place,
    sources,
)
from survey_gampen.catalog.footers import one_line, read_footer
from survey_gampen.catalog.listing import Listing, parquet_files
from survey_gampen.catalog.select import parse_select
from survey_gampen.catalog.selection import Tally
from survey_gampen.catalog.shape import Shape
from survey_gampen.errors import InputError

#: A catalogue up to this size is known by its content, a larger one by its footers.
_HASHED_WHOLE = 32 << 20


class Piece(NamedTuple):
    """Some rows that follow each other in a row group of a file.

    Attributes
    ----------
    file, group : int
        Which file, and which row group of it.
    start, rows : int
        The first row in the group, and how many were looked at.
    batch : pyarrow.RecordBatch
        Those that are kept.
    """

    file: int
    group: int
    start: int
    rows: int
    batch: pa.RecordBatch


@dataclass(frozen=True)
class Catalog:
    """An input catalogue that can be scanned any number of times.

    Attributes
    ----------
    path : str
        What the user named, path or address; nothing secret.
    num_rows : int
        Rows of the input, at most `limit`; with a selection it is an upper bound.
    notes : tuple of str
        What was done to the rows that the user should know of.
    request : mapping
        What is asked of the rows: ``columns``, ``extra``, ``select``, ``limit``.
    """

    path: str
    num_rows: int
    notes: tuple[str, ...]
    request: Mapping[str, Any] = field(repr=False)
    _shape: Shape = field(repr=False)
    _content: Content = field(repr=False)

    @property
    def schema(self) -> pa.Schema:
        """Of the batches: object_id (integer or text), ra, dec (float64, deg), then the extras."""
        return self._shape.schema

    @property
    def leaves(self) -> Leaves | None:
        """The files of a HATS catalogue, None for any other."""
        return self._content.leaves

    def identity(self) -> str:
        """SHA-256 of what the rows depend on: the files' content and what is asked of them.

        Names, places and dates of files play no part, so a catalogue may be moved, elsewhere too.
        Parquet files of more than 32 MiB together are known by their sizes and footers, which hold
        the place, size and extremes of every column chunk.
        """
        return self._identity

    @cached_property
    def _identity(self) -> str:
        digest = hashlib.sha256(json.dumps(self.request, sort_keys=True).encode())
        content = self._content
        if content.size > _HASHED_WHOLE and content.footers:
            digest.update(content.footers)
        else:
            for part in content.digests or map(content_digest, content.files):
                digest.update(part)
        return digest.hexdigest()

    def batches(self, rows: int = 32_768, tally: Tally | None = None) -> Iterator[pa.RecordBatch]:
        """Scan in input order, at most `rows` at a time, never the whole.

        Parameters
        ----------
        rows : int
        tally : Tally, optional
            Is told how many rows are read, and what each cut loses of them.

        Raises
        ------
        InputError
            When a file cannot be read, or a value does not fit the type of its column.
        OutsideFault
            When the files lie elsewhere and can't be had now.
        """
        for piece in self.pieces(rows, tally):
            if piece.batch.num_rows:
                yield piece.batch

    def pieces(self, rows: int = 32_768, tally: Tally | None = None) -> Iterator[Piece]:
        """As :meth:`batches`, with the place of each; those that keep no row too."""
        left: int | None = self.request["limit"]
        tally = tally or Tally()
        for file, group, start, source in self._scan(rows):
            before = tally.read
            try:
                batch = self._shape.of(source, tally, left)
            except pa.ArrowException as error:
                raise InputError(f"{self.path}: {one_line(error)}") from error
            yield Piece(file, group, start, tally.read - before, batch)
            if left is not None:
                left -= batch.num_rows
                if left == 0:
                    return

    def _scan(self, rows: int) -> Iterator[tuple[int, int, int, pa.RecordBatch]]:
        """File, row group, first row in it, and the columns that are needed, as they are.

        File by file and without pre-buffering: Arrow's own scanner, and its pre-buffer, keep the
        columns of a whole file in memory until its end.
        """
        names = self._shape.columns
        if self._content.table is not None:
            start = 0
            for batch in self._content.table.select(names).to_batches(rows):
                yield 0, 0, start, batch
                start += batch.num_rows
            return
        for number, (file, opened) in enumerate(sources(self._content.files)):
            try:
                with pq.ParquetFile(opened, pre_buffer=False) as parquet:
                    for group in range(parquet.num_row_groups):
                        start = 0
                        for batch in parquet.iter_batches(rows, [group], names):
                            yield number, group, start, batch
                            start += batch.num_rows
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{file.name} cannot be read: {one_line(error)}") from error


def open_catalog(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
    select: str | None = None,
    limit: int | None = None,
    cuts: Mapping[str, str] | None = None,
) -> Catalog:
    """Open a catalogue: Parquet (a file, a folder, HATS), FITS, VOTable, ECSV or CSV.

    Parameters
    ----------
    path : str or Path
        The file or folder; an address (``https://``, ``s3://``) too.
    columns : mapping, optional
        Names in the input of ``object_id``, ``ra`` and ``dec`` where they differ.
    extra : sequence of str
        Columns passed through to the output, with their types.
    select : str, optional
        Keep the rows where this expression is true (see :func:`parse_select`).
    limit : int, optional
        Keep the first rows only, in input order (of those selected).
    cuts : mapping, optional
        Expressions that `select` may use as ``@name``.

    Raises
    ------
    InputError
        When there is no such file, it is of no known kind, or holds no rows; when a column is
        missing, has the wrong type or the name of an output column; when the selection is wrong.
    OutsideFault
        When it lies elsewhere and can't be had now.
    """
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: give 1 or more")
    names = {key: (columns or {}).get(key) or key for key in KEY_COLUMNS}
    extra = tuple(dict.fromkeys(extra))
    place = open_place(path)
    files: tuple[File, ...]
    listing: Listing | None = None
    if isinstance(place, LocalFolder | RemoteFolder):
        listing, kind = parquet_files(place), None
        files = listing.files
    else:
        files, kind = (place,), place.table_format
    loaded = None
    if kind is None:
        schema = read_footer(files[0]).schema
    else:
        loaded = tables.read_catalog(files[0], kind, names)
        schema = loaded.table.schema
    check_columns(place.name, schema, names, extra)
    selection = parse_select(select, schema, names, cuts) if select else None
    chosen = selection.text if selection else None
    wanted = (*names.values(), *extra)
    if loaded is None:
        content, types = parquet_content(files, listing, schema, names, wanted, selection)
    else:
        types = {name: schema.field(name).type for name in wanted}
        table = loaded.table
        content = Content(files, table.num_rows, 0, table, digests=(loaded.digest,))
    if content.rows == 0:
        raise InputError(f"{place.name} is empty: it has the columns but no rows")
    return Catalog(
        path=place.name,
        num_rows=content.rows if limit is None else min(content.rows, limit),
        notes=loaded.notes if loaded else (),
        request={"columns": names, "extra": extra, "select": chosen, "limit": limit},
        _shape=Shape(batch_schema(schema, types, names["object_id"], extra), wanted, selection),
        _content=content,
    )
