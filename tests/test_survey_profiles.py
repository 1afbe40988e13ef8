"""Survey profiles that are shipped, their named cuts, and what a run says that each lost."""

from __future__ import annotations

import ast
from html import unescape
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st
from smallrun import call, command, rows, write_model, write_sky

from survey_gampen import cuts, paths
from survey_gampen.catalog.select import parse_select
from survey_gampen.catalog.selection import Tally
from survey_gampen.catalog.sort import sort_catalog
from survey_gampen.catalog.source import open_catalog
from survey_gampen.cli import main
from survey_gampen.config import resolve
from survey_gampen.errors import InputError
from survey_gampen.run.layout import RunDir
from survey_gampen.run.spec import PlanFacts, cut_lines, read_spec
from survey_gampen.run.status import status
from survey_gampen.survey import known, load_survey

SHIPPED = paths.names("catalogs", ".toml")

HSC = {
    **{"object_id": 41600000000000001, "ra": 150.0, "dec": 2.0, "isprimary": True},
    **{"g_extendedness_value": 1.0, "specz_flag_homogeneous": True, "specz_redshift": 0.1},
    **dict.fromkeys(
        (
            *("g_pixelflags_crcenter", "g_pixelflags_saturatedcenter", "g_pixelflags_edge"),
            *("g_pixelflags_bad", "g_cmodel_flag"),
        ),
        False,
    ),
}
LSST = {
    **{"objectId": 2**62, "coord_ra": 53.0, "coord_dec": -28.0, "g_extendedness": 1.0},
    **{"g_extendedness_flag": False, "g_invalidPsfFlag": False, "g_cModel_flag": False},
    **{f"g_pixelFlags_{name}": False for name in ("nodata", "crCenter", "saturatedCenter")},
    **{f"g_pixelFlags_{name}": False for name in ("interpolatedCenter", "sensor_edgeCenter")},
}
LEGACY = {
    **{"ls_id": 10995128483840, "ra": 59.1, "dec": -30.5, "brick_primary": 1, "type": "SER"},
    **{"nobs_g": 3, "allmask_g": 0, "maskbits": 4 | 16},
}
#: A row of each survey that is good in every way, with the types of its catalogue.
GOOD: dict[str, dict[str, Any]] = {
    "generic": {"object_id": 1, "ra": 0.0, "dec": 0.0},
    "hsc-wide": HSC,
    "hsc-pdr2-wide": HSC | {"g_pixelflags_bright_objectcenter": False},
    "hsc-pdr3-wide": HSC
    | {f"g_mask_brightstar_{name}": False for name in ("halo", "ghost15", "blooming")},
    "lsst-dp1": LSST,
    "lsst-dr": LSST,
    "legacy-survey": LEGACY,
}
#: What makes a row bad, and the cuts that must lose it.
BAD: dict[str, list[tuple[dict[str, Any], str]]] = {
    "hsc-wide": [
        ({"isprimary": False}, "primary clean"),
        ({"g_extendedness_value": 0.0}, "extended clean"),
        ({"specz_flag_homogeneous": False}, "secure_redshift paper"),
        ({"specz_flag_homogeneous": None}, "secure_redshift paper"),
        ({"specz_redshift": 0.25}, "low_redshift paper"),
        ({"specz_redshift": -0.0}, "low_redshift paper"),
        ({"specz_redshift": None}, "low_redshift paper"),
        ({"g_pixelflags_crcenter": True}, "no_cosmic_rays clean paper"),
        ({"g_pixelflags_saturatedcenter": True}, "not_saturated clean paper"),
        ({"g_pixelflags_edge": True}, "no_edge clean paper"),
        ({"g_pixelflags_edge": None}, "no_edge clean paper"),
        ({"g_pixelflags_bad": True}, "no_bad_pixels clean"),
        ({"g_cmodel_flag": True}, "model_fitted"),
    ],
    "hsc-pdr2-wide": [({"g_pixelflags_bright_objectcenter": True}, "no_bright_star")],
    "hsc-pdr3-wide": [
        ({f"g_mask_brightstar_{name}": True}, "no_bright_star")
        for name in ("halo", "ghost15", "blooming")
    ],
    "lsst-dp1": [
        ({"g_pixelFlags_nodata": True}, "observed clean"),
        ({"g_extendedness": 0.0}, "extended clean"),
        ({"g_extendedness_flag": True}, "extended clean"),
        ({"g_pixelFlags_crCenter": True}, "no_cosmic_rays clean"),
        ({"g_pixelFlags_saturatedCenter": True}, "not_saturated clean"),
        ({"g_pixelFlags_interpolatedCenter": True}, "not_interpolated clean"),
        ({"g_pixelFlags_sensor_edgeCenter": True}, "no_edge clean"),
        ({"g_invalidPsfFlag": True}, "valid_psf clean"),
        ({"g_cModel_flag": True}, "model_fitted clean"),
    ],
    "legacy-survey": [
        ({"brick_primary": 0}, "primary clean"),
        ({"type": "PSF"}, "extended clean"),
        ({"type": "DUP"}, "extended clean"),
        ({"nobs_g": 0}, "observed clean"),
        ({"allmask_g": 2}, "not_masked clean"),
        ({"maskbits": 2}, "no_bright_star clean"),
        ({"maskbits": 1 << 11}, "no_medium_star"),
        ({"maskbits": 1 << 12}, "no_large_galaxy"),
        ({"maskbits": 1 << 13}, "no_cluster clean"),
        ({"maskbits": 1 << 10}, "model_fitted clean"),
    ],
}  # fmt: skip
BAD["hsc-pdr2-wide"] += BAD["hsc-wide"]
BAD["hsc-pdr3-wide"] += BAD["hsc-wide"]
BAD["lsst-dr"] = BAD["lsst-dp1"]


@pytest.fixture(autouse=True)
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the user's own profiles: not that of who runs the tests."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    folder = tmp_path / "config" / "survey-gampen" / "catalogs"
    folder.mkdir(parents=True)
    return folder


def passes(name: str, cut: str, row: dict[str, Any]) -> bool:
    """Whether a row passes a cut of a profile, in g."""
    survey = load_survey(name)
    schema = pa.table({key: [value] for key, value in GOOD[name].items()}).schema
    batch = pa.RecordBatch.from_pylist([row], schema=schema)
    selection = parse_select(f"@{cut}", schema, survey.columns, survey.cuts_in("g"))
    return bool(selection.keep(batch, Tally()).num_rows)


@pytest.mark.parametrize("name", SHIPPED)
def test_every_cut_keeps_what_is_good_and_loses_what_it_is_about(name: str) -> None:
    survey, good = load_survey(name), GOOD[name]
    assert all(passes(name, cut, good) for cut in survey.cuts)
    lost = {
        cut: [passes(name, cut, good | bad) for bad, _ in BAD.get(name, [])] for cut in survey.cuts
    }
    wanted = {
        cut: [cut not in words.split() for _, words in BAD.get(name, [])] for cut in survey.cuts
    }
    assert lost == wanted
    assert all(not all(kept) for kept in lost.values())  # each cut has been seen to lose a row


@pytest.mark.parametrize("name", SHIPPED)
def test_every_cut_fits_every_band(name: str) -> None:
    """Columns of a cut are those of the band, and of no other."""
    survey = load_survey(name)
    for band in survey.bands:
        for cut in survey.cuts:
            text = cuts.written_out(f"@{cut}", survey.cuts_in(band))
            found = {n.id for n in ast.walk(ast.parse(text)) if isinstance(n, ast.Name)}
            here = {
                column.replace("g_", f"{band}_", 1) if column.startswith("g_") else column
                for column in GOOD[name]
            }
            here = {f"{c[:-1]}{band}" if c.endswith("_g") else c for c in here}
            assert found <= here


def test_what_is_known_of_each_survey() -> None:
    scales = {name: (s.pixel_scale, s.zero_point) for name in SHIPPED if (s := load_survey(name))}
    assert scales == {
        "generic": (None, None),
        **dict.fromkeys(("hsc-wide", "hsc-pdr2-wide", "hsc-pdr3-wide"), (0.168, 27.0)),
        **dict.fromkeys(("lsst-dp1", "lsst-dr"), (0.2, 31.4)),
        "legacy-survey": (0.262, 22.5),
    }
    for name in SHIPPED:
        survey = load_survey(name)
        assert bool(survey.references) == (name != "generic")
        assert {**survey.skymap, **survey.soda}.get("pixel_scale", survey.pixel_scale) == (
            survey.pixel_scale
        )
        for table in (survey.tree, survey.das):
            assert set(table.get("filters", {})) in (set(), set(survey.bands))
    pdr3 = load_survey("hsc-pdr3-wide")
    assert pdr3.tree["path"].format(band="HSC-G", tract=9813, patch="4,4") == (
        "deepCoadd-results/HSC-G/9813/4,4/calexp-HSC-G-9813-4,4.fits"
    )
    assert load_survey("hsc-pdr2-wide").das["rerun"] == "pdr2_wide"


def test_own_profiles_have_a_name_and_go_before_shipped_ones(own: Path, capsys) -> None:
    mine = {"name": "mine", "columns": {"object_id": "i", "ra": "r", "dec": "d"}}
    (own / "mine.toml").write_text("# My survey. More.\n" + tomli_w.dumps(mine))
    (own / "broken.toml").write_text("# Broken.\nname = 3")
    (own / "generic.toml").write_text(tomli_w.dumps(mine | {"zero_point": 25.0}))
    assert set(known()) == {*SHIPPED, "mine", "broken"}
    assert load_survey("mine").columns["ra"] == "r"
    assert load_survey("generic").zero_point == 25.0
    assert main(["catalogs", "list"]) == 0
    out = capsys.readouterr().out
    told = {line.split()[0]: line for line in out.splitlines()}
    assert told.keys() >= {*SHIPPED, "mine", "broken"}
    assert "My survey " in told["mine"]
    assert f"{own / 'mine.toml'}" in "".join(out.split())  # a long one is folded, never cut off
    assert "can't be used" in told["broken"]
    assert "g r i z y" in told["hsc-wide"]
    assert "0.168" in told["hsc-wide"]


def test_show_prints_the_file(capsys: pytest.CaptureFixture[str]) -> None:
    path = paths.data_file("catalogs", "hsc-wide.toml")
    assert main(["catalogs", "show", "hsc-wide"]) == 0
    assert capsys.readouterr().out == f"# {path}\n{path.read_text()}"
    assert main(["catalogs", "show", "hsc-wide", "--path"]) == 0
    assert capsys.readouterr().out == f"{path}\n"
    assert main(["catalogs", "show", "hsc-wid"]) == 2
    said = capsys.readouterr().err
    assert "no survey profile 'hsc-wid'; did you mean 'hsc-wide'? There are generic, hsc-" in said
    assert said.count("\n") == 1


def test_a_profile_says_which_model_serves_a_band(
    own: Path, tmp_path: Path, make_catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    mine = {
        **{"name": "mine", "bands": ["g", "r", "i"], "default_band": "r"},
        "columns": {"object_id": "i", "ra": "r", "dec": "d"},
        "models": {"r": "nets/r.safetensors", "i": "survey"},
    }
    (own / "mine.toml").write_text(tomli_w.dumps(mine))
    given_ = {"catalog": make_catalog(), "images": "t", "survey": "mine"}
    assert resolve(given_).model == str(own / "nets" / "r.safetensors")
    assert resolve(given_ | {"band": "i"}).model == "survey"
    assert resolve(given_ | {"band": "g"}).model == "survey"  # the default, for want of another
    assert resolve(given_ | {"model": "b.safetensors"}).model == str(tmp_path / "b.safetensors")
    beside = Path(given_["catalog"]).parent / "survey-gampen.toml"
    beside.write_text('model = "other"')
    assert resolve(given_).model == "other"


ROWS = st.lists(
    st.tuples(
        st.integers(0, 4) | st.none(),
        st.floats(0, 4) | st.just(float("nan")) | st.none(),
        st.booleans() | st.none(),
    ),
    max_size=40,
)
#: A condition, and what it is for a row of (a, b, c): true, or not.
CONDITIONS = {
    "a < 3": lambda a, b, c: a is not None and a < 3,
    "@small": lambda a, b, c: b is not None and 0.5 < b <= 2,
    "not c": lambda a, b, c: c is False,
    "(a & 2) == 0": lambda a, b, c: a is not None and not a & 2,
    "a": lambda a, b, c: bool(a),
    "b is not None": lambda a, b, c: b is not None and b == b,
    "(c or a > 1)": lambda a, b, c: bool(c) or (a is not None and a > 1),
}
NAMED = {"small": "b > 0.5 and b <= 2", "both": "@small and not c"}


@given(ROWS, st.lists(st.sampled_from(list(CONDITIONS)), min_size=1, max_size=4, unique=True),
       st.none() | st.integers(1, 10), st.integers(1, 7))  # fmt: skip
def test_counts(tmp_path_factory, rows, conditions, limit, batch) -> None:  # type: ignore[no-untyped-def]
    """A row is lost by the first condition it does not meet; what is behind a limit by none."""
    if not rows:
        return
    path = tmp_path_factory.mktemp("counts") / "c.parquet"
    a, b, c = (list(column) for column in zip(*rows, strict=True))
    count = len(rows)
    columns = {
        **{"object_id": list(range(count)), "ra": [1.0] * count, "dec": [1.0] * count},
        **{"a": pa.array(a, pa.int16()), "b": pa.array(b, pa.float64(), from_pandas=False)},
        "c": pa.array(c, pa.bool_()),
    }
    pq.write_table(pa.table(columns), path, row_group_size=5)
    names = [name.strip("()") if name.startswith("(c") else name for name in conditions]
    lost, kept, read = dict.fromkeys(names, 0), [], 0
    for number, row in enumerate(rows):
        if limit is not None and len(kept) == limit:
            break
        read += 1
        failed = [name for name, text in zip(names, conditions, strict=True)
                  if not CONDITIONS[text](*row)]  # fmt: skip
        if failed:
            lost[failed[0]] += 1
        else:
            kept.append(number)
    tally = Tally()
    catalog = open_catalog(path, select=" and ".join(conditions), limit=limit, cuts=NAMED)
    found = [i for part in catalog.batches(batch, tally) for i in part["object_id"].to_pylist()]
    assert found == kept
    assert (tally.read, tally.lost) == (read, lost)
    assert tally.read == len(kept) + sum(tally.lost.values())


def test_the_identity_is_of_what_a_name_stands_for(tmp_path: Path) -> None:
    table = pa.table({"object_id": [1, 2], "ra": [1.0, 2.0], "dec": [0.0, 0.0], "m": [1, 2]})
    path = tmp_path / "c.parquet"
    pq.write_table(table, path)
    named = open_catalog(path, select="@low", cuts={"low": "m < 2"}).identity()
    assert open_catalog(path, select="@few", cuts={"few": "m < 2"}).identity() == named
    assert open_catalog(path, select="(m < 2)").identity() == named
    assert open_catalog(path, select="@low", cuts={"low": "m < 3"}).identity() != named
    # A selection without names is known by its words, as it was before there were names.
    spaced = open_catalog(path, select=" m  < 2").identity()
    assert spaced != open_catalog(path, select="m < 2").identity()


def test_a_cut_whose_column_is_missing_is_named(tmp_path: Path) -> None:
    path = tmp_path / "c.parquet"
    columns = {"object_id": [1], "ra": [1.0], "dec": [0.0], "g_pixelflags_edg": [False], "t": ["x"]}
    pq.write_table(pa.table(columns), path)
    hsc = load_survey("hsc-wide").cuts_in("g")
    with pytest.raises(InputError) as caught:
        open_catalog(path, select="ra > 0 and @no_edge", cuts=hsc)
    assert str(caught.value) == (
        "--select @no_edge = 'not g_pixelflags_edge': there is no column 'g_pixelflags_edge'; "
        "the nearest is 'g_pixelflags_edg'"
    )
    with pytest.raises(InputError, match="--select @a = 'not ra' does not fit the columns' types"):
        open_catalog(path, select="@a", cuts={"a": "not ra"})
    with pytest.raises(InputError, match="--select 't & 4 == 0' does not fit"):
        open_catalog(path, select="t & 4 == 0")


def test_bits_of_wide_and_narrow_columns(tmp_path: Path) -> None:
    wide = pa.array([2**63 + 1, 2, 2**63 + 2], pa.uint64())
    columns = {"object_id": wide, "ra": [1.0] * 3, "dec": [0.0] * 3}
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table(columns | {"small": pa.array([1, 2, 3], pa.int8())}), path)

    def chosen(select: str) -> list[int]:
        batches = open_catalog(path, select=select).batches()
        return [i for batch in batches for i in batch["object_id"].to_pylist()]

    assert chosen(f"object_id & {2**63} != 0") == [2**63 + 1, 2**63 + 2]
    assert chosen(f"object_id == {2**63 + 2} or 3 > object_id") == [2, 2**63 + 2]
    assert chosen(f"object_id in [2, {2**63 + 1}]") == [2**63 + 1, 2]
    assert chosen("object_id") == [2**63 + 1, 2, 2**63 + 2]
    assert chosen("(small & 1) == 0") == [2]
    assert chosen("not (small & 1 == 0)") == [2**63 + 1, 2**63 + 2]
    with pytest.raises(InputError, match="does not fit the columns' types"):
        chosen("(small & 4096) == 0")


def test_flags_in_words(tmp_path: Path) -> None:
    """As the database's CSV has them; what is no such word is no flag, and lost either way."""
    path = tmp_path / "c.csv"
    words = ["True", "False", "f", "T", "maybe", ""]
    lines = [f"{i},1.0,0.0,{word}" for i, word in enumerate(words)]
    path.write_text("\n".join(["object_id,ra,dec,flag", *lines, ""]))
    for select, found in (("flag", [0, 3]), ("not flag", [1, 2]), ("not flag and ra > 0", [1, 2])):
        batches = open_catalog(path, select=select).batches()
        assert [i for batch in batches for i in batch["object_id"].to_pylist()] == found


def test_the_sort_counts_in_its_own_scan(tmp_path: Path) -> None:
    count = 1000
    columns = {
        **{"object_id": list(range(count)), "ra": [i / 10 for i in range(count)]},
        **{"dec": [0.0] * count, "m": [float(i % 10) for i in range(count)]},
    }
    path = tmp_path / "c.parquet"
    pq.write_table(pa.table(columns), path)
    tally = Tally()
    catalog = open_catalog(path, select="@faint and ra < 50", cuts={"faint": "m >= 5"})
    rows = sort_catalog(catalog, tmp_path / "sorted", tmp_path / ".staging", tally=tally)
    assert (rows, tally.read, tally.lost) == (250, 1000, {"@faint": 500, "ra < 50": 250})
    none = open_catalog(path, select="@faint and ra < 0", cuts={"faint": "m >= 5"})
    with pytest.raises(InputError, match=r"no row passes --select: of 1000, @faint lost 500, ra"):
        sort_catalog(none, tmp_path / "other", tmp_path / ".staging")


def test_what_is_said_of_cuts() -> None:
    facts = PlanFacts(80, 1, 80, 0.1, True, 1200, {"@no_edge": 1119, "mag_g < 21": 1})
    assert cut_lines(facts.rows_read, facts.lost, facts.rows) == [
        "1200 rows read",
        "1119 lost by @no_edge",
        "   1 lost by mag_g < 21",
        "  80 rows left",
    ]
    assert cut_lines(80, {}, 80) == []


@pytest.mark.slow
def test_a_run_tells_what_each_cut_lost(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """At planning, in run.toml, in `status` and in the report; and goes on with the same cuts."""
    images, catalog = write_sky(tmp_path, 12)
    table = pq.read_table(catalog).sort_by("object_id")
    flags = {
        "isprimary": [i >= 2 for i in range(12)],
        "g_pixelflags_edge": [None if i == 3 else i == 5 for i in range(12)],
    }
    for name, column in flags.items():
        table = table.append_column(name, pa.array(column, pa.bool_()))
    pq.write_table(table, catalog)
    survey, out = tmp_path / "hsc.toml", tmp_path / "out"
    shipped = paths.data_file("catalogs", "hsc-wide.toml").read_text()
    survey.write_text(shipped.replace("[cuts]\n", '[cuts]\nmine = "@primary and @no_edge"\n'))
    model = write_model(tmp_path / "model.safetensors")
    words = command(catalog, images, model, out, "--select", "@mine and object_id < 17")
    words[words.index("hsc-wide")] = str(survey)
    done = call(words)
    assert done.returncode == 0, done.stderr
    told = ["12 rows read", " 2 lost by @primary", " 2 lost by @no_edge"]
    told += [" 2 lost by object_id < 17", " 6 rows left"]
    assert "\n".join([*told, "rows: 6"]) in done.stdout
    assert rows(out)["object_id"].to_pylist() == [7 + i for i in (2, 4, 6, 7, 8, 9)]
    spec = read_spec(RunDir(out))
    lost = {"@primary": 2, "@no_edge": 2, "object_id < 17": 2}
    assert (spec.plan.rows_read, spec.plan.lost, spec.plan.rows) == (12, lost, 6)
    assert list(spec.plan.lost) == list(lost)
    assert status(RunDir(out))["cuts"] == {"read": 12, "lost": lost, "left": 6}
    assert main(["status", str(out)]) == 0
    assert "\n".join(told) in capsys.readouterr().out
    assert main(["report", str(out)]) == 0
    page = unescape((out / "report.html").read_text())
    assert "12 rows read; 2 lost by @primary; 2 lost by @no_edge; 2 lost by object_id < 17" in page

    # Cuts that this run does not use may change, and addresses; those that it uses may not.
    other = survey.read_text().replace("specz_redshift < 0.25", "specz_redshift < 0.3")
    survey.write_text(other.replace('url = "https://', 'url = "https://mirror.'))
    again = words[3:]
    assert main(again) == 0
    survey.write_text(survey.read_text().replace("not {band}_pixelflags_edge", "isprimary"))
    capsys.readouterr()
    assert main(again) == 2
    said = capsys.readouterr().err
    assert "was begun with something else (catalogue: changed)" in said
    assert said.count("\n") == 1
