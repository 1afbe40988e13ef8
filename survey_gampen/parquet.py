"""Parquet files wherever they lie: pyarrow's readers for a path and for an object of a store."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from survey_gampen.storage import filesystem, name_there


def open_file(path: Path, **options: Any) -> pq.ParquetFile:
    """The file, open. Nothing is read ahead: Arrow would keep whole columns in memory."""
    return pq.ParquetFile(
        name_there(path), filesystem=filesystem(path), **{"pre_buffer": False, **options}
    )


def read_schema(path: Path) -> pa.Schema:
    """The schema with its metadata."""
    return pq.read_schema(name_there(path), filesystem=filesystem(path))


def read_metadata(path: Path) -> pq.FileMetaData:
    """The footer."""
    return pq.read_metadata(name_there(path), filesystem=filesystem(path))


def read_table(path: Path, columns: Sequence[str] | None = None, filters: Any = None) -> pa.Table:
    """The rows of one file."""
    return pq.read_table(
        name_there(path), columns=columns, filters=filters, filesystem=filesystem(path)
    )
