"""Catalogues of many files: which of them count, in which order, and whether they agree."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from skies import patch_of_sky, write

from survey_gampen.catalog import Catalog, footers, open_catalog
from survey_gampen.errors import InputError, OutsideFault


def rows_of(catalog: Catalog) -> pa.Table:
    return pa.Table.from_batches(catalog.batches(), schema=catalog.schema)


WHOLE = patch_of_sky(90)
IDS = WHOLE["object_id"].to_pylist()


def hats(root: Path, pixels: list[tuple[int, int]], suffix: str = ".parquet", **about: str) -> Path:
    """A HATS catalogue of 30 rows a pixel, in the order of `pixels`."""
    for place, (norder, npix) in enumerate(pixels):
        part = WHOLE.slice(30 * place, 30)
        folder = root / f"dataset/Norder={norder}/Dir={npix // 10_000 * 10_000}"
        if suffix == "/":
            write(folder / f"Npix={npix}/b.parquet", part.slice(15))
            write(folder / f"Npix={npix}/a.parquet", part.slice(0, 15))
        else:
            write(folder / f"Npix={npix}{suffix}", part)
    lines = [f"{norder},{npix}\n" for norder, npix in pixels]
    (root / "partition_info.csv").write_text("Norder,Npix\n" + "".join(lines))
    about = {"obs_collection": "x", "dataproduct_type": "object", **about}
    if suffix != ".parquet":
        about["hats_npix_suffix"] = suffix
    text = "# HATS catalog\n" + "".join(f"{key}={value}\n" for key, value in about.items())
    (root / "hats.properties").write_text(text)
    write(root / "data_thumbnail.parquet", WHOLE.slice(0, 5))
    return root


@pytest.mark.parametrize("suffix", [".parquet", ".parq", "/"])
def test_leaves_in_order_of_position(tmp_path: Path, suffix: str) -> None:
    """Not of their names: pixel 3 of order 0 begins before pixel 13 of order 1 and after 9."""
    root = hats(tmp_path / "cat", [(1, 13), (0, 4), (1, 9)], suffix)
    found = rows_of(open_catalog(root))["object_id"].to_pylist()
    assert found == IDS[60:] + IDS[:30] + IDS[30:60]


def test_partition_info_decides_what_is_visible(tmp_path: Path) -> None:
    root = hats(tmp_path / "cat", [(1, 1), (1, 2), (12, 123_456)])
    (root / "partition_info.csv").write_text("Norder,Npix,num_rows\n1,2,30\n12,123456,30\n")
    write(root / "dataset" / "stray.parquet", WHOLE)
    found = rows_of(open_catalog(root))["object_id"].to_pylist()
    assert sorted(found) == sorted(IDS[30:])
    (root / "partition_info.csv").write_text("Norder,Npix\n1,what\n")
    with pytest.raises(InputError, match="partition_info.csv is damaged"):
        open_catalog(root)
    (root / "partition_info.csv").write_text("Norder,Npix\n")
    with pytest.raises(InputError, match="holds no Parquet files"):
        open_catalog(root)


def test_leaves_without_partition_info(tmp_path: Path) -> None:
    root = hats(tmp_path / "cat", [(1, 1), (1, 2), (1, 3)])
    (root / "partition_info.csv").unlink()
    write(root / "dataset" / "data_thumbnail.parquet", WHOLE)
    assert rows_of(open_catalog(root))["object_id"].to_pylist() == IDS


def test_a_collection_is_its_main_catalogue(tmp_path: Path) -> None:
    """Its margins hold rows of neighbours once more: they never count."""
    hats(tmp_path / "cat" / "main", [(1, 1), (1, 2), (1, 3)])
    margin = {"dataproduct_type": "margin", "hats_primary_table_url": "main"}
    hats(tmp_path / "cat" / "main_10arcs", [(1, 1), (1, 2)], **margin)
    with pytest.raises(InputError, match=r"holds HATS catalogues \(main, main_10arcs\)"):
        open_catalog(tmp_path / "cat")
    with pytest.raises(InputError, match="is the margin table of main, not a catalogue whose rows"):
        open_catalog(tmp_path / "cat" / "main_10arcs")
    (tmp_path / "cat" / "collection.properties").write_text("hats_primary_table_url = main\n")
    assert rows_of(open_catalog(tmp_path / "cat"))["object_id"].to_pylist() == IDS
    (tmp_path / "cat" / "collection.properties").write_text("obs_collection = x\n")
    with pytest.raises(InputError, match="names no hats_primary_table_url"):
        open_catalog(tmp_path / "cat")


@pytest.mark.slow
def test_written_by_hats_itself(tmp_path: Path) -> None:
    """A catalogue as LSDB writes it opens with all of its rows."""
    lsdb = pytest.importorskip("lsdb")
    frame = WHOLE.to_pandas()
    catalog = lsdb.from_dataframe(
        frame, ra_column="ra", dec_column="dec", catalog_name="cat", partition_rows=40,
        margin_threshold=600.0,
    )  # fmt: skip
    catalog.write_catalog(tmp_path / "cat", catalog_name="cat", as_collection=True)
    found = rows_of(open_catalog(tmp_path / "cat"))["object_id"].to_pylist()
    assert sorted(found) == sorted(IDS)


def parts(folder: Path, *tables: pa.Table) -> Path:
    for number, table in enumerate(tables):
        write(folder / f"{number:03d}.parquet", table)
    return folder


def retyped(table: pa.Table, name: str, kind: pa.DataType) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, name, table[name].cast(kind))


def test_types_that_go_together(tmp_path: Path) -> None:
    first = retyped(WHOLE.slice(0, 30), "object_id", pa.int64())
    second = retyped(WHOLE.slice(30, 30), "object_id", pa.uint64())
    second = retyped(retyped(second, "mag", pa.float64()), "field", pa.large_string())
    third = WHOLE.slice(60, 30).set_column(3, "mag", pa.nulls(30))
    third = third.set_column(4, "field", third["field"].dictionary_encode())
    catalog = open_catalog(parts(tmp_path / "c", first, second, third), extra=["mag", "field"])
    assert catalog.schema.field("mag").type == pa.float64()
    found = rows_of(catalog)
    assert found["object_id"].to_pylist() == IDS
    assert found["mag"].null_count == 30
    assert found["field"].to_pylist() == WHOLE["field"].to_pylist()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: retyped(t, "object_id", pa.float64()), "002.parquet: .*'object_id' is double"),
        (lambda t: retyped(t, "object_id", pa.string()), "'object_id' is string, in"),
        (lambda t: retyped(t, "ra", pa.string()), "'ra' is string, in .* it is double"),
        (lambda t: t.drop_columns("dec"), "002.parquet has no column 'dec', which other files"),
        (lambda t: t.drop_columns("mag"), "002.parquet has no column 'mag', which other files"),
    ],
)  # fmt: skip
def test_files_that_do_not_agree_are_named_before_any_row(
    tmp_path: Path, change, words: str
) -> None:
    pieces = [WHOLE.slice(30 * number, 30) for number in range(3)]
    pieces[2] = change(pieces[2])
    folder = parts(tmp_path / "c", *pieces)
    with pytest.raises(InputError, match=words) as caught:
        open_catalog(folder, select="mag > 0")
    assert "\n" not in str(caught.value)


def test_ids_too_large_for_the_others_are_no_other_ids(tmp_path: Path) -> None:
    """A negative id beside unsigned ones: told, and not wrapped around."""
    one = pa.table({"object_id": pa.array([-1]), "ra": [1.0], "dec": [1.0]})
    other = pa.table({"object_id": pa.array([2**64 - 1], pa.uint64()), "ra": [1.0], "dec": [1.0]})
    catalog = open_catalog(parts(tmp_path / "c", one, other))
    with pytest.raises(InputError, match="-1"):
        rows_of(catalog)


def test_footers_of_any_length(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A footer that is longer than what is read of a file at first is read in two steps."""
    path = write(tmp_path / "c.parquet", patch_of_sky(500), row_group_size=5)
    assert open_catalog(path).num_rows == 500
    identity = open_catalog(path).identity()
    monkeypatch.setattr(footers, "_GUESS", 100)
    assert open_catalog(path).num_rows == 500
    assert open_catalog(path).identity() == identity
    monkeypatch.setattr("survey_gampen.catalog.source._HASHED_WHOLE", 0)
    long = open_catalog(path).identity()
    monkeypatch.setattr(footers, "_GUESS", 1 << 20)
    assert open_catalog(path).identity() == long != identity


def test_many_files_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More files than are waited for together; rows in order of their names."""
    monkeypatch.setattr(footers, "_AT_ONCE", 7)
    folder = parts(tmp_path / "c", *(WHOLE.slice(number, 1) for number in range(90)))
    catalog = open_catalog(folder)
    assert catalog.num_rows == 90
    assert rows_of(catalog)["object_id"].to_pylist() == IDS
    (folder / "050.parquet").write_bytes(b"PAR1")
    with pytest.raises(InputError, match="050.parquet is not a Parquet file"):
        open_catalog(folder)


def test_identity_of_files_is_that_of_their_order(tmp_path: Path) -> None:
    pieces = [WHOLE.slice(30 * number, 30) for number in range(3)]
    one = open_catalog(parts(tmp_path / "a", *pieces)).identity()
    assert open_catalog(parts(tmp_path / "b", *pieces)).identity() == one
    assert open_catalog(parts(tmp_path / "c", *pieces[::-1])).identity() != one
    assert pq.read_metadata(tmp_path / "a" / "000.parquet").num_rows == 30


def test_no_folder_is_left_out_in_silence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Rows would be missing from a run that ends well."""
    for number, name in enumerate("abc"):
        parts(tmp_path / name, WHOLE.slice(30 * number, 30))
    assert rows_of(open_catalog(tmp_path))["object_id"].to_pylist() == IDS
    look, code = os.scandir, errno.EACCES

    def refuse_b(path: str) -> object:
        if Path(path).name == "b":
            raise OSError(code, os.strerror(code), str(path))
        return look(path)

    monkeypatch.setattr(os, "scandir", refuse_b)
    with pytest.raises(InputError, match="b can't be listed: Permission"):
        open_catalog(tmp_path)
    code = errno.ESTALE
    with pytest.raises(OutsideFault, match="b: Stale"):
        open_catalog(tmp_path)
