"""HATS catalogues to read, and what reads them in place, for tests."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
from hats.pixel_math.spatial_index import compute_spatial_index
from skies import write

from survey_gampen.catalog import (
    iter_rows,
    open_catalog,
    read_rows,
)
from survey_gampen.catalog.hats_scan import use_in_place
from survey_gampen.catalog.sorted import Cursor, sorted_schema
from survey_gampen.run.plan import Partition, cut, make_plan


def index_of(table: pa.Table) -> np.ndarray:
    ra, dec = (table[name].to_numpy().astype(np.float64) for name in ("ra", "dec"))
    return np.asarray(compute_spatial_index(ra, dec), np.int64)


def write_hats(root: Path, table: pa.Table, leaf_rows: int, group_rows: int = 1000) -> Path:
    """A HATS catalogue of leaves of several orders; rows at one place keep their order."""
    index = index_of(table)
    order = np.argsort(index, kind="stable")
    index, table = index[order], table.take(pa.array(order))
    table = table.add_column(0, "_healpix_29", pa.array(index))
    lines, start = ["Norder,Npix"], 0
    for leaf in cut([index], leaf_rows):
        name = leaf_name(leaf)
        write(root / name, table.slice(start, leaf.rows), row_group_size=group_rows)
        lines.append(f"{leaf.norder},{leaf.npix}")
        start += leaf.rows
    (root / "partition_info.csv").write_text("\n".join(lines) + "\n")
    (root / "hats.properties").write_text("obs_collection=x\ndataproduct_type=object\n")
    return root


def leaf_name(leaf: Partition) -> str:
    folder = f"dataset/Norder={leaf.norder}/Dir={leaf.npix // 10_000 * 10_000}"
    return f"{folder}/Npix={leaf.npix}.parquet"


def leaf_files(root: Path) -> list[Path]:
    return sorted((root / "dataset").rglob("*.parquet"))


def in_place(root: Path | str, out: Path, **options: object) -> Path:
    """The record of a catalogue, made in `out`."""
    use_in_place(open_catalog(root, **options), out / "catalog", out / ".staging")
    assert not (out / ".staging").exists()
    return out / "catalog"


def same_rows(copy: Path, record: Path, partition_rows: int) -> int:
    """Compare what a run reads of both, of a dozen partitions; how many there are."""
    assert sorted_schema(record).equals(sorted_schema(copy), check_metadata=True)
    plan = list(make_plan(copy, partition_rows))
    assert list(make_plan(record, partition_rows)) == plan
    names = ("_healpix_29", "object_id")
    for each in plan[:: 1 + len(plan) // 12]:
        pixel = each.norder, each.npix
        expected = read_rows(copy, *pixel)
        found = read_rows(record, *pixel)
        assert found.schema.equals(expected.schema, check_metadata=True)
        assert found.equals(expected)
        assert read_rows(record, *pixel, names).equals(expected.select(names))
        batches = list(iter_rows(record, *pixel, rows=7))
        assert max(batch.num_rows for batch in batches) <= 7
        assert pa.Table.from_batches(batches).equals(expected)
        cursor = Cursor(record, *pixel)
        taken = [cursor.take(size) for size in (1, 5, each.rows)]
        assert pa.concat_tables(taken).equals(expected)
    assert read_rows(record, 3, 704).num_rows == 0  # nothing lies at the south pole
    return len(plan)
