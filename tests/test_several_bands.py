"""A model that sees several bands, from its network to a run with it."""

from __future__ import annotations

import json
import tomllib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import tomli_w
import torch
from astropy.io import fits
from networks import TARGETS, make_checkpoint, make_images, tiny
from skytiles import blob, noise, sky_wcs, write_tile
from smallrun import NARROW, call, command, leaves, rows, verb

from survey_gampen.catalog.ids import id_key
from survey_gampen.cli import main
from survey_gampen.config import Settings, from_table, resolve
from survey_gampen.errors import InputError
from survey_gampen.images import Status
from survey_gampen.images.store import open_cutouts
from survey_gampen.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from survey_gampen.model.network import Gampen
from survey_gampen.model.presets import Architecture
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.settings import EngineSettings
from survey_gampen.posterior.sizing import measure_speed
from survey_gampen.run.bands import with_bands
from survey_gampen.run.scope import out_of_range
from survey_gampen.run.space import cutout_bytes
from survey_gampen.survey import load_survey
from survey_gampen.training.labelled import LabelledSet

BANDS = ("r", "g", "i")
KEYS = np.arange(7, 13, dtype=np.uint64)


def colour_images(n: int) -> np.ndarray:
    return np.stack([make_images(n, 119, seed) for seed in range(3)], axis=1)


def draws(checkpoint: Checkpoint, images: np.ndarray, precision: str = "fp32"):
    engine = Engine(checkpoint, passes=8, seed=3, precision=precision, batch=6)
    return engine.draws(images, KEYS[: len(images)])


@pytest.mark.parametrize("dropout", ["regression", "everywhere"])
def test_all_bands_count_and_have_one_crop(dropout: str) -> None:
    checkpoint = make_checkpoint_of(3, dropout=dropout, orientations=4)
    images = colour_images(6)
    found = draws(checkpoint, images)
    assert found.scaled.shape == (6, 8, 3)
    network, seen = checkpoint.network, torch.from_numpy(images)
    stretched = network.stretch(seen)
    theta = network.localisation(stretched)
    whole = network.crop(stretched, theta)
    for k in range(3):
        torch.testing.assert_close(whole[:, k : k + 1], network.crop(stretched[:, [k]], theta))
        other = images.copy()
        other[:, k] += 30
        moved = draws(checkpoint, other)
        assert (moved.crop != found.crop).any()
        assert (moved.scaled != found.scaled).any(dim=1).all()


@pytest.mark.parametrize("orientations", [1, 8])
def test_the_place_in_a_batch_does_not_matter(orientations: int) -> None:
    checkpoint = make_checkpoint_of(3, orientations=orientations)
    images = colour_images(6)
    together = draws(checkpoint, images)
    turned = draws(checkpoint, images[::-1].copy())
    assert not torch.equal(together.scaled, turned.scaled)  # the noise goes by the key
    engine = Engine(checkpoint, passes=8, seed=3, precision="fp32", batch=6)
    for place in range(6):
        alone = engine.draws(images[place : place + 1], KEYS[place : place + 1])
        assert torch.equal(alone.scaled[0], together.scaled[place])


def make_checkpoint_of(channels: int, **changes: object) -> Checkpoint:
    """Random weights; activation ranges of images of as many bands."""
    arch = tiny(channels=channels, **changes)
    torch.manual_seed(4)
    network = Gampen(arch, 0.05)
    with torch.no_grad():
        network.localisation.fc2.weight.normal_(std=0.01)
        network.blocks[-1].weight_layer.weight.mul_(0.1)
    meta = {"band": BANDS[0], "bands": list(BANDS)} if channels > 1 else {"band": "g"}
    return Checkpoint(network.eval().requires_grad_(False), TARGETS, meta)


def test_one_channel_is_what_it_was() -> None:
    """The key changes nothing, nor whether one channel has an axis."""
    checkpoint, images = make_checkpoint(tiny(orientations=4)), make_images(6, 119)
    values = checkpoint.config.to_dict()
    assert values.pop("channels") == 1
    assert Architecture.from_dict(values) == checkpoint.config
    assert checkpoint.config.image_shape == (119, 119)
    found, with_axis = draws(checkpoint, images), draws(checkpoint, images[:, None])
    assert torch.equal(found.scaled, with_axis.scaled)
    assert torch.equal(found.crop, with_axis.crop)


def test_time_is_taken_with_images_of_all_bands() -> None:
    settings = EngineSettings("cpu", "fp32", batch=4, threads=1)
    assert measure_speed(make_checkpoint_of(3), settings, 2).per_pass > 0


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path, model = tmp_path / "gri.safetensors", make_checkpoint_of(3)
    save_checkpoint(path, model.network, TARGETS, model.meta)
    return path


def test_a_checkpoint_names_its_bands(saved: Path, tmp_path: Path) -> None:
    model = load_checkpoint(saved)
    assert model.bands == BANDS
    assert model.config.image_shape == (3, 119, 119)
    model.check_takes(119, 0.168, BANDS)
    for bands, told in (
        (("g", "r", "i"), "takes images of r, g, i, these are of g, r, i"),
        (("r",), "takes images of r, g, i, these are of r"),
    ):
        with pytest.raises(InputError, match=told):
            model.check_takes(119, 0.168, bands)
    one = load_checkpoint("survey")
    assert (one.bands, one.config.channels) == (("g",), 1)
    one.check_takes(239, 0.168, ("z",))
    with pytest.raises(InputError, match="of one band, these are of g, r"):
        one.check_takes(239, 0.168, ("g", "r"))
    for meta in ({"band": "g"}, {"band": "g", "bands": ["g", "r", "r"]},
                 {"band": "g", "bands": ["r", "g", "i"]}):  # fmt: skip
        save_checkpoint(tmp_path / "bad.safetensors", model.network, TARGETS, meta)
        with pytest.raises(InputError, match=r"its header is broken .*band"):
            load_checkpoint(tmp_path / "bad.safetensors")


def settings_of(**changes: object) -> Settings:
    return replace(Settings(catalog="/c", images="/i", out="/o", model="m"), **changes)


def test_command_line_profile_and_model_agree() -> None:
    hsc, several, one = load_survey("hsc-wide"), make_checkpoint_of(3), make_checkpoint_of(1)
    for asked in ({}, {"band": "r"}, {"band": "r", "channels": BANDS}):
        got = with_bands(settings_of(**asked), hsc, several)
        assert (got.band, got.channels, got.image_bands) == ("r", BANDS, BANDS)
        assert from_table(got.as_table(), "here") == got
    for asked in ({"band": "g"}, {"band": "g", "channels": ("g", "r", "i")}):
        with pytest.raises(InputError, match=r"trained on r, g, i together.*give --band r,g,i"):
            with_bands(settings_of(**asked), hsc, several)
    with pytest.raises(InputError, match=r"'hsc-wide' has no band i, and model m was trained on"):
        with_bands(settings_of(), replace(hsc, bands=("g", "r")), several)
    with pytest.raises(InputError, match="takes one band and not r, g, i: give one of them"):
        with_bands(settings_of(band="r", channels=BANDS), hsc, one)
    got = with_bands(settings_of(), hsc, one)
    assert (got.band, got.channels, got.image_bands) == ("g", (), ("g",))
    with pytest.raises(InputError, match="has no band of its own"):
        with_bands(settings_of(), load_survey("generic"), one)
    assert "channels" not in got.as_table()


def test_bands_on_the_command_line(tmp_path: Path) -> None:
    catalog = tmp_path / "c.parquet"
    pq.write_table(pa.table({"object_id": [1], "ra": [1.0], "dec": [1.0]}), catalog)
    base = {"catalog": str(catalog), "images": "x"}
    found = resolve({**base, "band": "g, r,i", "model": "survey"})
    assert (found.band, found.channels) == ("g", ("g", "r", "i"))
    # Who names a model need not say the band: the model may know.
    assert resolve({**base, "model": "survey"}).band == ""
    assert resolve(base).band == "g"
    for text, told in (("g,q", "no band 'q'"), ("g,g", "each band once"), ("g,", "no band ''")):
        with pytest.raises(InputError, match=told):
            resolve({**base, "band": text})
    (tmp_path / "survey-gampen.toml").write_text('channels = ["g", "r"]')
    with pytest.raises(InputError, match="unknown key 'channels'; did you mean"):
        resolve(base)


def test_ranges_are_those_of_each_band() -> None:
    trained = {"sky_sigma_njy": [[1, 2], [3, 4]], "psf_fwhm": [[0.5, 1], [0.4, 0.8]]}
    sky = np.array([[1.5, 3.5], [1.5, 2.5], [np.nan, 3.5], [1.5, 3.5], [1.5, 3.5]])
    psf = np.array([[0.6, 0.6], [0.6, 0.6], [0.6, np.nan], [0.45, 0.5], [0.6, 0.6]])
    scale = np.full((5, 2), 0.168)
    scale[4, 1] = 0.5
    found = out_of_range(trained, 0.168, sky, psf, scale)
    assert found.tolist() == [False, True, False, True, True]


# A run ---------------------------------------------------------------------------------------

SIDE, N = 520, 12
COLOUR = replace(NARROW, channels=3)


class ColourSky:
    """A sky in three bands and a model that sees them together."""

    def __init__(self, folder: Path, cube: bool) -> None:
        rng = np.random.default_rng(5)
        x, y = rng.uniform(150, SIDE - 150, (2, N))
        x[-1], y[-1] = SIDE + 60, SIDE / 2  # on the image of r alone
        shape = (SIDE, SIDE + 150)
        images = []
        for k in range(3):
            image = noise(shape, k)
            for i in range(N):
                image += blob(shape, x[i], y[i], rng.uniform(2, 5), 10 ** rng.uniform(1, 3))
            images.append(image)
        wcs, self.images = sky_wcs(), folder / "images"
        self.images.mkdir(parents=True)
        for k, band in enumerate(BANDS):
            if not cube:
                told = {"FLUXMAG0": 10 ** (0.4 * 27.0), "FILTER": f"HSC-{band.upper()}"}
                seen = images[k] if band == "r" else images[k][:, :SIDE]
                name = self.images / f"calexp-HSC-{band.upper()}-0-0,0.fits"
                write_tile(name, seen, wcs, primary=told)
        if cube:
            planes = np.stack(images)
            planes[1:, :, SIDE:] = np.nan
            fits.PrimaryHDU(planes, wcs.to_header()).writeto(self.images / "cube.fits")
        ra, dec = wcs.all_pix2world(x, y, 0)
        self.catalog = folder / "galaxies.parquet"
        pq.write_table(pa.table({"object_id": np.arange(N), "ra": ra, "dec": dec}), self.catalog)
        self.model = folder / "colour.safetensors"
        torch.manual_seed(1)
        meta = {"band": "r", "bands": list(BANDS), "trained_on": {}, "metrics": {}}
        save_checkpoint(self.model, Gampen(COLOUR, 0.1), TARGETS, meta)
        self.survey = folder / "own.toml"
        profile = {**load_survey("hsc-wide").as_table(), "cube_bands": list(BANDS)}
        kept = {
            k: v for k, v in profile.items() if k not in ("skymap", "tree", "das", "cuts", "models")
        }
        self.survey.write_text(tomli_w.dumps(kept))

    def command(self, out: Path, *more: str) -> list[str]:
        """As :func:`smallrun.command`, without a band."""
        words = command(self.catalog, self.images, self.model, out, *more)
        at = words.index("--band")
        del words[at : at + 2]
        words[words.index("--survey") + 1] = str(self.survey)
        return words


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> ColourSky:
    return ColourSky(tmp_path_factory.mktemp("colours"), cube=False)


@pytest.mark.slow
def test_a_run_with_several_bands(sky: ColourSky, tmp_path: Path) -> None:
    out = tmp_path / "run"
    done = call(sky.command(out, "--partition-rows", "5", "--keep-samples"))
    assert done.returncode == 0, done.stderr
    assert "bands: r, g, i together; measured is r" in done.stdout
    table = rows(out)
    assert table.num_rows == N
    assert set(table["band"].to_pylist()) == {"r"}
    status = table["status"].to_numpy()
    assert (status[:-1] & int(Status.NO_IMAGE) == 0).all()
    assert status[-1] & int(Status.NO_IMAGE)
    assert table["status_note"].to_pylist()[-1] == "g: NO_IMAGE; i: NO_IMAGE"
    assert table["bt_p50"].to_pylist()[-1] is None
    assert table["bt_p50"].null_count == 1
    (group,) = [g for g in (out / "cutouts").glob("*.zarr") if 0 in open_cutouts(g).object_id]
    assert next(open_cutouts(group).chunks())[1].shape[1:] == (3, 239, 239)
    # What the engine says of the stored pixels is what stands there.
    store, where = open_cutouts(group), open_cutouts(group).object_id.tolist().index(0)
    ((_, pixels),) = store.chunks()
    engine = Engine(load_checkpoint(sky.model), passes=4, seed=0, precision="fp32", batch=N)
    key = id_key(pa.array([0]))
    bt = engine.draws(pixels[where : where + 1], key).physical[0, :, 0].numpy()
    assert np.median(bt) == pytest.approx(table["bt_p50"][0].as_py(), rel=1e-3)
    spec = tomllib.loads((out / "run.toml").read_text())
    assert spec["settings"]["channels"] == spec["parts"]["settings"]["channels"] == list(BANDS)
    assert spec["settings"]["band"] == "r"
    # Its cutouts can be trained on.
    labels = tmp_path / "labels.parquet"
    table = {"object_id": np.arange(N), "bt": np.full(N, 0.5), "r_e": np.ones(N)}
    pq.write_table(pa.table({**table, "flux": np.full(N, 1e4)}), labels)
    data = LabelledSet(out, labels)
    assert (len(data), data.unusable, data.bands) == (N - 1, 1, BANDS)
    assert np.shape(data.trained_on()["sky_sigma_njy"]) == (3, 2)
    batch = data.mix(np.arange(4), np.random.default_rng(0), shift=2)
    assert batch.image.shape == (4, 3, 239, 239)
    # The same again, with the whole list and with the reference, does nothing; another is refused.
    before = leaves(out)
    for asked in ("r,g,i", "r"):
        words = sky.command(out, "--partition-rows", "5", "--keep-samples", "--band", asked)
        assert call(words).returncode == 0
    assert leaves(out) == before
    assert verb("resume", out).returncode == 0
    assert leaves(out) == before
    refused = call(sky.command(tmp_path / "other", "--band", "g,r,i"))
    assert refused.returncode == 2
    assert "was trained on r, g, i together and measures r, not g, r, i" in refused.stderr
    assert verb("report", out, "--out", tmp_path / "page.html").returncode == 0


@pytest.mark.slow
def test_planes_of_a_cube_are_the_bands(sky: ColourSky, tmp_path: Path) -> None:
    """The same pixels in one file give the same draws."""
    cube = ColourSky(tmp_path / "cube", cube=True)
    found = []
    for one, out in ((sky, tmp_path / "tiles"), (cube, tmp_path / "planes")):
        done = call(one.command(out, "--partition-rows", "20"))
        assert done.returncode == 0, done.stderr
        found.append(rows(out).slice(0, N - 1))
    assert found[0].drop_columns(["ra", "dec"]).equals(found[1].drop_columns(["ra", "dec"]))


@pytest.mark.slow
def test_inspect_counts_what_all_bands_have(
    sky: ColourSky, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sky.command(tmp_path / "look")
    assert main(["inspect", *words[words.index("run") + 1 :]]) == 0
    said = json.loads((tmp_path / "look" / "inspect.json").read_text())
    assert (said["rows"], said["rows_with_image"]) == (N, N - 1)
    assert said["cost"]["cutout_bytes"] == (N - 1) * cutout_bytes(239, 3) == (N - 1) * 12 * 239**2
    assert (said["tiles"], said["tiles_touched"]) == (1, 1)
    assert said["settings"]["channels"] == list(BANDS)
    assert len(said["contact_sheet"]) == N - 1
    assert "r: " in capsys.readouterr().out


def test_a_profile_names_the_model(sky: ColourSky, tmp_path: Path) -> None:
    own = tmp_path / "own.toml"
    own.write_text(sky.survey.read_text() + f'\n[models]\nr = "{sky.model}"\n')
    base = {"catalog": str(sky.catalog), "images": str(sky.images), "survey": str(own)}
    settings = resolve({**base, "band": "r"})
    assert settings.model == str(sky.model)
    got = with_bands(settings, load_survey(settings.survey), load_checkpoint(settings.model))
    assert got.image_bands == BANDS


def test_a_missing_band_is_one_line(sky: ColourSky, tmp_path: Path) -> None:
    folder = tmp_path / "some"
    folder.mkdir()
    for name in ("calexp-HSC-R-0-0,0.fits", "calexp-HSC-G-0-0,0.fits"):
        (folder / name).symlink_to(sky.images / name)
    words = sky.command(tmp_path / "out", "--plan-only")
    words[words.index("--images") + 1] = str(folder)
    done = call(words)
    assert done.returncode == 2
    assert "band i" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
