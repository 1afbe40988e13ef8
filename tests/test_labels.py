"""Labels from Simard et al. 2011: what is matched, converted and dropped, and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy import units as u
from astropy.coordinates import SkyCoord
from astropy.table import Table
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import spearmanr

from survey_gampen.catalog import open_catalog
from survey_gampen.cli import main
from survey_gampen.training.labels import crossmatch
from survey_gampen.training.labels.output import FOOTER
from survey_gampen.training.labels.simard2011 import COSMOLOGY, nanojansky, weight


def simard_table(n: int = 30) -> Table:
    """`n` good galaxies as VizieR would give them, a row of 36" steps on the sky."""
    rng = np.random.default_rng(0)
    z = rng.uniform(0.02, 0.2, n)
    scale = COSMOLOGY.kpc_proper_per_arcmin(z).to_value(u.kpc / u.arcsec)
    r_e = rng.uniform(1.0, 8.0, n)
    return Table(
        {
            "_RA": 150.0 + 0.01 * np.arange(n),
            "_DE": np.full(n, 2.0),
            "objID": [str(588017702939918530 + i) for i in range(n)],
            "z": z.astype("f4"),
            "Sp": np.full(n, 2, "i2"),
            "Scale": scale.astype("f4"),
            "gg2d": rng.uniform(15, 18, n).astype("f4"),
            "e_gg2d": np.full(n, 0.01, "f4"),
            "__B_T_g": rng.uniform(0, 1, n).astype("f4"),
            "e__B_T_g": np.full(n, 0.02, "f4"),
            "Rhlg": (r_e * scale / 0.8).astype("f4"),
            "Rchl_g": (r_e * scale).astype("f4"),
        }
    )


def catalog_of(path: Path, ra: object, dec: object) -> Path:
    ra, dec = np.array(ra, float), np.array(dec, float)
    pq.write_table(pa.table({"object_id": 7000 + np.arange(len(ra)), "ra": ra, "dec": dec}), path)
    return path


class Case:
    """A file of Simard et al., a catalogue with the same galaxies, and the command."""

    def __init__(self, folder: Path, table: Table, suffix: str = "fits") -> None:
        self.folder = folder
        self.file = folder / f"table1.{suffix}"
        kinds = {"fits": "fits", "vot": "votable", "csv": "ascii.csv"}
        table.write(self.file, format=kinds[suffix])
        self.catalog = catalog_of(folder / "c.parquet", table["_RA"], table["_DE"] + 0.3 / 3600)
        self.out = folder / "labels.parquet"

    def run(self, *options: str) -> int:
        places = ["--catalog", str(self.catalog), "--out", str(self.out)]
        return main(["labels", "simard2011", str(self.file), *places, *options])

    def labels(self) -> Table:
        return Table(pq.read_table(self.out).to_pydict())

    def dropped(self) -> dict[str, int | None]:
        return json.loads(pq.read_schema(self.out).metadata[FOOTER])["dropped"]


def refused(
    case: Case, capsys: pytest.CaptureFixture[str], *options: str, stays: bool = False
) -> str:
    """The one line that a command which must fail ends with; nothing is written."""
    before = sorted(path.name for path in case.folder.iterdir())
    assert case.run(*options) == 2
    assert sorted(path.name for path in case.folder.iterdir()) == before
    assert case.out.exists() == stays
    error = capsys.readouterr().err
    assert re.fullmatch(r"survey-gampen: error: [^\n]+\n", error)
    return error


def printed_counts(text: str) -> dict[str, str]:
    return dict(re.findall(r"^│ (\w+) +│ +(-|\d+) │", text, re.MULTILINE))


def test_labels_are_converted_and_stand_beside_the_catalogue_s_ids(tmp_path: Path) -> None:
    table = simard_table()
    case = Case(tmp_path, table)
    assert case.run() == 0
    labels = case.labels()
    assert labels["object_id"].tolist() == list(range(7000, 7030))
    assert labels["simard_objid"].tolist() == table["objID"].tolist()
    assert labels["bt"] == pytest.approx(table["__B_T_g"])
    assert labels["r_e"] == pytest.approx(table["Rchl_g"] / table["Scale"])
    assert labels["flux"] == pytest.approx(3631e9 * 10 ** (-0.4 * table["gg2d"]), rel=2e-3)
    assert labels["separation"] == pytest.approx(0.3, abs=1e-6)
    assert labels["flux_err"] == pytest.approx(labels["flux"] * 0.00921034, rel=1e-5)
    assert labels["weight"] == pytest.approx(1 / (1 + 0.2**2 + 0.0921034**2), rel=1e-5)
    schema = pq.read_schema(case.out)
    assert schema.field("flux").metadata[b"unit"] == b"nJy"
    assert open_catalog(case.out, extra=["bt", "r_e", "flux", "weight"]).num_rows == 30
    assert case.run() == 0, "labels made before are replaced"
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "c.parquet", "labels.parquet", "table1.fits",
    ]  # fmt: skip


@pytest.mark.parametrize("suffix", ["vot", "csv", "parquet"])
def test_other_files_spellings_and_no_optional_columns(tmp_path: Path, suffix: str) -> None:
    table = simard_table(5)
    keep = ["_RA", "_DE", "__B_T_g", "Rchl_g", "Scale", "gg2d"]
    small = table[keep]
    small.rename_columns(["__B_T_g", "Scale", "Rchl_g"], ["b_t_G", "SCALE", "Rchl,g"])
    if suffix == "parquet":
        case = Case(tmp_path, table)
        case.file = tmp_path / "table1.parquet"
        pq.write_table(pa.table({name: small[name].tolist() for name in small.colnames}), case.file)
    else:
        case = Case(tmp_path, small, suffix) if suffix == "csv" else Case(tmp_path, table, suffix)
    assert case.run() == 0
    labels = case.labels()
    assert labels["r_e"] == pytest.approx(table["Rchl_g"] / table["Scale"], rel=1e-5)
    assert ("weight" in labels.colnames) == (suffix == "vot")
    if suffix != "vot":
        applied = {name for name, count in case.dropped().items() if count is not None}
        assert not {"fit", "class", "redshift", "radius_axes"} & applied


BAD = {
    "position": ("_RA", np.nan),
    "no_value": ("gg2d", -99.99),
    "fit": ("e__B_T_g", -99.99),
    "class": ("Sp", 3),
    "bt": ("__B_T_g", 1.2),
    "redshift": ("z", 1.05),
    "scale": ("Scale", 0.05),
    "radius_sign": ("Rchl_g", -27.81),
    "radius_axes": ("Rhlg", 500.0),
    "magnitude": ("gg2d", 23.0),
}


def test_each_bad_row_is_counted_at_its_cut(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = simard_table()
    for row, (name, value) in enumerate(BAD.values()):
        table[name][row] = value
    table["Rchl_g"][10] = 0.1 * table["Scale"][10]  # 0.1", and round
    table["Rhlg"][10] = table["Rchl_g"][10]
    table["Scale"][11] = -99.99  # with a second fault, counted at the first
    table["Rchl_g"][11] = -27.0
    case = Case(tmp_path, table)
    ra, dec = np.array(table["_RA"]), np.array(table["_DE"])
    ra[12] += 0.005  # far from all
    twice = (ra[13], dec[13] + 0.5 / 3600)
    catalog_of(case.catalog, [*ra, twice[0], np.nan, 10.0], [*dec, twice[1], 0.0, 95.0])
    assert case.run() == 0
    expected = dict.fromkeys([*BAD, "radius", "separation", "ambiguous"], 1) | {"no_value": 2}
    assert case.dropped() == expected
    assert case.labels()["object_id"].tolist() == list(range(7014, 7030))
    said = capsys.readouterr().out
    told = {name: str(count) for name, count in expected.items()} | {"kept": "16"}
    assert printed_counts(said) == told
    assert "3 rows of" in said, "the NaN of row 0, the NaN and the declination at the end"


def test_two_fits_for_one_galaxy_are_ambiguous_even_when_one_is_bad(tmp_path: Path) -> None:
    table = simard_table(6)
    table["_RA"][1] = table["_RA"][0]
    table["Rchl_g"][1] = -27.0
    case = Case(tmp_path, table)
    catalog_of(case.catalog, table["_RA"][1:], table["_DE"][1:])
    assert case.run() == 0
    assert case.labels()["object_id"].tolist() == [7001, 7002, 7003, 7004]
    assert case.dropped()["ambiguous"] == 1


def test_select_takes_part_of_the_catalogue(tmp_path: Path) -> None:
    case = Case(tmp_path, simard_table())
    assert case.run("--select", "object_id < 7004", "--max-sep", "0.4") == 0
    assert len(case.labels()) == 4


def test_what_cannot_be_used_is_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case(tmp_path, simard_table(5))
    assert "--max-sep 0: give arcsec" in refused(case, capsys, "--max-sep", "0")
    line = refused(case, capsys, "--max-sep", "0.1")
    assert 'within 0.1"' in line
    assert 'the closest two are 0.3" apart' in line
    good = case.file
    case.file = tmp_path / "nothing.fits"
    assert "is no file; get table 1" in refused(case, capsys)
    case.file = tmp_path / "broken.fits"
    case.file.write_text("no table")
    assert "cannot be read" in refused(case, capsys)
    case.file = tmp_path / "broken.dat"
    case.file.write_text("no table")
    assert "cannot be read" in refused(case, capsys)
    case.file = tmp_path / "few.fits"
    simard_table(5)["_RA", "_DE", "gg2d"].write(case.file)
    line = refused(case, capsys)
    for words in (
        "no column __B_T_g or B_T_g or (B/T)g; Rchl_g or Rchl,g; Scale",
        "_RA, _DE, gg2d",
    ):
        assert words in line
    case.file = tmp_path / "none.fits"
    simard_table(5)[:0].write(case.file)
    assert "is empty" in refused(case, capsys)
    case.file = tmp_path / "all_bad.fits"
    bad = simard_table(5)
    bad["Rchl_g"] = -27.0
    bad.write(case.file)
    assert "passes all cuts" in refused(case, capsys)
    case.file = good
    catalog_of(case.catalog, [10.0, 11.0], [-60.0, -60.0])
    assert re.search(r"closest two are \d+ deg apart", refused(case, capsys))


def test_nothing_else_is_written_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    case = Case(tmp_path, simard_table(5))
    case.out = case.catalog
    content = case.catalog.read_bytes()
    assert "is something else" in refused(case, capsys, stays=True)
    assert case.catalog.read_bytes() == content
    case.out = tmp_path / "folder"
    case.out.mkdir()
    assert "is something else" in refused(case, capsys, stays=True)
    case.out = tmp_path / "labels.csv"
    assert "ends in .parquet" in refused(case, capsys)
    table = pq.read_table(case.catalog).set_column(0, "object_id", pa.array([1, 1, 2, 3, 4]))
    pq.write_table(table, case.catalog)
    case.out = tmp_path / "labels.parquet"
    assert "object_id 1 stands in two rows" in refused(case, capsys)


@given(
    ra=st.floats(0, 359.999),
    dec=st.floats(-90, 90),
    angle=st.floats(0, 360),
    apart=st.floats(0, 3).filter(lambda s: abs(s - 1) > 1e-3),
)
def test_a_pair_is_found_when_it_is_close_anywhere_on_the_sky(
    tmp_path_factory: pytest.TempPathFactory, ra: float, dec: float, angle: float, apart: float
) -> None:
    here = SkyCoord(ra, dec, unit="deg")
    there = here.directional_offset_by(angle * u.deg, apart * u.arcsec)
    path = catalog_of(
        tmp_path_factory.getbasetemp() / "pair.parquet", [there.ra.deg], [there.dec.deg]
    )
    catalog = open_catalog(path)
    pairs = crossmatch.match(catalog, np.array([np.nan, ra]), np.array([0.0, dec]), 1.0)
    assert pairs.reference.tolist() == ([1] if apart < 1 else [])
    assert pairs.separation == pytest.approx([apart] if apart < 1 else [], abs=1e-4)
    assert crossmatch.nearest(catalog, np.array([ra]), np.array([dec])) == pytest.approx(
        apart, abs=1e-4
    )


@given(st.floats(10, 25), st.floats(0, 1), st.floats(0, 1))
def test_flux_and_weight(magnitude: float, bt_err: float, flux_err: float) -> None:
    assert 31.4 - 2.5 * np.log10(nanojansky(magnitude)) == pytest.approx(magnitude)
    assert 0 < weight(bt_err, flux_err) <= 1
    assert weight(bt_err, flux_err) <= weight(bt_err / 2, flux_err)


def test_batches_of_the_catalogue_do_not_matter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = simard_table(30)
    catalog = open_catalog(catalog_of(tmp_path / "c.parquet", table["_RA"][::-1], table["_DE"]))
    reference = (np.array(table["_RA"], float), np.array(table["_DE"], float))
    whole = crossmatch.match(catalog, *reference, 1.0)
    monkeypatch.setattr(crossmatch, "_BATCH", 7)
    parts = crossmatch.match(catalog, *reference, 1.0)
    assert whole.row.tolist() == parts.row.tolist() == list(range(30))
    assert whole.reference.tolist() == parts.reference.tolist() == list(range(29, -1, -1))
    assert whole.rows.equals(parts.rows)


# --- the real tables ------------------------------------------------------------------------


def test_the_real_table_with_itself(
    realdata, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    case = Case(tmp_path, simard_table(2))
    case.file = realdata / "catalogs" / "simard2011_table1_lcs.fits"
    table = Table.read(case.file)
    rng = np.random.default_rng(0)
    jitter = rng.uniform(-0.3, 0.3, (2, len(table))) / 3600
    catalog_of(case.catalog, table["_RA"] + jitter[0], table["_DE"] + jitter[1])
    assert case.run() == 0
    labels, counts = case.labels(), case.dropped()
    # One quasar, two radii of -27 kpc, one galaxy of 23".
    dropped = {"class": 1, "radius_sign": 2, "radius": 1}
    assert {name: count for name, count in counts.items() if count} == dropped
    told = {name: str(count) for name, count in counts.items()} | {"kept": "898"}
    assert printed_counts(capsys.readouterr().out) == told
    own = table[labels["object_id"] - 7000]
    assert labels["simard_objid"].tolist() == [str(name) for name in own["objID"]]
    assert labels["bt"] == pytest.approx(own["B_T_g"])
    assert 1 < np.median(labels["r_e"]) < 6
    relative = own["e_gg2d"] * np.log(10) / 2.5
    expected = 1 / (1 + 100 * own["e__B_T_g"] ** 2 + 100 * relative**2)
    assert labels["weight"] == pytest.approx(expected, rel=1e-5)


def test_known_pairs_of_the_nasa_sloan_atlas(realdata, tmp_path: Path) -> None:
    """Two measurements of the same galaxies, made by others and joined by others."""
    case = Case(tmp_path, simard_table(2))
    case.file = realdata / "catalogs" / "simard2011_nsa_crossmatch.fits"
    both = Table.read(case.file)
    catalog_of(case.catalog, both["RA_1"], both["DEC_1"])
    assert case.run() == 0
    labels, counts = case.labels(), case.dropped()
    assert len(labels) == 790
    assert counts["separation"] == 2
    assert counts["class"] is None, "the file has no Sp"
    own = both[labels["object_id"] - 7000]
    assert labels["simard_objid"].tolist() == [str(name) for name in own["objID_2"]]
    circular = own["SERSIC_TH50"] * np.sqrt(own["SERSIC_BA"])
    assert spearmanr(labels["r_e"], circular).statistic > 0.8
    assert np.median(labels["r_e"] / circular) == pytest.approx(1, abs=0.05)
    g = 1e-9 * 3631e9 * np.array(own["SERSICFLUX"])[:, 3]  # of FNugriz; not corrected either
    assert np.median(labels["flux"] / g) == pytest.approx(1, abs=0.1)
