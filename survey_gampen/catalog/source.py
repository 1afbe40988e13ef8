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

import pyarrow as pa
import pyarrow.parquet as pq

from survey_gampen.catalog import tables
from survey_gampen.catalog.columns import KEY_COLUMNS, batch_schema, check_columns
from survey_gampen.catalog.files import (
    File,
    LocalFolder,
    RemoteFolder,
    content_digest,
    open_place,
    sources,
)
from survey_gampen.catalog.footers import Agreement, one_line, read_footer, read_footers
from survey_gampen.catalog.listing import parquet_files
from survey_gampen.catalog.select import parse_select
from survey_gampen.catalog.selection import Selection, Tally
from survey_gampen.errors import InputError

#: A catalogue up to this size is known by its content, a larger one by its footers.
_HASHED_WHOLE = 32 << 20


@dataclass(frozen=True)
class Catalog:
    """An input catalogue that can be scanned any number of times.

    Attributes
    ----------
    path : str
        What the user named, path or address; nothing secret.
    schema : pyarrow.Schema
        Of the batches: object_id (integer or text), ra, dec (float64, deg), then the extras.
    num_rows : int
        Rows of the input, at most `limit`; with a selection it is an upper bound.
    notes : tuple of str
        What was done to the rows that the user should know of.
    """

    path: str
    schema: pa.Schema
    num_rows: int
    notes: tuple[str, ...]
    _sources: tuple[str, ...] = field(repr=False)
    _selection: Selection | None = field(repr=False)
    _limit: int | None
    _content: _Content = field(repr=False)
    _request: Mapping[str, object] = field(repr=False)

    def identity(self) -> str:
        """SHA-256 of what the rows depend on: the files' content and what is asked of them.

        Names, places and dates of files play no part, so a catalogue may be moved, elsewhere too.
        Parquet files of more than 32 MiB together are known by their sizes and footers, which hold
        the place, size and extremes of every column chunk.
        """
        return self._identity

    @cached_property
    def _identity(self) -> str:
        digest = hashlib.sha256(json.dumps(self._request, sort_keys=True).encode())
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
        left = self._limit
        tally = tally or Tally()
        for source in self._scan(rows):
            batch = self._shape(source, tally, left)
            if left is not None:
                left -= batch.num_rows
            if batch.num_rows:
                yield batch
            if left == 0:
                return

    def _scan(self, rows: int) -> Iterator[pa.RecordBatch]:
        """The columns that are needed, as they are.

        File by file and without pre-buffering: Arrow's own scanner, and its pre-buffer, keep the
        columns of a whole file in memory until its end.
        """
        chosen = self._selection.columns if self._selection else ()
        names = list(dict.fromkeys([*self._sources, *chosen]))
        if self._content.table is not None:
            yield from self._content.table.select(names).to_batches(rows)
            return
        for file, opened in sources(self._content.files):
            try:
                with pq.ParquetFile(opened, pre_buffer=False) as parquet:
                    yield from parquet.iter_batches(rows, columns=names)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{file.name} cannot be read: {one_line(error)}") from error

    def _shape(self, batch: pa.RecordBatch, tally: Tally, left: int | None) -> pa.RecordBatch:
        """The selected rows of a batch, the first `left` of them, under our names and types."""
        try:
            if self._selection is not None:
                batch = self._selection.keep(batch, tally, left)
            else:
                batch = batch if left is None else batch.slice(0, left)
                tally.read += batch.num_rows
            columns = [
                batch[source].cast(target.type)
                for source, target in zip(self._sources, self.schema, strict=True)
            ]
        except pa.ArrowException as error:
            raise InputError(f"{self.path}: {one_line(error)}") from error
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


@dataclass(frozen=True)
class _Content:
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
    """

    files: tuple[File, ...]
    rows: int
    size: int
    table: pa.Table | None = None
    footers: bytes = b""
    digests: tuple[bytes, ...] = ()


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
    if isinstance(place, LocalFolder | RemoteFolder):
        files, kind = tuple(parquet_files(place)), None
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
        content, types = _parquet(files, schema, names, wanted, selection)
    else:
        types = {name: schema.field(name).type for name in wanted}
        table = loaded.table
        content = _Content(files, table.num_rows, 0, table, digests=(loaded.digest,))
    if content.rows == 0:
        raise InputError(f"{place.name} is empty: it has the columns but no rows")
    return Catalog(
        path=place.name,
        schema=batch_schema(schema, types, names["object_id"], extra),
        num_rows=content.rows if limit is None else min(content.rows, limit),
        notes=loaded.notes if loaded else (),
        _sources=wanted,
        _selection=selection,
        _limit=limit,
        _content=content,
        _request={"columns": names, "extra": extra, "select": chosen, "limit": limit},
    )


def _parquet(
    files: tuple[File, ...],
    schema: pa.Schema,
    names: Mapping[str, str],
    wanted: Sequence[str],
    selection: Selection | None,
) -> tuple[_Content, dict[str, pa.DataType]]:
    """What all footers say together: rows, sizes, and a type for each column."""
    needed = dict.fromkeys([*wanted, *(selection.columns if selection else ())])
    agreement = Agreement(files[0], schema, tuple(needed), names["object_id"])
    rows = size = 0
    digest = hashlib.sha256()
    for file, footer in read_footers(files):
        agreement.look(file, footer.schema)
        rows, size = rows + footer.rows, size + footer.size
        digest.update(footer.digest)
    return _Content(files, rows, size, footers=digest.digest()), agreement.types
