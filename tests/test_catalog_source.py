"""What is read from a catalogue, and the one line that a bad one gets."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from skies import patch_of_sky, write

from survey_gampen.catalog import Catalog, open_catalog, sort_catalog
from survey_gampen.catalog.ids import id_key
from survey_gampen.errors import InputError


def rows_of(catalog: Catalog, batch: int = 7) -> pa.Table:
    return pa.Table.from_batches(catalog.batches(batch), schema=catalog.schema)


def one_line(caught: pytest.ExceptionInfo[InputError]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_columns_are_mapped_and_extras_keep_their_types(tmp_path: Path) -> None:
    table = patch_of_sky(50).rename_columns(["id", "RA", "DEC", "mag", "field"])
    table = table.append_column("lists", pa.array([[1, 2]] * 50))
    path = write(tmp_path / "c.parquet", table)
    columns = {"object_id": "id", "ra": "RA", "dec": "DEC"}
    catalog = open_catalog(path, columns, extra=["mag", "lists", "mag"])
    assert catalog.schema.names == ["object_id", "ra", "dec", "mag", "lists"]
    assert catalog.schema.field("mag").type == pa.float32()
    assert catalog.num_rows == 50
    found = rows_of(catalog)
    assert found["object_id"].equals(table["id"])
    assert found["lists"].to_pylist() == [[1, 2]] * 50


def test_the_units_of_an_extra_survive(tmp_path: Path) -> None:
    table = patch_of_sky(3)
    named = table.schema.field("mag").with_metadata({"unit": "mag"})
    table = table.cast(table.schema.set(3, named))
    catalog = open_catalog(write(tmp_path / "c.parquet", table), extra=["mag"])
    assert rows_of(catalog).schema.field("mag").metadata == {b"unit": b"mag"}


@pytest.mark.parametrize(
    "ids",
    [
        pa.array([-(2**63), 2**63 - 1, 2**53 + 1], pa.int64()),
        pa.array([0, 2**64 - 1, 2**63 + 1], pa.uint64()),
        pa.array(["007", "HSC J0002+0101", "ß"], pa.string()),
        pa.array(["a", "b", "c"], pa.large_string()),
        pa.array(["a", "b", "c"]).dictionary_encode(),
        pa.array([1, 2, 3], pa.int16()),
    ],
)
def test_ids_survive_exactly(tmp_path: Path, ids: pa.Array) -> None:
    table = pa.table({"object_id": ids, "ra": [1.0, 2.0, 3.0], "dec": [0.0, 0.0, 0.0]})
    catalog = open_catalog(write(tmp_path / "c.parquet", table))
    sort_catalog(catalog, tmp_path / "catalog", tmp_path / ".staging")
    found = pa.concat_tables(map(pq.read_table, sorted((tmp_path / "catalog").iterdir())))
    assert set(found["object_id"].to_pylist()) == set(ids.to_pylist())
    assert len(set(id_key(found["object_id"]).tolist())) == 3


def test_id_keys_are_fixed_for_ever() -> None:
    """Random numbers of a galaxy hang on these values: they must never change."""
    assert id_key(pa.array([-1, 5], pa.int64())).tolist() == [2**64 - 1, 5]
    assert id_key(pa.array([2**64 - 1], pa.uint64())).tolist() == [2**64 - 1]
    assert id_key(pa.array([5], pa.int8())).tolist() == [5]
    assert id_key(pa.array(["NGC 1"])).tolist() == [0xEEB5ED434CFCB080]
    with pytest.raises(TypeError, match="nulls"):
        id_key(pa.array([1, None]))


def test_a_folder_and_a_hats_catalogue(tmp_path: Path) -> None:
    whole = patch_of_sky(90)
    for part in range(3):
        write(tmp_path / "parts" / f"{part}.parquet", whole.slice(30 * part, 30))
        name = f"hats/dataset/Norder=0/Dir=0/Npix={part}.parquet"
        write(tmp_path / name, whole.slice(30 * part, 30))
    (tmp_path / "parts" / "README").write_text("not a table")
    write(tmp_path / "hats" / "data_thumbnail.parquet", whole.slice(0, 5))
    write(tmp_path / "hats" / "dataset" / "_metadata.parquet", whole.slice(0, 5))
    (tmp_path / "hats" / "hats.properties").write_text("obs_collection=x\n")
    for folder in ("parts", "hats"):
        catalog = open_catalog(tmp_path / folder)
        assert catalog.num_rows == 90
        assert rows_of(catalog)["object_id"].to_pylist() == whole["object_id"].to_pylist()


def test_limit_takes_the_first_rows(tmp_path: Path) -> None:
    table = patch_of_sky(100)
    path = write(tmp_path / "c.parquet", table, row_group_size=9)
    catalog = open_catalog(path, limit=25)
    assert catalog.num_rows == 25
    assert rows_of(catalog)["object_id"].to_pylist() == table["object_id"].to_pylist()[:25]
    with pytest.raises(InputError, match="--limit 0"):
        open_catalog(path, limit=0)


@pytest.mark.parametrize("kind", ["fits", "votable", "ascii.ecsv", "ascii.csv"])
def test_small_tables_of_other_kinds(tmp_path: Path, kind: str) -> None:
    suffix = {"fits": "fits", "votable": "vot", "ascii.ecsv": "ecsv", "ascii.csv": "csv"}[kind]
    path = tmp_path / f"sources.{suffix}"
    table = Table(
        {"object_id": [2**60 + 1, 2**60 + 2], "ra": [10.5, 20.5], "dec": [-1.0, 2.0]},
        masked=True,
    )
    table["mag"] = np.ma.MaskedArray([20.0, 99.0], mask=[False, True])
    table["band"] = ["g", "r"]
    table.write(path, format=kind)
    catalog = open_catalog(path, extra=["mag"])
    found = rows_of(catalog).to_pydict()
    assert found["object_id"] == [2**60 + 1, 2**60 + 2]
    assert found["ra"] == [10.5, 20.5]
    assert found["mag"] == [20.0, None]
    assert rows_of(open_catalog(path, select="band == 'r'"))["ra"].to_pylist() == [20.5]


def test_positions_in_other_units_and_unsigned_ids_in_csv(tmp_path: Path) -> None:
    table = Table({"object_id": ["a", "b"], "ra": [12.0, 6.0], "dec": [0.0, 1.0]})
    table["ra"].unit, table["dec"].unit = "hourangle", "rad"
    table.write(tmp_path / "t.ecsv")
    found = rows_of(open_catalog(tmp_path / "t.ecsv")).to_pydict()
    assert found["ra"] == pytest.approx([180.0, 90.0])
    assert found["dec"] == pytest.approx([0.0, 57.29577951])
    (tmp_path / "t.csv").write_text(f"object_id,ra,dec\n{2**64 - 1},1,1\n7,2,2\n")
    assert rows_of(open_catalog(tmp_path / "t.csv"))["object_id"].to_pylist() == [2**64 - 1, 7]


@pytest.mark.parametrize(
    ("select", "keep"),
    [
        ("mag < 20", lambda r: r["mag"] < 20),
        ("17 < mag <= 19 and ra > 151", lambda r: 17 < r["mag"] <= 19 and r["ra"] > 151),
        ("not (mag < 20) or field in ['GAMA']", lambda r: r["mag"] >= 20 or r["field"] == "GAMA"),
        ("(mag < 20) & ~(field == 'XMM')", lambda r: r["mag"] < 20 and r["field"] != "XMM"),
        ("object_id / 2 > 0.5e15 + 20", lambda r: r["object_id"] / 2 > 0.5e15 + 20),
        ("flags * 2 > 130", lambda r: r["flags"] * 2 > 130),
        ("-mag + 1 < -20", lambda r: -r["mag"] + 1 < -20),
        ("field not in ('XMM',)", lambda r: r["field"] != "XMM"),
        ("z is None", lambda r: r["z"] is None),
        ("z is not None and ra > 151", lambda r: r["z"] is not None and r["ra"] > 151),
    ],
)  # fmt: skip
def test_select(tmp_path: Path, select: str, keep) -> None:
    table = patch_of_sky(100)
    table = table.append_column("flags", pa.array(list(range(100)), pa.int8()))
    table = table.append_column("z", pa.array([None if i % 3 else 0.1 for i in range(100)]))
    path = write(tmp_path / "c.parquet", table)
    expected = [row["object_id"] for row in table.to_pylist() if keep(row)]
    assert 0 < len(expected) < 100
    assert rows_of(open_catalog(path, select=select))["object_id"].to_pylist() == expected


@pytest.mark.parametrize(
    ("select", "message"),
    [
        ("magg < 20", "no column 'magg'; the nearest is 'mag'"),
        ("mag <", "is not an expression"),
        ("__import__('os').system('x')", "is not understood"),
        ("mag.real < 2", "is not understood"),
        ("[x for x in mag]", "is not understood"),
        ("mag + 1", "not true or false"),
        ("field < 3", "does not fit the columns' types"),
        ("mag in field", "is not understood"),
        ("mag in [ra, 3]", "is not understood"),
        ("mag < 10 ** 9 ** 9", "is not understood"),
    ],
)
def test_a_selection_that_cannot_be(tmp_path: Path, select: str, message: str) -> None:
    path = write(tmp_path / "c.parquet", patch_of_sky(10))
    with pytest.raises(InputError, match=message) as caught:
        open_catalog(path, select=select)
    assert "--select" in one_line(caught)


def test_identity_follows_the_content(tmp_path: Path) -> None:
    table = patch_of_sky(10)
    path = write(tmp_path / "a.parquet", table)
    same = write(tmp_path / "elsewhere" / "b.parquet", table)
    other = write(tmp_path / "c.parquet", table.set_column(1, "ra", pa.array([150.25] * 10)))
    identity = open_catalog(path).identity()
    assert open_catalog(same).identity() == identity
    assert open_catalog(other).identity() != identity
    assert open_catalog(path, limit=5).identity() != identity
    assert open_catalog(path, extra=["mag"]).identity() != identity
    assert open_catalog(path, select="mag < 30").identity() != identity


def test_what_is_no_catalogue(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="does not exist"):
        open_catalog(tmp_path / "nothing.parquet")
    (tmp_path / "text.parquet").write_text("object_id ra dec\n" * 100)
    with pytest.raises(InputError, match="text.parquet is not a Parquet file") as caught:
        open_catalog(tmp_path / "text.parquet")
    one_line(caught)
    (tmp_path / "short.parquet").write_bytes(b"")
    with pytest.raises(InputError, match="is not a Parquet file"):
        open_catalog(tmp_path / "short.parquet")
    (tmp_path / "t.fits").write_text("no FITS")
    with pytest.raises(InputError, match="cannot be read as fits") as caught:
        open_catalog(tmp_path / "t.fits")
    one_line(caught)
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match="holds no Parquet files"):
        open_catalog(tmp_path / "folder")
    with pytest.raises(InputError, match="is empty"):
        open_catalog(write(tmp_path / "empty.parquet", patch_of_sky(3).slice(0, 0)))


def test_a_cut_off_file_is_named(tmp_path: Path) -> None:
    """The footer is whole, a page of it is not."""
    path = write(tmp_path / "c.parquet", patch_of_sky(2000))
    content = bytearray(path.read_bytes())
    content[4:4000] = bytes(3996)
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"c.parquet cannot be read") as caught:
        sort_catalog(
            open_catalog(path), tmp_path / "out" / "catalog", tmp_path / "out" / ".staging"
        )
    one_line(caught)
    assert not (tmp_path / "out").exists()


def test_missing_columns(tmp_path: Path) -> None:
    path = write(
        tmp_path / "c.parquet", patch_of_sky(3).rename_columns(["id", "RA", "dec", "m", "f"])
    )
    with pytest.raises(InputError) as caught:
        open_catalog(path)
    line = one_line(caught)
    for words in ("no column 'object_id'", "id, RA, dec, m, f", "[columns] object_id = "):
        assert words in line
    with pytest.raises(InputError, match="did you mean 'RA'"):
        open_catalog(path, {"object_id": "id"})
    columns = {"object_id": "id", "ra": "RA"}
    with pytest.raises(InputError, match=r"no column 'magnitude'; it has: .*extra columns"):
        open_catalog(path, columns, extra=["magnitude"])


def test_wrong_types(tmp_path: Path) -> None:
    table = patch_of_sky(3)
    bad = table.set_column(0, "object_id", table["object_id"].cast(pa.float64()))
    with pytest.raises(InputError, match="'object_id'.* is double; it must hold whole numbers"):
        open_catalog(write(tmp_path / "a.parquet", bad))
    bad = table.set_column(2, "dec", pa.array(["+02:00:00"] * 3))
    with pytest.raises(InputError, match=r"'dec' \(dec\) is string; it must hold numbers"):
        open_catalog(write(tmp_path / "b.parquet", bad))


@pytest.mark.parametrize(
    "name", ["bt_p50", "status", "_healpix_29", "Flux_ci95_hi", "Npix", "band"]
)
def test_extras_that_clash_with_the_output(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / "c.parquet", patch_of_sky(3).append_column(name, pa.array([1, 2, 3])))
    assert open_catalog(path).num_rows == 3
    with pytest.raises(InputError, match=f"'{name}' has the name of an output column"):
        open_catalog(path, extra=[name])


def test_every_output_column_is_reserved() -> None:
    leaf = pytest.importorskip("survey_gampen.run.leaf")
    from survey_gampen.catalog.columns import RESERVED

    rows = pa.schema([("_healpix_29", pa.int64()), ("object_id", pa.int64())])
    assert set(leaf.leaf_schema(rows, {}).names) <= RESERVED


def test_a_row_divided_by_zero_stops_no_selection(tmp_path: Path) -> None:
    table = pa.table({"object_id": [1, 2, 3], "ra": [1.0, 0.0, 4.0], "dec": [0.5, 0.0, 0.5]})
    catalog = open_catalog(write(tmp_path / "c.parquet", table), select="dec / ra < 0.2")
    assert rows_of(catalog)["object_id"].to_pylist() == [3]
