"""A HATS catalogue that cannot be read where it lies is copied, or refused, as any other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hatsinput import in_place, leaf_files, same_rows, write_hats
from skies import patch_of_sky, write

from survey_gampen.catalog import (
    Catalog,
    hats_scan,
    open_catalog,
    sort_catalog,
)
from survey_gampen.catalog.hats_in import read_record
from survey_gampen.catalog.hats_scan import NotInPlace, use_in_place
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.run import setup
from survey_gampen.run.layout import RunDir


def spoil_order(root: Path) -> None:
    file = leaf_files(root)[-1]
    table = pq.read_table(file)
    pq.write_table(table.take(pa.array(np.arange(table.num_rows)[::-1])), file)


def spoil_types(root: Path) -> None:
    file = leaf_files(root)[-1]
    table = pq.read_table(file)
    place = table.schema.get_field_index("mag")
    pq.write_table(table.set_column(place, "mag", table["mag"].cast(pa.float64())), file)


def spoil_units(root: Path) -> None:
    for file in leaf_files(root):
        table = pq.read_table(file)
        for name in ("ra", "dec"):
            place = table.schema.get_field_index(name)
            table = table.set_column(place, name, pa.array(np.radians(table[name].to_numpy())))
        pq.write_table(table, file)


def interleave(root: Path) -> None:
    """Each pixel a folder of two files, with every other row."""
    for file in leaf_files(root):
        table = pq.read_table(file)
        file.unlink()
        for part in range(2):
            some = table.take(pa.array(np.arange(part, table.num_rows, 2)))
            write(file.with_suffix("") / f"{part}.parquet", some)
    with (root / "hats.properties").open("a") as properties:
        properties.write("hats_npix_suffix=/\n")


@pytest.mark.parametrize(
    ("spoil", "why"),
    [
        (spoil_order, "rows of dataset/.* are not in order of position"),
        (spoil_types, "column 'mag' is not of one type in all leaves"),
        (spoil_units, "rows of dataset/.* are not in order of position"),
        (interleave, "rows of dataset/.*/1.parquet are not in order of position"),
    ],
)
def test_what_cannot_be_read_in_place_is_copied(
    tmp_path: Path, spoil: Callable[[Path], None], why: str
) -> None:
    """As before, with a line that says why."""
    hats = write_hats(tmp_path / "hats", patch_of_sky(2000), 300)
    spoil(hats)
    options = {"select": "mag > 0", "extra": ["mag"]}
    with pytest.raises(NotInPlace, match=why):
        in_place(hats, tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()
    inputs = inputs_of(open_catalog(hats, **options))
    run = RunDir(tmp_path / "run")
    assert setup.sort_rows(run, inputs, run.staging("a")) == 2000
    assert inputs.reading.startswith("catalogue: copied in order of position, for ")
    assert inputs.tally.read == 2000
    sort_catalog(open_catalog(hats, **options), tmp_path / "copy", tmp_path / ".staging")
    assert read_record(run.catalog) is None
    assert same_rows(tmp_path / "copy", run.catalog, 100)


def inputs_of(catalog: Catalog) -> setup.Inputs:
    return setup.Inputs(None, catalog, None, None, None)  # type: ignore[arg-type]


def test_a_column_that_nobody_needs_may_differ(tmp_path: Path) -> None:
    hats = write_hats(tmp_path / "hats", patch_of_sky(2000), 300)
    spoil_types(hats)
    assert read_record(in_place(hats, tmp_path / "out")) is not None


@pytest.mark.parametrize("most", [99, 100])
def test_too_many_rows_at_one_place(
    tmp_path: Path, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In several row groups, too; they would be held in memory to be put in order."""
    table = patch_of_sky(400)
    ra, dec = table["ra"].to_numpy().copy(), table["dec"].to_numpy().copy()
    ra[:100], dec[:100] = 151.0, 3.0
    table = table.set_column(1, "ra", pa.array(ra)).set_column(2, "dec", pa.array(dec))
    hats = write_hats(tmp_path / "hats", table, 500, 30)
    monkeypatch.setattr(hats_scan, "MOST_AT_ONE_PLACE", most)
    if most == 100:
        sort_catalog(open_catalog(hats), tmp_path / "copy", tmp_path / ".staging")
        assert same_rows(tmp_path / "copy", in_place(hats, tmp_path / "out"), 20)
    else:
        with pytest.raises(NotInPlace, match="more than 99 rows at one position"):
            in_place(hats, tmp_path / "out")


def test_other_catalogues_are_copied_without_a_word(tmp_path: Path) -> None:
    inputs = inputs_of(open_catalog(write(tmp_path / "c.parquet", patch_of_sky(50))))
    run = RunDir(tmp_path / "run")
    assert setup.sort_rows(run, inputs, run.staging("a")) == 50
    assert inputs.reading == ""
    assert read_record(run.catalog) is None


@pytest.mark.parametrize(
    ("column", "values", "words"),
    [
        ("object_id", {3: 10**15, 77: 10**15}, "object_id"),
        ("object_id", {5: None}, "object_id is null in 1 row"),
        ("dec", {5: float("nan"), 6: None}, "dec is null or not finite in 2 rows"),
        ("ra", {5: 400.0}, "ra is outside 0 to 360 degrees"),
    ],
)
def test_bad_rows_are_refused_in_the_same_words(
    tmp_path: Path, column: str, values: dict[int, object], words: str
) -> None:
    hats = write_hats(tmp_path / "hats", patch_of_sky(200), 300, 40)
    file = leaf_files(hats)[0]
    table = pq.read_table(file)
    place = table.schema.get_field_index(column)
    cells = table[column].to_pylist()
    for row, value in values.items():
        cells[row] = value
    pq.write_table(table.set_column(place, column, pa.array(cells, table[column].type)), file)
    said = []
    for function in (sort_catalog, use_in_place):
        out = tmp_path / "out"
        with pytest.raises(InputError, match=words) as caught:
            function(open_catalog(hats), out / "catalog", out / ".staging")
        assert not out.exists()
        said.append(str(caught.value))
    assert said[0] == said[1]


def test_a_full_disk_while_ids_are_looked_through(tmp_path: Path, small_disk: Path) -> None:
    hats = write_hats(tmp_path / "hats", patch_of_sky(90_000), 100_000, 30_000)
    out = small_disk / "out"
    with pytest.raises(OutsideFault, match="No space left on device"):
        use_in_place(open_catalog(hats), out / "catalog", out / ".staging")
    assert list(small_disk.iterdir()) == []
