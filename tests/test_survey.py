"""Survey profiles: those that are shipped are whole, and a slip in one's own is named."""

from __future__ import annotations

import hashlib
import json
import pickle
import tomllib
from dataclasses import fields
from pathlib import Path

import pytest
import tomli_w

from survey_gampen import paths
from survey_gampen.errors import InputError
from survey_gampen.survey import Survey, load_survey, parse_survey

COLUMNS = {"object_id": "id", "ra": "RA", "dec": "DEC"}
#: SHA-256 of hsc-wide as it went into fingerprints before profiles had tables.
BEFORE = "e7ea8f07338c465348fa0a158ca7cbf30d28faeadbc72593583b7ea51e5cf1a5"


@pytest.mark.parametrize("name", paths.names("catalogs", ".toml"))
def test_shipped_profiles(name: str) -> None:
    """Each loads under its own name, and each key it could have is written or explained in it."""
    survey = load_survey(name)
    assert survey.name == name
    text = paths.data_file("catalogs", f"{name}.toml").read_text()
    for field in fields(Survey):
        assert field.name in text


def test_hsc_wide() -> None:
    hsc = load_survey("hsc-wide")
    assert (hsc.zero_point, hsc.pixel_scale, hsc.default_band) == (27.0, 0.168, "g")
    # Interpolated in one visit of many: the coadd's value there is usable.
    assert not {"CR", "INTRP"} & {*hsc.bad_planes, *hsc.no_data_planes}
    assert hsc.saturated_planes == ("SAT",)


def test_generic_takes_nothing_for_granted() -> None:
    generic = load_survey("generic")
    assert generic.zero_point is None
    assert generic.pixel_scale is None
    assert generic.default_band == ""


def test_a_profile_travels() -> None:
    survey = load_survey("hsc-wide")
    assert pickle.loads(pickle.dumps(survey)) == survey
    for name in ("hsc-wide", "generic"):
        text = tomli_w.dumps(load_survey(name).as_table())
        assert parse_survey(tomllib.loads(text), "run.toml") == load_survey(name)


def test_own_file(tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(tomli_w.dumps({"name": "mine", "pixel_scale": 1, "columns": COLUMNS}))
    survey = load_survey(path)
    assert survey == Survey("mine", COLUMNS, pixel_scale=1.0)


WHOLE = {
    "name": "mine",
    "columns": COLUMNS,
    "bands": ["g", "r"],
    "cuts": {"bright": "mag < 20", "paper": "@bright and z < 0.25"},
    "models": {"g": "survey"},
    "skymap": {
        **{"name": "rings_v1", "rings": 120, "ra_start": 0, "projection": "TAN", "version": 1},
        **{"pixel_scale": 0.168, "tract_overlap": 1 / 60, "tract_builder": "cells"},
        **{"patch_inner": 3000, "patch_border": 200},
    },
    "tree": {
        **{"url": "https://host/tree", "rerun": "wide", "patch": "x,y"},
        **{"path": "{rerun}/{band}/{tract}/{patch}.fits", "filters": {"g": "HSC-G"}},
    },
    "das": {"url": "https://host/das", "rerun": "wide", "filters": {"g": "HSC-G", "r": "HSC-R"}},
    "soda": dict.fromkeys(("tap", "sia", "datalink", "soda", "collection", "product"), "x"),
    "references": {"paper": "Somebody 2021"},
}


def test_all_tables_travel() -> None:
    survey = parse_survey(WHOLE, "mine.toml")
    assert survey.skymap == WHOLE["skymap"]
    assert isinstance(survey.skymap["ra_start"], float)
    assert parse_survey(tomllib.loads(tomli_w.dumps(survey.as_table())), "run.toml") == survey
    assert pickle.loads(pickle.dumps(survey)) == survey


def test_results_depend_on_what_makes_pixels_and_rows() -> None:
    """Advice, addresses and sources are no part of a fingerprint; columns and planes are."""
    bare = {key: value for key, value in WHOLE.items() if not isinstance(value, dict)}
    bare["columns"] = COLUMNS
    survey, plain = parse_survey(WHOLE, "mine.toml"), parse_survey(bare, "mine.toml")
    assert survey.for_results() == plain.for_results() == plain.as_table()
    other = parse_survey({**WHOLE, "bad_planes": ["BAD"]}, "mine.toml")
    assert other.for_results() != survey.for_results()


def test_a_run_begun_before_the_tables_came_goes_on() -> None:
    """The profile's part of the fingerprint is, byte for byte, what it was without them."""
    part = json.dumps(load_survey("hsc-wide").for_results(), sort_keys=True)
    assert hashlib.sha256(part.encode()).hexdigest() == BEFORE


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"zeropoint": 27.0}, "unknown key 'zeropoint'; did you mean 'zero_point'?"),
        ({"columns": {**COLUMNS, "RA": "ra"}}, "[columns]: unknown key 'RA'"),
        ({"columns": {"object_id": "id", "ra": "ra"}}, "[columns]: dec must be a text"),
        ({"columns": "id"}, "needs a table [columns] with object_id, ra, dec"),
        ({"name": ""}, "name must be a text"),
        ({"zero_point": "27"}, "zero_point must be a number, is '27'"),
        ({"zero_point": True}, "zero_point must be a number, is True"),
        ({"pixel_scale": 0}, "pixel_scale must be above 0, is 0"),
        ({"pixel_scale": float("nan")}, "pixel_scale must be a number"),
        ({"bad_planes": "BAD"}, "bad_planes must be a list of texts"),
        ({"layout": "cube"}, "layout is 'cube', must be one of tiles, gampen"),
        ({"bands": ["g"], "default_band": "r"}, "default_band 'r' is not among bands g"),
        ({"cuts": ["z < 1"]}, "cuts must be a table [cuts]"),
        ({"cuts": {"a": 1}}, "[cuts]: a must be a text, is 1"),
        ({"cuts": {"no-rays": "z < 1"}}, "[cuts]: 'no-rays' must be a word of letters"),
        ({"models": {"h": "survey"}, "bands": ["g"]}, "[models]: unknown key 'h'"),
        ({"skymap": {"ring": 120}}, "[skymap]: unknown key 'ring'; did you mean 'rings'?"),
        ({"skymap": {"rings": 120.0}}, "[skymap]: rings must be a whole number, is 120.0"),
        ({"skymap": {"rings": True}}, "[skymap]: rings must be a number, is True"),
        ({"skymap": {"patch_border": -1}}, "[skymap]: patch_border must not be negative"),
        ({"skymap": {"pixel_scale": "x"}}, "[skymap]: pixel_scale must be a number, is 'x'"),
        ({"skymap": {"projection": "STG"}}, "[skymap]: projection is 'STG', must be one of TAN"),
        ({"skymap": {"tract_builder": "cell"}}, "must be one of legacy, cells"),
        ({"tree": {"root": "x"}}, "[tree]: unknown key 'root'"),
        ({"tree": {"filters": {"g": 1}}}, "[tree] [filters]: g must be a text, is 1"),
        ({"das": {"url": ""}}, "[das]: url must be a text, is ''"),
        ({"das": {"filters": {"G": "x"}}, "bands": ["g"]}, "[das filters]: unknown key 'G'"),
        ({"soda": "https://x"}, "soda must be a table [soda], is 'https://x'"),
    ],
)
def test_a_slip_is_named(change: dict[str, object], says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_survey({"name": "mine", "columns": COLUMNS, **change}, "mine.toml")
    assert str(caught.value).startswith("mine.toml")
    assert says in str(caught.value)


def test_unknown_survey_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="'nosuch'; there are generic, hsc-"):
        load_survey("nosuch")
    with pytest.raises(InputError, match="did you mean 'hsc-wide'. There are generic, hsc-"):
        load_survey("hsc")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_survey(tmp_path / "none.toml")
