"""A labelled catalogue as a Parquet file, which replaces nothing but another one."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from survey_gampen import commit
from survey_gampen.catalog.formats import table_format
from survey_gampen.errors import InputError

#: Footer key of a labelled catalogue: JSON with its source, and the count of each cut.
FOOTER = b"survey_gampen.labels"


def refuse_other(out: Path, inputs: Sequence[Path]) -> None:
    """Refuse, before the work is done, to write over what is no labelled catalogue, or is an input.

    Raises
    ------
    InputError
    """
    if table_format(out) is not None:
        raise InputError(f"--out {out}: labels are Parquet; give a name that ends in .parquet")
    if not out.exists():
        return
    try:
        ours = out.is_file() and FOOTER in (pq.read_schema(out).metadata or {})
    except (pa.ArrowException, OSError):
        ours = False
    if not ours or any(path.exists() and out.samefile(path) for path in inputs):
        raise InputError(f"--out {out} exists and is something else; give another name")


def refuse_duplicates(ids: pa.ChunkedArray, catalog: Path) -> None:
    """Refuse object_ids that more than one labelled row has.

    Raises
    ------
    InputError
    """
    counts = ids.value_counts().to_pylist()
    if twice := [str(item["values"]) for item in counts if item["counts"] > 1]:
        raise InputError(
            f"{catalog}: object_id {', '.join(twice[:3])} stands in two rows or more; "
            "make the ids unique"
        )


def write(table: pa.Table, footer: Mapping[str, object], out: Path) -> None:
    """Publish a labelled catalogue, with `footer` in its metadata."""
    table = table.replace_schema_metadata({FOOTER: json.dumps(footer)})

    def check(path: Path) -> None:
        if pq.read_metadata(path).num_rows != len(table):
            raise OSError(f"{path} does not read back")

    # Staged beside `out`: nothing of it stays there, while a staging folder would.
    commit.replace(out, lambda path: pq.write_table(table, path), out.resolve().parent, check)
