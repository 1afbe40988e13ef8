"""Settings: which place has the last word, and what is said about a slip."""

from __future__ import annotations

import shutil
import string
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import tomli_w
from hypothesis import given
from hypothesis import strategies as st

from survey_gampen import tomlfile
from survey_gampen.catalogmetadata import METADATA_KEY
from survey_gampen.config import BESIDE, Settings, from_table, resolve
from survey_gampen.errors import InputError

Catalog = Callable[..., Path]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder that is not the catalogue's."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    return folder


def test_defaults(here: Path, make_catalog: Catalog) -> None:
    catalog = make_catalog("galaxies.parquet")
    settings = resolve({"catalog": catalog, "images": "tiles"})
    assert settings == Settings(
        catalog=str(catalog),
        images=str(here / "tiles"),
        out=str(catalog.parent / "galaxies.gampen"),
        band="g",
    )


def test_every_place_gives_way_to_the_one_before(here: Path, make_catalog: Catalog) -> None:
    """One more place is taken away each time, from the command line down to the defaults."""
    text = b'images = "m"\nseed = 1\npasses = 11\nprecision = "bf16"\npartition-rows = 7'
    catalog = make_catalog("sky/c.parquet", metadata={METADATA_KEY: text})
    beside = catalog.parent / BESIDE
    beside.write_text('images = "b"\nseed = 2\npasses = 12\nband = "i"')
    config = here / "run.toml"
    config.write_text('images = "c"\nseed = 3\n')

    full = resolve({"catalog": catalog, "images": "cli", "seed": None}, config)
    assert full.images == str(here / "cli")
    assert (full.seed, full.passes, full.precision, full.partition_rows) == (3, 12, "bf16", 7)
    assert full.band == "i"

    assert resolve({"catalog": catalog}, config).images == str(here / "c")
    assert resolve({"catalog": catalog}).images == str(catalog.parent / "b")
    assert resolve({"catalog": catalog}).seed == 2
    beside.unlink()
    last = resolve({"catalog": catalog})
    assert (last.images, last.seed, last.passes) == (str(catalog.parent / "m"), 1, 11)
    assert last.band == "g"  # from the survey profile


def test_metadata_of_a_folder(here: Path, make_catalog: Catalog) -> None:
    first = make_catalog("cat/dataset/a.parquet", metadata={METADATA_KEY: b'images = "tiles"'})
    folder = first.parent.parent
    settings = resolve({"catalog": folder})
    assert settings.images == str(folder.parent / "tiles")
    assert settings.out == str(folder.parent / "cat.gampen")
    shutil.rmtree(folder / "dataset")
    with pytest.raises(InputError, match="no images: give --images"):
        resolve({"catalog": folder})


def test_names_and_urls_are_no_paths(here: Path, make_catalog: Catalog) -> None:
    given_ = {"survey": "hsc-wide", "model": "own.safetensors", "cluster": "local"}
    settings = resolve({"catalog": make_catalog(), "images": "https://x.org/a b", **given_})
    assert settings.images == "https://x.org/a b"
    assert (settings.survey, settings.cluster) == ("hsc-wide", "local")
    assert settings.model == str(here / "own.safetensors")


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ("pases = 3", r"survey-gampen\.toml: unknown key 'pases'; did you mean 'passes'\?"),
        ("qqqq = 3", "unknown key 'qqqq'; did you mean '"),
        ("catalog = 'x'", "unknown key 'catalog'"),
        ("passes = '3'", "passes must be a whole number, is '3'"),
        ("passes = true", "passes must be a whole number, is True"),
        ("passes = 1", "passes must be 2 or more, is 1"),
        ("seed = -1", "seed must be 0 or more, is -1"),
        ("seed = 9223372036854775808", r"seed must be less than 2\^63, is 9223372036854775808"),
        ("precision = 'fp16'", "precision must be one of auto, int8, bf16, fp32, is 'fp16'"),
        ("lossy = 2", "lossy is in units of the sky noise"),
        ("lossy = nan", "lossy is in units of the sky noise"),
        ("columns = 'z'", "columns must be a list of column names"),
        ("columns = ['z', 3]", "columns must be a list of column names"),
        ("keep_samples = 1", "keep_samples must be true or false, is 1"),
        ("images = ''", "images is empty"),
        ("band = 'q'", "has no band 'q': choose one of g, r, i, z, y"),
        ("survey = 'hsc-wid'", "no survey profile 'hsc-wid'; did you mean 'hsc-wide'"),
        ("survey = 'generic'", "has no band of its own; give --band"),
        ("passes 3", r"survey-gampen\.toml: not valid TOML: .*line 1"),
    ],
)
def test_a_slip_is_named(here: Path, make_catalog: Catalog, line: str, says: str) -> None:
    catalog = make_catalog()
    (catalog.parent / BESIDE).write_text(line)
    with pytest.raises(InputError, match=says) as caught:
        resolve({"catalog": catalog} | ({} if "images" in line else {"images": "tiles"}))
    assert "\n" not in str(caught.value)


def test_missing_files_are_named(here: Path, make_catalog: Catalog) -> None:
    with pytest.raises(InputError, match="nothing.parquet: no such catalogue"):
        resolve({"catalog": "nothing.parquet"})
    with pytest.raises(InputError, match="gone.toml: cannot be read: No such file"):
        resolve({"catalog": make_catalog()}, Path("gone.toml"))
    Path("binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(InputError, match="binary.toml: cannot be read: not UTF-8"):
        resolve({"catalog": make_catalog()}, Path("binary.toml"))


def test_a_catalogue_that_is_no_parquet_is_left_to_its_reader(here: Path) -> None:
    Path("c.csv").write_text("object_id,ra,dec\n")
    assert resolve({"catalog": "c.csv", "images": "t"}).catalog == str(here / "c.csv")


def test_columns_come_once(here: Path, make_catalog: Catalog) -> None:
    settings = resolve({"catalog": make_catalog(), "images": "t", "columns": ["z", "mag", "z"]})
    assert settings.columns == ("z", "mag")


words = st.text(string.ascii_letters + string.digits + "_-./ é'\"\\", min_size=1, max_size=20)
all_settings = st.builds(
    Settings,
    **dict.fromkeys(("catalog", "images", "out", "survey", "band", "model", "cluster"), words),
    passes=st.integers(2, 2**63 - 1),
    seed=st.integers(0, 2**63 - 1),
    precision=st.sampled_from(["auto", "int8", "bf16", "fp32"]),
    partition_rows=st.none() | st.integers(1, 10**9),
    limit=st.none() | st.integers(1, 10**9),
    select=st.none() | words,
    channels=st.lists(words, unique=True).map(tuple),
    columns=st.lists(words, unique=True).map(tuple),
    keep_samples=st.booleans(),
    keep_cutouts=st.none() | st.booleans(),
    lossy=st.floats(0, 1),
    plan_only=st.booleans(),
)


@given(all_settings)
def test_settings_survive_a_file(settings: Settings) -> None:
    text = tomli_w.dumps(settings.as_table())
    assert from_table(tomlfile.parse(text, "run.toml"), "run.toml") == settings


def test_a_table_must_be_complete() -> None:
    with pytest.raises(InputError, match="run.toml: key 'out' is missing"):
        from_table({"catalog": "c", "images": "i"}, "run.toml")


@given(st.sampled_from([f.name for f in fields(Settings)]), st.data())
def test_one_lost_letter_finds_its_key(key: str, data: st.DataObject) -> None:
    lost = data.draw(st.integers(0, len(key) - 1))
    typed = key[:lost] + key[lost + 1 :]
    with pytest.raises(InputError, match=f"did you mean '{key}'"):
        tomlfile.check_keys([typed], [f.name for f in fields(Settings)], "here")
