"""Survey profiles: those that are shipped are whole, and a slip in one's own is named."""

from __future__ import annotations

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
    ],
)
def test_a_slip_is_named(change: dict[str, object], says: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_survey({"name": "mine", "columns": COLUMNS, **change}, "mine.toml")
    assert str(caught.value).startswith("mine.toml")
    assert says in str(caught.value)


def test_unknown_survey_names_the_known(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="choose one of generic, hsc-wide"):
        load_survey("hsc")
    with pytest.raises(InputError, match="cannot be read: No such file"):
        load_survey(tmp_path / "none.toml")
