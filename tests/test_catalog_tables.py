"""FITS, VOTable, ECSV and CSV: every value as it is, positions in degrees of ICRS."""

from __future__ import annotations

import gzip
import tempfile
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from astropy import units
from astropy.coordinates import FK4, FK5, Galactic, SkyCoord
from astropy.io import fits, votable
from astropy.table import MaskedColumn, Table
from hypothesis import given, settings
from hypothesis import strategies as st

from survey_gampen.catalog import Catalog, open_catalog, read_rows, sort_catalog
from survey_gampen.errors import InputError
from survey_gampen.survey import load_survey

SUFFIX = {"fits": "fits", "votable": "vot", "ascii.ecsv": "ecsv", "ascii.csv": "csv"}
KINDS = pytest.mark.parametrize("kind", SUFFIX)


def rows_of(catalog: Catalog) -> pa.Table:
    return pa.Table.from_batches(catalog.batches(7), schema=catalog.schema)


def sources(ids: object, n: int | None = None) -> Table:
    table = Table({"object_id": ids})
    n = len(table)
    table["ra"], table["dec"] = 10.0 + np.arange(n), 20.0 + np.arange(n) / 7
    return table


def save(folder: Path, table: Table, kind: str) -> Path:
    path = folder / f"t.{SUFFIX[kind]}"
    table.write(path, format=kind, overwrite=True)
    return path


UNSIGNED = [0, 1, 2**53 + 1, 2**63 - 1, 2**63, 2**63 + 1, 2**64 - 1]


@pytest.mark.parametrize("kind", ["fits", "ascii.ecsv", "ascii.csv"])
@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, unique=True))
@settings(max_examples=40)
def test_unsigned_ids_survive(kind: str, ids: list[int]) -> None:
    ids = list(dict.fromkeys([*ids, *UNSIGNED]))
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder), sources(np.array(ids, dtype=np.uint64)), kind)
        found = rows_of(open_catalog(path))
    assert found["object_id"].type == pa.uint64()
    assert found["object_id"].to_pylist() == ids


@KINDS
@given(st.lists(st.integers(-(2**63), 2**63 - 1), min_size=1, unique=True))
@settings(max_examples=40)
def test_signed_ids_survive(kind: str, ids: list[int]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder), sources(np.array(ids, dtype=np.int64)), kind)
        found = rows_of(open_catalog(path))
    assert found["object_id"].to_pylist() == ids


names = st.text(
    st.characters(codec="ascii", min_codepoint=33, exclude_characters='"#'), min_size=1, max_size=12
)


@KINDS
@given(st.lists(names, min_size=1, max_size=8, unique=True))
@settings(max_examples=40)
def test_text_ids_survive(kind: str, ids: list[str]) -> None:
    """With one that makes clear that these are names."""
    ids = list(dict.fromkeys(["J0959+0231", "007", *ids]))
    with tempfile.TemporaryDirectory() as folder:
        path = save(Path(folder), sources(ids), kind)
        found = rows_of(open_catalog(path))
    assert found["object_id"].to_pylist() == ids


def test_unsigned_ids_as_text_in_a_votable(tmp_path: Path) -> None:
    """VOTable has no such number; as text it is the same text."""
    path = save(tmp_path, sources([str(value) for value in UNSIGNED]), "votable")
    found = rows_of(open_catalog(path))["object_id"]
    assert found.to_pylist() == [str(value) for value in UNSIGNED]


@pytest.mark.parametrize("kind", ["fits", "votable", "ascii.ecsv"])
def test_ids_that_are_doubles_are_refused(tmp_path: Path, kind: str) -> None:
    path = save(tmp_path, sources([1.0, 2.0**60]), kind)
    with pytest.raises(InputError, match="'object_id'.* is double; it must hold whole numbers"):
        open_catalog(path)


@KINDS
def test_an_id_that_is_missing_makes_no_doubles_of_the_others(tmp_path: Path, kind: str) -> None:
    table = sources(np.array([2**60 + 1, 0, 2**60 + 3]))
    table = Table(table, masked=True)
    table["object_id"].mask[1] = True
    table["object_id"].fill_value = -99
    found = rows_of(open_catalog(save(tmp_path, table, kind)))
    assert found["object_id"].to_pylist() == [2**60 + 1, None, 2**60 + 3]


def csv(folder: Path, text: str) -> Catalog:
    path = folder / "t.csv"
    path.write_text(text)
    return open_catalog(path)


@pytest.mark.parametrize(
    ("cells", "found"),
    [
        (["007", "42"], ["007", "42"]),
        (["1" * 30, "42"], ["1" * 30, "42"]),
        (["-1", str(2**63)], ["-1", str(2**63)]),
        ([" 42", "7 "], [42, 7]),
        (['"42"', "7"], [42, 7]),
        (["", str(2**64 - 1)], [None, 2**64 - 1]),
        (["", "x y"], [None, "x y"]),
        (["nan", "x"], ["nan", "x"]),
        (["true", "false "], None),
        (["1e15", "7"], None),
        (["42.0", "7"], None),
    ],
)
def test_ids_in_csv(tmp_path: Path, cells: list[str], found: list | None) -> None:
    text = "object_id,ra,dec\n" + "".join(f"{cell},1,2\n" for cell in cells)
    if found is None:
        with pytest.raises(InputError, match=r"'object_id'.* is (double|bool); it must hold"):
            csv(tmp_path, text)
    else:
        assert rows_of(csv(tmp_path, text))["object_id"].to_pylist() == found


@pytest.mark.parametrize(
    "head",
    [
        "# object_id,ra,dec,mag",
        "#object_id, ra, dec, mag",
        "\ufeffobject_id,ra,dec,mag",
        "# made by hand, for tests\nobject_id,ra,dec,mag",
        "# made by hand\n# object_id,ra,dec,mag",
        "ra,# object_id,dec,mag",
        '"object_id","ra","dec","mag"',
    ],
)
def test_headers_of_csv(tmp_path: Path, head: str) -> None:
    rows = "5,1,2,\n6,010.5,+3,nan\n" if not head.startswith("ra") else "1,5,2,\n010.5,6,+3,nan\n"
    path = tmp_path / "t.csv"
    path.write_text(f"{head}\n{rows}")
    packed = tmp_path / "p.csv.gz"
    packed.write_bytes(gzip.compress(path.read_bytes()))
    for each in (path, packed):
        found = rows_of(open_catalog(each, extra=["mag"])).to_pydict()
        assert found["object_id"] == [5, 6]
        assert (found["ra"], found["dec"]) == ([1.0, 10.5], [2.0, 3.0])


def test_other_columns_of_csv_keep_what_they_hold(tmp_path: Path) -> None:
    text = "object_id,ra,dec,parent,z,good,field,zip\n"
    text += f"1,1,1,{2**63 + 1},0.5,True,N/A,01\n2,1,1,,nan,False,,02\n"
    extra = ["parent", "z", "good", "field", "zip"]
    path = tmp_path / "t.csv"
    path.write_text(text)
    found = rows_of(open_catalog(path, extra=extra))
    assert found["parent"].to_pylist() == [2**63 + 1, None]
    assert found["z"].to_pylist() == [0.5, None]
    assert found["good"].to_pylist() == [True, False]
    assert found["field"].to_pylist() == ["N/A", None]
    assert found["zip"].to_pylist() == ["01", "02"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("object_id,ra,dec,ra\n1,2,3,4\n", "several columns 'ra'"),
        ("object_id,ra,dec\n1,2\n", "cannot be read as csv: .*Expected 3 columns"),
        ("object_id,ra,dec\n", "is empty"),
        ("", "cannot be read as csv|has no column"),
        ("object_id,ra,dec\n1,10:20:30,3\n", r"'ra' \(ra\) is string; it must hold numbers"),
    ],
)
def test_csv_that_cannot_be(tmp_path: Path, text: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as caught:
        csv(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_fixed_width_texts_lose_their_padding_only(tmp_path: Path) -> None:
    """FITS pads with blanks or zeros at the end; blanks in front belong to the text."""
    column = fits.Column("object_id", "8A", array=np.array([b" a b  ", b"c\0\0", b"caf\xe9"]))
    others = [fits.Column(name, "D", array=[1.0, 2.0, 3.0]) for name in ("ra", "dec")]
    fits.BinTableHDU.from_columns([column, *others]).writeto(tmp_path / "t.fits")
    found = rows_of(open_catalog(tmp_path / "t.fits"))["object_id"].to_pylist()
    assert found == [" a b", "c", "café"]


def test_several_numbers_a_row_and_the_order_of_bytes(tmp_path: Path) -> None:
    table = sources([1, 2])
    table["flux"] = np.arange(12, dtype=">f4").reshape(2, 2, 3)
    table["flags"] = np.array([[1, 2], [3, 4]], dtype=">i2")
    path = save(tmp_path, table, "fits")
    found = rows_of(open_catalog(path, extra=["flux", "flags"]))
    assert found["flux"].to_pylist() == [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]]
    assert found["flags"].to_pylist() == [[1, 2], [3, 4]]


def test_the_first_table_with_the_columns_is_taken(tmp_path: Path) -> None:
    image = fits.CompImageHDU(np.zeros((8, 8), np.float32), name="IMAGE")
    other = fits.BinTableHDU(Table({"object_id": [1], "x": [2.0]}))
    wanted = fits.BinTableHDU(sources([7, 8]))
    later = fits.BinTableHDU(sources([9]))
    fits.HDUList([fits.PrimaryHDU(), image, other, wanted, later]).writeto(tmp_path / "t.fits")
    assert rows_of(open_catalog(tmp_path / "t.fits"))["object_id"].to_pylist() == [7, 8]
    with pytest.raises(InputError, match="no column 'id'.*; it has: object_id, x;"):
        open_catalog(tmp_path / "t.fits", {"object_id": "id"})
    fits.HDUList([fits.PrimaryHDU(), image]).writeto(tmp_path / "i.fits")
    with pytest.raises(InputError, match="cannot be read as fits: it holds no table"):
        open_catalog(tmp_path / "i.fits")


def document(tables: list[Table]) -> votable.tree.VOTableFile:
    whole = votable.tree.VOTableFile()
    resource = votable.tree.Resource()
    whole.resources.append(resource)
    for table in tables:
        resource.tables.extend(votable.from_table(table).resources[0].tables)
    return whole


def test_several_tables_and_names_beside_ids(tmp_path: Path) -> None:
    whole = document([Table({"x": [1.0]}), sources([7, 8])])
    for field in whole.resources[0].tables[1].fields:
        field.name = {"object_id": "Source name", "ra": "RA(ICRS)", "dec": "DE(ICRS)"}[field.ID]
    whole.to_xml(str(tmp_path / "t.vot"))
    assert rows_of(open_catalog(tmp_path / "t.vot"))["object_id"].to_pylist() == [7, 8]
    columns = {"object_id": "Source name", "ra": "RA(ICRS)", "dec": "DE(ICRS)"}
    assert rows_of(open_catalog(tmp_path / "t.vot", columns))["ra"].to_pylist() == [10.0, 11.0]


@pytest.mark.parametrize("unit", ["hourangle", "h"])
def test_right_ascension_in_hours(tmp_path: Path, unit: str) -> None:
    table = sources([1, 2])
    table["ra"] = [12.0, 6.5]
    table["ra"].unit = unit
    catalog = open_catalog(save(tmp_path, table, "ascii.ecsv"))
    assert rows_of(catalog)["ra"].to_pylist() == pytest.approx([180.0, 97.5])
    assert "'ra' is in hour" in catalog.notes[0]


@pytest.mark.parametrize("unit", ["rad", "arcsec", "hourangle"])
@pytest.mark.parametrize("kind", ["ascii.ecsv", "votable"])
def test_cells_without_a_position_get_none_from_their_unit(
    tmp_path: Path, kind: str, unit: str
) -> None:
    table = sources([1, 2])
    table["ra"] = MaskedColumn([1.0, 0.0], mask=[False, True], unit=unit)
    found = rows_of(open_catalog(save(tmp_path, table, kind)))["ra"].to_pylist()
    assert found == [pytest.approx(units.Unit(unit).to(units.deg)), None]


def test_units_that_are_no_angles(tmp_path: Path) -> None:
    table = sources([1, 2])
    table["dec"].unit = "pix"
    with pytest.raises(InputError, match="column 'dec' is in pix, which is no angle"):
        open_catalog(save(tmp_path, table, "ascii.ecsv"))
    table["dec"].unit = units.UnrecognizedUnit("degrees")
    catalog = open_catalog(save(tmp_path, table, "fits"))
    assert "'degrees', which is unknown: taken as degrees" in catalog.notes[0]


SKY = SkyCoord([10.0, 250.0, 359.9999], [-30.0, 0.0, 80.0], unit="deg")
FRAMES = [
    ({"RADESYS": "FK5", "EQUINOX": 2000.0}, FK5(equinox="J2000")),
    ({"RADESYS": "FK5", "EQUINOX": 1975.0}, FK5(equinox="J1975")),
    ({"RADESYS": "FK4", "EQUINOX": 1950.0}, FK4(equinox="B1950")),
    ({"EQUINOX": 1950.0}, FK4(equinox="B1950")),
    ({"RADESYS": "GALACTIC"}, Galactic()),
]


def in_frame(frame: object) -> Table:
    there = SKY.transform_to(frame).spherical
    return Table({"object_id": [1, 2, 3], "ra": there.lon.deg, "dec": there.lat.deg})


@pytest.mark.parametrize(("cards", "frame"), FRAMES)
def test_frames_of_fits_are_turned(tmp_path: Path, cards: dict, frame: object) -> None:
    table = in_frame(frame)
    table.meta.update(cards)
    catalog = open_catalog(save(tmp_path, table, "fits"))
    found = rows_of(catalog)
    sky = SkyCoord(found["ra"].to_numpy(), found["dec"].to_numpy(), unit="deg")
    assert sky.separation(SKY).arcsec.max() < 1e-3
    assert "turned into ICRS" in catalog.notes[0]


@pytest.mark.parametrize(
    ("system", "equinox", "frame"),
    [
        ("eq_FK5", "J2000", FK5(equinox="J2000")),
        ("eq_FK4", "B1950", FK4(equinox="B1950")),
        ("galactic", None, Galactic()),
    ],
)
def test_frames_of_votable_are_turned(
    tmp_path: Path, system: str, equinox: str | None, frame: object
) -> None:
    whole = document([in_frame(frame)])
    kinds = votable.tree.CooSys(ID="sys", system=system, equinox=equinox)
    whole.resources[0].coordinate_systems.append(kinds)
    whole.resources[0].coordinate_systems.append(votable.tree.CooSys(ID="x", system="xy"))
    for field in whole.resources[0].tables[0].fields[1:]:
        field.ref = "sys"
    whole.to_xml(str(tmp_path / "t.vot"))
    catalog = open_catalog(tmp_path / "t.vot")
    found = rows_of(catalog)
    sky = SkyCoord(found["ra"].to_numpy(), found["dec"].to_numpy(), unit="deg")
    assert sky.separation(SKY).arcsec.max() < 1e-3
    assert "turned into ICRS" in catalog.notes[0]


@pytest.mark.parametrize("cards", [{}, {"RADESYS": "ICRS"}, {"EQUINOX": 2000.0}])
def test_positions_that_are_icrs_stay_bit_for_bit(tmp_path: Path, cards: dict) -> None:
    table = sources([1, 2])
    table["ra"] = [0.1, 359.99999999999994]
    table.meta.update(cards)
    catalog = open_catalog(save(tmp_path, table, "fits"))
    assert rows_of(catalog)["ra"].to_pylist() == [0.1, 359.99999999999994]
    assert catalog.notes == ()


def test_a_frame_that_is_not_known_and_a_row_without_a_position(tmp_path: Path) -> None:
    table = sources([1, 2])
    table.meta["RADESYS"] = "GAPPT"
    with pytest.raises(InputError, match="in the frame 'GAPPT'; turn them into ICRS"):
        open_catalog(save(tmp_path, table, "fits"))
    table.meta["RADESYS"] = "FK5"
    table["ra"][1] = np.nan
    found = rows_of(open_catalog(save(tmp_path, table, "fits")))["ra"].to_pylist()
    assert found[0] == pytest.approx(10.0, abs=1e-4)
    assert found[1] is None or np.isnan(found[1])


def test_texts_in_a_frame_are_no_positions(tmp_path: Path) -> None:
    table = sources([1])
    table["ra"] = ["12:30:00"]
    table.meta["RADESYS"] = "FK5"
    with pytest.raises(InputError, match="column 'ra' .* must hold numbers"):
        open_catalog(save(tmp_path, table, "fits"))


REAL = {
    "catalogs/simard2011_table1_lcs.fits": ("objID", "_RA", "_DE", 902, "588017702939918530"),
    "catalogs/simard2011_nsa_crossmatch.fits": ("objID_2", "_RA", "_DE", 795, 588017702939918530),
    "hsc/slug_s16a_massive_z0.5_logm11.4_cmodel.fits": (
        *("id_s16a", "ra", "dec", 2530, 39600977153648776),
    ),
    "hsc/hscstars/star_cat_correct.csv": ("object_id", "ira", "idec", 10, 36411452835238206),
}


@pytest.mark.parametrize("name", REAL)
def test_real_tables(realdata: Path, tmp_path: Path, name: str) -> None:
    """As a user has them: a profile names their columns, ids come out as the file holds them."""
    object_id, ra, dec, rows, first = REAL[name]
    profile = tmp_path / "own.toml"
    profile.write_text(
        f'name = "own"\n[columns]\nobject_id = "{object_id}"\nra = "{ra}"\ndec = "{dec}"\n'
    )
    catalog = open_catalog(realdata / name, load_survey(profile).columns)
    found = rows_of(catalog)
    ids = found["object_id"].to_pylist()
    assert len(ids) == catalog.num_rows == rows
    assert ids[0] == first
    if name.endswith(".fits"):
        raw = fits.getdata(realdata / name, 1)
        assert ids == [x.rstrip() if isinstance(x, str) else int(x) for x in raw[object_id]]
        assert np.array_equal(found["ra"].to_numpy(), raw[ra])
    again = sorted(name for name, count in Counter(ids).items() if count > 1)
    if again:  # matched twice, and said so
        with pytest.raises(InputError, match=f"{len(again)} object_ids? appears? more than once"):
            sort_catalog(catalog, tmp_path / "catalog", tmp_path / ".staging")
        return
    assert sort_catalog(catalog, tmp_path / "catalog", tmp_path / ".staging") == rows
    parts = [read_rows(tmp_path / "catalog", 0, npix) for npix in range(12)]
    assert sorted(pa.concat_tables(parts)["object_id"].to_pylist()) == sorted(ids)
