"""Going on with a planned run: what may have changed meanwhile, and what is said of the rest."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from smallrun import write_model, write_sky

from survey_gampen.config import Settings
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.run import setup
from survey_gampen.run.folder import folder
from survey_gampen.run.layout import RunDir
from survey_gampen.run.measure import Measured
from survey_gampen.run.spec import read_spec

ENGINE = {"device": "cpu", "precision": "fp32", "batch": 8, "threads": 1}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    images, catalog = write_sky(tmp_path, 8)
    (images / "calexp-HSC-G-0-9,9.fits").write_text("SIMPLE  = no")
    model = write_model(tmp_path / "model.safetensors")
    return Settings(
        catalog=str(catalog),
        images=str(images),
        out=str(tmp_path / "run"),
        band="g",
        model=str(model),
        passes=4,
        partition_rows=8,
    )


@pytest.fixture
def run(settings: Settings) -> RunDir:
    with folder(Path(settings.out)) as run:
        inputs = setup.open_inputs(settings, run)
        staging = run.staging("000001")
        rows = setup.sort_rows(run, inputs, staging)
        setup.plan(run, inputs, rows, Measured(ENGINE, 0.1), 1, staging)
    return run


def test_images_and_weights_may_move(run: RunDir, settings: Settings, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    moved = {
        name: str(Path(getattr(settings, name)).rename(elsewhere / name))
        for name in ("images", "model")
    }
    inputs = setup.open_inputs(replace(settings, **moved), run)
    spec = setup.existing(run, inputs, run.staging("000001"))
    assert spec == read_spec(run)
    assert spec is not None
    assert (spec.settings.images, spec.settings.model) == (moved["images"], moved["model"])
    assert spec.model["path"] == moved["model"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"limit": 5}, "limit: nothing -> 5"),
        ({"select": "dec > 2"}, "select: nothing -> dec > 2"),
        ({"limit": 5, "passes": 9}, r"limit: nothing -> 5; settings\.passes: 4 -> 9"),
    ],
)
def test_another_choice_of_rows_is_named(
    run: RunDir, settings: Settings, change: dict, said: str
) -> None:
    inputs = setup.open_inputs(replace(settings, **change), run)
    with pytest.raises(InputError, match=rf"\({said}\)"):
        setup.existing(run, inputs, run.staging("000001"))


def test_images_that_changed_are_taken_by_resume(run: RunDir, settings: Settings) -> None:
    (Path(settings.images) / "calexp-HSC-G-0-9,9.fits").write_text("mended")
    inputs = setup.open_inputs(settings, run)
    with pytest.raises(InputError, match=f"survey-gampen resume {run.root}"):
        setup.existing(run, inputs, run.staging("000001"))
    spec = read_spec(run)
    now, _ = setup.after_images_changed(run, spec)
    assert now.fingerprint != spec.fingerprint
    assert now.earlier == (spec.fingerprint,)


def test_what_the_user_should_know(settings: Settings, tmp_path: Path) -> None:
    inputs = setup.open_inputs(settings, RunDir(tmp_path / "run"))
    unreadable, *more = inputs.warnings()
    assert "calexp-HSC-G-0-9,9.fits" in unreadable
    assert not more
    other = replace(inputs, settings=replace(settings, band="r"))
    assert "trained on band g" in other.warnings()[-1]


def test_images_that_are_gone_when_it_goes_on_are_no_mistake_of_the_user(
    run: RunDir, settings: Settings, tmp_path: Path
) -> None:
    Path(settings.images).rename(tmp_path / "unmounted")
    with pytest.raises(OutsideFault, match="no such file or folder of images"):
        setup.after_images_changed(run, read_spec(run))


@pytest.mark.parametrize("deep", ["file", "file/run", "file/deep/run"])
def test_a_place_that_is_no_folder_is_refused(tmp_path: Path, deep: str) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="is a file: give a folder"), folder(tmp_path / deep):
        pass
    with pytest.raises(InputError, match="holds no planned run"):
        read_spec(RunDir(tmp_path / deep))


@pytest.mark.parametrize("error", [FileNotFoundError, PermissionError])
def test_a_folder_that_cannot_be_made_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: type[OSError]
) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise error(1, "Not this one")

    monkeypatch.setattr(Path, "mkdir", refuse)
    place = tmp_path / "run"
    with pytest.raises(InputError, match="Not this one"), folder(place):
        pass


def test_a_folder_that_stays_empty_goes_again(tmp_path: Path) -> None:
    with folder(tmp_path / "deep" / "run") as run:
        assert run.root.is_dir()
    assert not list(tmp_path.iterdir())
