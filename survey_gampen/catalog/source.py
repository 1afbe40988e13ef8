"""The input catalogue: rows of (object_id, ra, dec, extras), in batches, whatever holds them.

Three steps, each in one place: find the files and check that they are what they seem
(:func:`open_catalog`), name the columns (`_check_columns`), scan (:meth:`Catalog.batches`).
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from survey_gampen.catalog.ids import is_id_type
from survey_gampen.catalog.select import parse_select
from survey_gampen.catalog.selection import Selection, Tally
from survey_gampen.catalog.tables import read_table, table_format
from survey_gampen.errors import InputError

#: The columns every catalogue has, under these names from here on.
KEY_COLUMNS = ("object_id", "ra", "dec")
#: Files up to this size are hashed whole for the identity, larger ones by size and footer.
_HASHED_WHOLE = 256 << 20

_NUMBERS = (pa.types.is_floating, pa.types.is_integer, pa.types.is_decimal)
_QUANTITIES = ("bt", "r_e", "flux", "mag")
_STATISTICS = (
    *("p2_5", "p16", "p50", "p84", "p97_5", "mean", "std", "mode"),
    *(f"ci{level}_{end}" for level in (68, 95, 99) for end in ("lo", "hi")),
)
#: Names the output uses itself, and those of the folders of a HATS catalogue.
RESERVED = frozenset(
    {
        *("_healpix_29", *KEY_COLUMNS, "band", "status", "status_note", "replaced"),
        *("ood_score", "n_passes"),
        *("corr_bt_r_e", "corr_bt_flux", "corr_r_e_flux", "stn_scale", "stn_dx", "stn_dy"),
        *(f"{quantity}_{name}" for quantity in _QUANTITIES for name in _STATISTICS),
        *("norder", "dir", "npix"),
    }
)


@dataclass(frozen=True)
class Catalog:
    """An input catalogue that can be scanned any number of times.

    Attributes
    ----------
    path : Path
        What the user named.
    schema : pyarrow.Schema
        Of the batches: object_id (integer or text), ra, dec (float64, deg), then the extras.
    num_rows : int
        Rows of the input, at most `limit`; with a selection it is an upper bound.
    """

    path: Path
    schema: pa.Schema
    num_rows: int
    _sources: tuple[str, ...] = field(repr=False)
    _selection: Selection | None = field(repr=False)
    _limit: int | None
    _table: pa.Table | None = field(repr=False)
    _files: tuple[Path, ...] = field(repr=False)
    _request: Mapping[str, object] = field(repr=False)

    def identity(self) -> str:
        """SHA-256 of what the rows depend on: the files' content and what is asked of them.

        Names and dates of files play no part, so a catalogue may be moved. Files over 256 MB are
        known by their size and their Parquet footer, which holds the place, size and extremes of
        every column chunk.
        """
        digest = hashlib.sha256(json.dumps(self._request, sort_keys=True).encode())
        for path in self._files:
            digest.update(_file_digest(path))
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
            When a file cannot be read or its columns have other types than those of the first.
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
        if self._table is not None:
            yield from self._table.select(names).to_batches(rows)
            return
        for path in self._files:
            try:
                with pq.ParquetFile(path, pre_buffer=False) as file:
                    absent = sorted(set(names) - set(file.schema_arrow.names))
                    if absent:
                        raise InputError(
                            f"{path} has no column {absent[0]!r}, which other files of this "
                            "catalogue have; leave the file out or add the column"
                        )
                    yield from file.iter_batches(rows, columns=names)
            except (pa.ArrowException, OSError) as error:
                raise InputError(f"{path} cannot be read: {_one_line(error)}") from error

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
            raise InputError(f"{self.path}: {_one_line(error)}") from error
        return pa.RecordBatch.from_arrays(columns, schema=self.schema)


def open_catalog(
    path: str | Path,
    columns: Mapping[str, str] | None = None,
    extra: Sequence[str] = (),
    select: str | None = None,
    limit: int | None = None,
    cuts: Mapping[str, str] | None = None,
) -> Catalog:
    """Open a catalogue: Parquet (a file, a folder, a HATS catalogue), FITS, VOTable, ECSV or CSV.

    Parameters
    ----------
    path : str or Path
        The file or folder.
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
    """
    path = Path(path)
    if limit is not None and limit < 1:
        raise InputError(f"--limit {limit}: give 1 or more")
    names = {key: (columns or {}).get(key) or key for key in KEY_COLUMNS}
    schema, files, rows, table = _open_files(path, names)
    extra = tuple(dict.fromkeys(extra))
    _check_columns(path, schema, names, extra)
    if rows == 0:
        raise InputError(f"{path} is empty: it has the columns but no rows")
    fields = [_plain(schema.field(names["object_id"])).with_name("object_id")]
    fields += [pa.field(key, pa.float64()) for key in ("ra", "dec")]
    fields += [_plain(schema.field(name)) for name in extra]
    selection = parse_select(select, schema, names, cuts) if select else None
    chosen = selection.text if selection else None
    return Catalog(
        path=path,
        schema=pa.schema(fields),
        num_rows=rows if limit is None else min(rows, limit),
        _sources=(*names.values(), *extra),
        _selection=selection,
        _limit=limit,
        _table=table,
        _files=files,
        _request={"columns": names, "extra": extra, "select": chosen, "limit": limit},
    )


def _open_files(
    path: Path, names: Mapping[str, str]
) -> tuple[pa.Schema, tuple[Path, ...], int, pa.Table | None]:
    """Schema (of the first file), files, number of rows, the table itself if it is in memory."""
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of a catalogue")
    kind = None if path.is_dir() else table_format(path)
    if kind is not None:
        table = read_table(path, kind, (names["ra"], names["dec"]))
        return table.schema, (path,), table.num_rows, table
    files = tuple(_parquet_files(path)) if path.is_dir() else (path,)
    if not files:
        raise InputError(f"{path} holds no Parquet files; give a file or another folder")
    rows = sum(_parquet_rows(file) for file in files)
    return pq.read_schema(files[0]), files, rows, None


def _parquet_files(folder: Path) -> list[Path]:
    """Parquet files under a folder, sorted by path; only the leaves of a HATS catalogue."""
    collection = folder / "collection.properties"
    if collection.is_file():
        from hats.catalog.dataset.collection_properties import CollectionProperties

        folder = folder / CollectionProperties.read_from_dir(folder).hats_primary_table_url
    if (folder / "hats.properties").is_file() and (folder / "dataset").is_dir():
        folder = folder / "dataset"
    found = (file for suffix in ("parquet", "parq", "pq") for file in folder.rglob(f"*.{suffix}"))
    return sorted(
        file
        for file in found
        if not any(part.startswith((".", "_")) for part in file.relative_to(folder).parts)
        and file.is_file()
    )


def _parquet_rows(file: Path) -> int:
    try:
        return int(pq.read_metadata(file).num_rows)
    except PermissionError:
        raise InputError(f"{file} may not be read; ask its owner for permission") from None
    except (pa.ArrowException, OSError) as error:
        raise InputError(
            f"{file} is not a Parquet file ({_one_line(error)}); Parquet, FITS, VOTable, ECSV and "
            "CSV can be read"
        ) from None


def _check_columns(
    path: Path, schema: pa.Schema, names: Mapping[str, str], extra: Sequence[str]
) -> None:
    for key, name in names.items():
        if name not in schema.names:
            raise InputError(_missing(path, schema, key, name))
    kinds = {key: _value_type(schema.field(name).type) for key, name in names.items()}
    if not is_id_type(kinds["object_id"]):
        raise InputError(
            f"{path}: column {names['object_id']!r} (object_id) is {kinds['object_id']}; "
            "it must hold whole numbers or text, so that it survives exactly"
        )
    for key in ("ra", "dec"):
        kind = kinds[key]
        if not (
            pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
        ):
            raise InputError(
                f"{path}: column {names[key]!r} ({key}) is {kind}; it must hold numbers, in degrees"
            )
    for name in extra:
        if name not in schema.names:
            raise InputError(_missing(path, schema, None, name))
        if name.lower() in RESERVED:
            raise InputError(
                f"{path}: the extra column {name!r} has the name of an output column; rename it in "
                "the catalogue or leave it out"
            )


def _missing(path: Path, schema: pa.Schema, key: str | None, name: str) -> str:
    """The line for a column that is not there: what there is, and how to map it."""
    shown = ", ".join(schema.names[:40]) + (", ..." if len(schema.names) > 40 else "")
    same = [other for other in schema.names if other.lower() == name.lower()]
    near = same or difflib.get_close_matches(name, schema.names, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    how = (
        f'map it in the survey profile: [columns] {key} = "NAME"'
        if key
        else "take it out of the extra columns"
    )
    return f"{path} has no column {name!r}{guess}; it has: {shown}; {how}"


def _value_type(kind: pa.DataType) -> pa.DataType:
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def _plain(source: pa.Field) -> pa.Field:
    """A field without its dictionary: the values are what is passed on, not how they were coded."""
    return source.with_type(_value_type(source.type)).with_nullable(True)


def _file_digest(path: Path) -> bytes:
    """SHA-256 of a file, or of its size and Parquet footer when it is large."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        if size <= _HASHED_WHOLE:
            return hashlib.file_digest(stream, "sha256").digest()
        # A Parquet file ends with its footer, the footer's length (4 bytes) and "PAR1".
        stream.seek(size - 8)
        length = int.from_bytes(stream.read(4), "little")
        stream.seek(max(0, size - 8 - length))
        return hashlib.sha256(size.to_bytes(8, "little") + stream.read()).digest()


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
