"""Tables published whole: one row a galaxy, read back before they count."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from survey_gampen.commit import publish


def publish_rows(final: Path, table: pa.Table, out: Path) -> None:
    """Publish a table as the Parquet file `final`, staged in the folder `out`."""

    def check(path: Path) -> None:
        if pq.read_metadata(path).num_rows != table.num_rows:
            raise OSError(f"{path} does not read back")

    publish(final, lambda path: pq.write_table(table, path), check, out / ".staging")
