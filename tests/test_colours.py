"""Simulations in several bands, and networks that are trained on them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch
import zarr
from astropy.io import fits

pytest.importorskip("galsim", exc_type=ImportError)

from smallrun import rows, verb
from smallsim import inline, small_population

from survey_gampen.cli import main
from survey_gampen.errors import InputError
from survey_gampen.images.store import open_cutouts
from survey_gampen.model.checkpoint import load_checkpoint, save_checkpoint
from survey_gampen.model.network import Gampen
from survey_gampen.model.targets import Targets
from survey_gampen.simulation import simulate, tiles
from survey_gampen.simulation.colours import in_band, mixed
from survey_gampen.simulation.population import Population
from survey_gampen.training.calibrate import train_and_judge
from survey_gampen.training.data import moved, turned
from survey_gampen.training.order import Order
from survey_gampen.training.parts import PartsSet
from survey_gampen.training.recipe import load_recipe
from tests.networks import make_checkpoint, tiny

BANDS = ("g", "r", "i")
HSC = Population.load("hsc-wide", BANDS)


def colourful(folder: Path, size: int = 119, **changes: Any) -> str:
    """The small population with the bands of the shipped one."""
    path = small_population(folder, size, **changes)
    path.write_text(path.read_text() + tomli_w.dumps({"bands": HSC["bands"]}))
    return str(path)


def test_the_bands_of_a_population(tmp_path: Path) -> None:
    assert HSC.bands == BANDS
    assert Population.load("hsc-wide", ("g", "i")).bands == ("g", "i")
    alone = Population.load("hsc-wide")
    assert alone.bands == ("g",)
    assert "bands" not in alone.table  # so what was simulated before goes on
    assert HSC.observed("g")["fwhm"] == HSC["psf"]["fwhm"]
    assert HSC.observed("i")["sky_level"] == 11.2
    for bands, told in (
        (("r", "g"), r"--bands r,g: the first must be that of the truth, g in"),
        (("g", "r", "r"), "each stand there once"),
        (("g", "z"), r"has no table \[bands.z\]"),
    ):
        with pytest.raises(InputError, match=told):
            Population.load("hsc-wide", bands)
    bad = tmp_path / "bad.toml"
    bad.write_text(Path(colourful(tmp_path)).read_text().replace("fwhm = [\n    0.4,", "fwhm = ["))
    with pytest.raises(InputError, match=r"\[bands\] \[i\]: fwhm must be like"):
        Population.load(bad, BANDS)
    Population.load(bad, ("g", "r"))
    own = small_population(tmp_path)
    for text, told in (("bands = 3", r"no table \[bands.r\]"), ("bands.r = 3", "r must be like")):
        bad.write_text(f"{text}\n{own.read_text()}")
        with pytest.raises(InputError, match=told):
            Population.load(bad, BANDS)


def test_shapes_are_the_same_in_all_bands_and_light_is_not() -> None:
    galaxies = [HSC.draw(3, i) for i in range(300)]
    in_i = [in_band(HSC, g, 3, "i") for g in galaxies]
    assert all(in_band(HSC, g, 3, "g") is g for g in galaxies)
    colours: dict[str, list[float]] = {"disk": [], "bulge": []}
    for g, i in zip(galaxies, in_i, strict=True):
        for side in colours:
            one, other = getattr(g, side), getattr(i, side)
            assert other.half_light_radius == one.half_light_radius
            assert (other.x, other.y, other.axis_ratio) == (one.x, one.y, one.axis_ratio)
            if one.flux:
                colours[side].append(2.5 * np.log10(other.flux / one.flux))
        assert i.flux == pytest.approx(i.disk.flux + i.bulge.flux)
        assert i.bt == pytest.approx(i.bulge.flux / i.flux)
        assert len(i.neighbours) == len(g.neighbours)
        if 0 < g.bt < 1:
            assert i.bt != g.bt
        else:
            assert (i.bt, i.r_e) == (g.bt, pytest.approx(g.r_e))
        assert 0.4 <= i.moffat_fwhm <= 0.85
        assert 0.055 <= i.sky_sigma <= 0.15
    assert np.mean(colours["disk"]) == pytest.approx(0.85, abs=0.06)
    assert np.mean(colours["bulge"]) == pytest.approx(1.3, abs=0.06)
    assert np.std(colours["bulge"]) == pytest.approx(0.25, rel=0.2)
    # Another band is another sky, and the same whoever else is asked for.
    other = Population.load("hsc-wide", ("g", "i"))
    assert in_band(other, galaxies[0], 3, "i") == in_i[0]
    assert in_band(HSC, galaxies[0], 3, "r").moffat_fwhm != in_i[0].moffat_fwhm


def test_colours_of_disk_and_bulge_go_together() -> None:
    light = mixed(HSC, np.random.default_rng(0), 20_000)
    assert light.shape == (2, 20_000, 3)
    assert (light[..., 0] == 1).all()
    magnitude = 2.5 * np.log10(light)
    assert np.corrcoef(magnitude[0, :, 2], magnitude[1, :, 2])[0, 1] == pytest.approx(0.5, abs=0.02)
    assert magnitude[1, :, 1].mean() == pytest.approx(0.9, abs=0.01)
    assert magnitude[0, :, 2].std() == pytest.approx(0.3, rel=0.02)


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "compute", inline)
    monkeypatch.setattr(tiles, "compute", inline)


@pytest.mark.usefixtures("in_process")
def test_cutouts_of_several_bands_hold_those_of_one(tmp_path: Path) -> None:
    quiet = {"magnitude": [20.0, 21.0], "neighbours": {"count": [0, 0]}}
    population = colourful(tmp_path, 63, **quiet)
    simulate.main(population, 5, tmp_path / "one", seed=2)
    simulate.main(population, 5, tmp_path / "three", seed=2, bands=BANDS)
    one, three = (zarr.open_group(str(tmp_path / k), mode="r")["image"] for k in ("one", "three"))
    assert three.shape == (5, 3, 63, 63)
    assert three.metadata.dimension_names == ("object", "band", "y", "x")
    assert np.array_equal(three[:, 0], one[:])
    truth, alone = simulate.read_truth(tmp_path / "three"), simulate.read_truth(tmp_path / "one")
    assert truth.select(alone.column_names).equals(alone)
    y, x = np.mgrid[:63, :63] - 31
    near = np.hypot(x, y) < 20
    for k, band in enumerate(BANDS[1:], start=1):
        flux = truth[f"flux_{band}"].to_numpy()
        assert (three[:, k] * near).sum((1, 2)) == pytest.approx(flux, rel=0.15)
        far = np.hypot(x, y) > 27
        spread = [1.4826 * np.median(np.abs(image[far])) for image in three[:, k]]
        assert spread == pytest.approx(truth[f"sky_sigma_{band}"].to_numpy(), rel=0.3)
    with pytest.raises(InputError, match="other settings: choose another --out"):
        simulate.main(population, 5, tmp_path / "three", seed=2)
    with pytest.raises(InputError, match="are of one band: leave them out, or --bands"):
        simulate.main(population, 5, tmp_path / "no", bands=BANDS, psfs=(Path("psf.fits"),))


@pytest.mark.usefixtures("in_process")
def test_tiles_of_several_bands_share_their_pixels(tmp_path: Path) -> None:
    population = colourful(tmp_path, 63, magnitude=[16.0, 18.0])
    tiles.main(population, 4, tmp_path / "one", seed=5)
    tiles.main(population, 4, tmp_path / "three", seed=5, bands=BANDS)
    found = {path.name: path for path in (tmp_path / "three" / "tiles").iterdir()}
    assert sorted(found) == [f"calexp-HSC-{b}-9000-0,0.fits.fz" for b in "GIR"]
    (alone,) = (tmp_path / "one" / "tiles").iterdir()
    assert found[alone.name].read_bytes() == alone.read_bytes()
    headers = []
    for band in "GRI":
        with fits.open(found[f"calexp-HSC-{band}-9000-0,0.fits.fz"]) as hdus:
            assert hdus[0].header["FILTER"] == band.lower()
            headers.append([hdus[1].header[key] for key in ("CRVAL1", "CRPIX1", "NAXIS1")])
    assert headers[0] == headers[1] == headers[2]
    truth = pq.read_table(tmp_path / "three" / "truth.parquet")
    assert {"flux_r", "bt_i", "psf_fwhm_i"} <= set(truth.column_names)
    assert len(set(truth["psf_fwhm_i"].to_pylist())) == 1


def test_bands_are_turned_and_moved_together() -> None:
    images = torch.randn(6, 3, 9, 9)
    turns, flips = np.arange(6) % 4, np.arange(6) % 2
    shifts = np.array([[1, 0], [0, -2], [2, 2], [0, 0], [-1, 1], [-2, 0]])
    whole, there = turned(images, turns, flips), moved(images, shifts, "reflect")
    for k in range(3):
        assert torch.equal(whole[:, k], turned(images[:, k], turns, flips))
        assert torch.equal(there[:, k], moved(images[:, k], shifts, "reflect"))


@pytest.fixture(scope="module")
def colours(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``parts`` and ``cutouts`` of three bands."""
    folder = tmp_path_factory.mktemp("colours")
    population = colourful(folder, magnitude=[16.0, 20.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "compute", inline)
        for name in ("parts", "cutouts"):
            simulate.main(population, 72, folder / name, parts=name == "parts", bands=BANDS)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("correlation", [0.0, 0.4])
def test_training_images_are_those_of_the_population(colours: Path, correlation: float) -> None:
    data = PartsSet(colours / "parts")
    assert data.bands == BANDS
    data.population.table["noise"]["correlation"] = correlation
    rows = np.arange(24)
    batch = data.mix(rows, np.random.default_rng(1))
    assert batch.image.shape == (24, 3, 119, 119)
    half = data.mix(rows, np.random.default_rng(1), slice(16, 24))  # as another rank makes them
    assert torch.equal(half.image, batch.image[16:])
    streamed = PartsSet(colours / "parts", memory="stream")
    streamed.population.table["noise"]["correlation"] = correlation
    assert torch.equal(streamed.mix(rows, np.random.default_rng(1)).image, batch.image)
    y, x = np.mgrid[:119, :119] - 59
    near = torch.from_numpy(np.hypot(x, y) < 30)
    flux = (batch.image * near).sum((2, 3)).numpy()
    bright = batch.truth[:, 2] > 5e4
    assert np.median(flux[bright, 0] / batch.truth[bright, 2]) == pytest.approx(1, abs=0.1)
    colour = np.median(2.5 * np.log10(flux[bright] / flux[bright, :1]), axis=0)
    assert 0.6 < colour[1] < 0.95
    assert 0.85 < colour[2] < 1.4
    told = data.trained_on()
    assert told["psf_fwhm"] == [[0.45, 1.0], [0.45, 1.0], [0.4, 0.85]]
    assert np.shape(told["sky_sigma_njy"]) == (3, 2)


@pytest.fixture
def recipe(tmp_path: Path) -> str:
    table = load_recipe("survey", epochs=1, batch=8, validation=16, passes=2, average=0.0)
    path = tmp_path / "quick.toml"
    path.write_text(tomli_w.dumps(table))
    return str(path)


def colour_init(colours: Path, folder: Path) -> tuple[Path, Targets]:
    """A tiny network of three bands that knows nothing, with the targets of the set."""
    parts = PartsSet(colours / "parts")
    targets = Targets.fit(*parts.truth(np.arange(72), np.random.default_rng(0)).T)
    torch.manual_seed(2)
    path, meta = folder / "init.safetensors", {"band": "g", "bands": list(BANDS)}
    save_checkpoint(path, Gampen(tiny(channels=3), 0.001), targets, meta)
    return path, targets


@pytest.mark.slow
def test_a_dropout_rate_is_judged(colours: Path, recipe: str, tmp_path: Path) -> None:
    init, _ = colour_init(colours, tmp_path)
    order = Order(
        recipe=load_recipe(recipe),
        data=str(colours / "parts"),
        labels=None,
        out=str(tmp_path / "out"),
        init=str(init),
        device="cpu",
        token="000001",
    )
    train_and_judge(order, str(tmp_path / "staging"), torch.get_num_threads())
    told = json.loads((tmp_path / "out" / "calibration.json").read_text())
    assert told["n"] == 16
    assert len(told["bt"]["coverage"]) == len(told["levels"])


@pytest.mark.slow
@pytest.mark.usefixtures("in_process")
def test_from_simulation_to_a_run(
    colours: Path, recipe: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init, targets = colour_init(colours, tmp_path)
    network = load_checkpoint(init).network
    out, data = tmp_path / "out", str(colours / "parts")
    train = ["train", recipe, "--data", data, "--init", str(init), "--out"]
    assert main([*train, str(out)]) == 0
    model = load_checkpoint(out / "model.safetensors")
    assert model.bands == BANDS
    assert model.meta["trained_on"]["psf_fwhm"][2] == [0.4, 0.85]
    assert model.novelty is not None
    before, after = network.conv1.weight, model.network.conv1.weight
    assert ((before - after).abs().amax((0, 2, 3)) > 1e-4).all()  # every channel has learned

    # The catalogue beside simulated tiles says "g", which is what such a model measures.
    sky, found = tmp_path / "sky", tmp_path / "run"
    tiles.main(colourful(tmp_path, magnitude=[16.0, 20.0]), 6, sky, bands=BANDS, per_tile=4)
    words = ["--model", out / "model.safetensors", "--passes", "4", "--precision", "fp32"]
    done = verb("run", sky / "catalog.parquet", *words, "--out", found)
    assert done.returncode == 0, done.stderr
    measured, true = rows(found), pq.read_table(sky / "truth.parquet")
    assert measured["object_id"].to_pylist() == true["object_id"].to_pylist() == list(range(6))
    assert measured["flux_p50"].null_count == 0
    assert set(measured["band"].to_pylist()) == {"g"}
    for path in (found / "cutouts").glob("*.zarr"):
        store = open_cutouts(path)
        psf = np.stack([true[c].to_numpy() for c in ("psf_fwhm", "psf_fwhm_r", "psf_fwhm_i")], 1)
        assert store.extra["psf_fwhm"] == pytest.approx(psf[store.object_id], rel=1e-5)
        assert store.status.tolist() == [0] * store.n

    words = ["evaluate", str(out / "model.safetensors"), "--passes", "4", "--out"]
    assert main([*words, str(tmp_path / "seen"), str(colours / "cutouts")]) == 0
    assert json.loads((tmp_path / "seen" / "evaluation.json").read_text())["n"] == 72
    wide = tmp_path / "wide.safetensors"
    for folder in ("cutouts", "parts"):
        words = ["widths", str(out / "model.safetensors"), "--data", str(colours / folder)]
        assert main([*words, "--passes", "4", "--out", str(wide)]) == 0
        assert load_checkpoint(wide).bands == BANDS
    one = tmp_path / "one.safetensors"
    save_checkpoint(one, make_checkpoint(tiny()).network, targets, {"band": "g"})
    assert main(["evaluate", str(one), str(colours / "cutouts"), "--out", str(tmp_path)]) == 2
    assert "takes images of one band, these are of g, r, i" in capsys.readouterr().err


@pytest.mark.slow
def test_a_network_of_its_own_has_a_channel_a_band(
    colours: Path, recipe: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from survey_gampen.training import loop

    sizes = {
        "localisation_pool": 2,
        "localisation": (4, 6, 8),
        "convolutions": (8, 16, 24, 16, 16),
        "hidden": (24, 16),
        "orientations": 1,
    }
    real = loop.architecture
    monkeypatch.setattr(loop, "architecture", lambda name, **kw: real(name, **kw, **sizes))
    words = ["train", recipe, "--data", str(colours / "parts"), "--out", str(tmp_path / "out")]
    assert main(words) == 0
    assert load_checkpoint(tmp_path / "out" / "model.safetensors").config.channels == 3
