"""Catalogues for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from survey_gampen.catalog import open_catalog, sort_catalog
from survey_gampen.run.plan import make_plan, write_plan


def patch_of_sky(n: int, seed: int = 0, side: float = 2.0) -> pa.Table:
    """`n` galaxies spread over a square of `side` degrees, in no order."""
    rng = np.random.default_rng(seed)
    return pa.table(
        {
            "object_id": rng.permutation(n).astype(np.int64) + 10**15,
            "ra": rng.uniform(150.0, 150.0 + side, n),
            "dec": rng.uniform(2.0, 2.0 + side, n),
            "mag": rng.uniform(16.0, 23.0, n).astype(np.float32),
            "field": rng.choice(["XMM", "GAMA", "VVDS"], n),
        }
    )


def write(path: Path, table: pa.Table, **options: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def planned(out: Path, table: pa.Table, partition_rows: int, extra: tuple[str, ...] = ()) -> Path:
    """A folder with `catalog/` and `plan.parquet`, as a run has it after planning."""
    source = write(out.with_suffix(".parquet"), table)
    sort_catalog(open_catalog(source, extra=extra), out / "catalog", out / ".staging")
    plan = make_plan(out / "catalog", partition_rows)
    write_plan(out / "plan.parquet", plan, partition_rows, out / ".staging")
    return out
