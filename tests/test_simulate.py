"""Simulations: resumable by block, the same whoever computes them, and true to what they say."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from astropy.io import fits
from astropy.wcs import WCS

from survey_gampen.errors import InputError
from survey_gampen.images.open import open_images
from survey_gampen.simulation import simulate, tiles
from survey_gampen.simulation.population import Population
from survey_gampen.survey import load_survey
from tests.smallsim import inline, small_population

ADU = Population.load("hsc-wide").unit  # in nJy

pytest.importorskip("galsim", exc_type=ImportError)

N = 18
SIZE = 63


@pytest.fixture
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of eight galaxies, computed here."""
    monkeypatch.setattr(simulate, "BLOCK", 8)
    monkeypatch.setattr(simulate, "compute", inline)
    monkeypatch.setattr(tiles, "compute", inline)


@pytest.fixture
def population(tmp_path: Path) -> str:
    return str(small_population(tmp_path, SIZE))


def pixels(out: Path, name: str = "image") -> np.ndarray:
    return np.asarray(zarr.open_group(str(out), mode="r")[name])


@pytest.mark.usefixtures("in_process")
@pytest.mark.parametrize("parts", [False, True])
def test_a_block_that_is_missing_comes_again_with_the_same_bits(
    tmp_path: Path, population: str, parts: bool
) -> None:
    out = tmp_path / "sim"
    arrays = simulate.PARTS if parts else ("image",)
    assert simulate.main(population, N, out, seed=1, parts=parts) == 0
    before, truth = [pixels(out, name) for name in arrays], simulate.read_truth(out)
    assert truth.num_rows == N
    assert truth["object_id"].to_pylist() == list(range(N))

    lost = sorted((out / "truth").iterdir())[1]
    lost.unlink()
    group = zarr.open_group(str(out), mode="r+")
    for name in arrays:
        group[name][8:16] = 0  # torn: the shard is not what it was
    with pytest.raises(InputError, match="lacks 1 blocks: run the same simulate command again"):
        simulate.read_truth(out)
    assert simulate.main(population, N, out, seed=1, parts=parts) == 0
    for name, whole in zip(arrays, before, strict=True):
        assert np.array_equal(pixels(out, name), whole)
        assert np.abs(whole).reshape(N, -1).max(1).min() > 0 or name == "neighbours"
    assert simulate.read_truth(out).equals(truth)
    assert not any((out / ".staging").iterdir())


@pytest.mark.usefixtures("in_process")
def test_galaxy_i_is_the_same_in_a_smaller_simulation(tmp_path: Path, population: str) -> None:
    simulate.main(population, N, tmp_path / "many")
    simulate.main(population, 3, tmp_path / "few")
    assert np.array_equal(pixels(tmp_path / "many")[:3], pixels(tmp_path / "few"))


@pytest.mark.usefixtures("in_process")
def test_other_settings_are_refused_and_nothing_is_lost(tmp_path: Path, population: str) -> None:
    out = tmp_path / "sim"
    simulate.main(population, 4, out)
    before = pixels(out)
    for changed in ({"seed": 1}, {"parts": True}):
        with pytest.raises(InputError, match="other settings: choose another --out"):
            simulate.main(population, 4, out, **changed)
    with pytest.raises(InputError, match="other settings"):
        simulate.main(population, 5, out)
    assert np.array_equal(pixels(out), before)


def test_a_folder_that_holds_other_things_is_left_alone(tmp_path: Path, population: str) -> None:
    out = tmp_path / "thesis"
    (out / "chapters").mkdir(parents=True)
    (out / "chapters" / "1.tex").write_text("everything")
    with pytest.raises(InputError, match="holds other things: choose another --out"):
        simulate.main(population, 4, out)
    assert (out / "chapters" / "1.tex").read_text() == "everything"
    zarr.open_group(str(tmp_path / "other"), mode="w")
    with pytest.raises(InputError, match="is no simulation of cutouts or parts"):
        simulate.main(population, 4, tmp_path / "other")
    with pytest.raises(InputError, match="at least one galaxy"):
        simulate.main(population, 0, tmp_path / "none")


@pytest.mark.usefixtures("in_process")
def test_noise_and_flux_are_those_of_the_truth(tmp_path: Path) -> None:
    population = small_population(
        tmp_path, magnitude=[17.0, 20.0], neighbours={"count": [0, 0]}, size=119
    )
    out = tmp_path / "sim"
    simulate.main(str(population), N, out)
    images, truth = pixels(out), simulate.read_truth(out)
    assert images.dtype == np.float32
    y, x = np.mgrid[:119, :119] - 59
    outside, inside = np.hypot(x, y) > 55, np.hypot(x, y) < 50
    for image, row in zip(images, truth.to_pylist(), strict=True):
        sky = image[outside]
        assert 1.4826 * np.median(np.abs(sky - np.median(sky))) == pytest.approx(
            row["sky_sigma"], rel=0.08
        )
        noise = row["sky_sigma"] * np.sqrt(inside.sum()) + 0.01 * row["flux"]
        # An exponential disk of 1" (6 px) has all but 1e-5 of its light in 50 px, the wings of a
        # Moffat PSF of beta 2.5 all but a few per cent.
        assert image[inside].sum() == pytest.approx(row["flux"], rel=0.03, abs=3 * noise)
        assert row["flux"] == pytest.approx(10 ** (0.4 * (31.4 - row["mag"])), rel=1e-3)


@pytest.mark.usefixtures("in_process")
def test_parts_add_up_to_the_galaxy(tmp_path: Path, population: str) -> None:
    from survey_gampen.simulation.render import FAST, Renderer

    out = tmp_path / "parts"
    simulate.main(population, 4, out, parts=True)
    chosen = simulate.Population.load(population)
    renderer = Renderer(chosen, folding=FAST)
    disk, bulge, around = (pixels(out, name).astype(np.float32) for name in simulate.PARTS)
    for i in range(4):
        galaxy = chosen.draw(0, i)
        mixed = (
            disk[i] * (galaxy.disk.flux / simulate.PARTS_FLUX)
            + bulge[i] * (galaxy.bulge.flux / simulate.PARTS_FLUX)
            + around[i]
        )
        whole = renderer.image(galaxy)
        sigma = galaxy.sky_sigma * np.sqrt(1 + np.maximum(whole, 0) / renderer.sky_level)
        assert np.abs(mixed - whole).max() < 2e-3 * whole.max()
        assert (np.abs(mixed - whole) / sigma).mean() < 0.02
        assert mixed.sum() == pytest.approx(whole.sum(), rel=2e-3)


def test_a_neighbour_is_the_same_wherever_the_cutout_ends() -> None:
    from survey_gampen.simulation.render import Renderer

    chosen = Population.load("hsc-wide")
    renderer = Renderer(chosen)
    galaxy = next(g for g in (chosen.draw(0, i) for i in range(99)) if g.neighbours)
    psf, half = renderer.psf(galaxy), 20
    for x, y in ((half, 0.0), (-half - 3.4, half + 0.7), (half + 400.0, 0.0)):
        neighbour = replace(galaxy.neighbours[0], half_light_radius=0.5, x=x, y=y)
        small, large = renderer.canvas(2 * half + 1, 2 * half + 1), renderer.canvas(301, 301)
        for canvas in (small, large):
            renderer.add(canvas, (neighbour,), psf, stamp=True)
        assert (small.array == large.array[130:171, 130:171]).all()
        assert large.array.any() == small.array.any() == (x < 400)


@pytest.mark.slow
def test_one_worker_or_two(tmp_path: Path, population: str) -> None:
    n = simulate.BLOCK + 2
    for workers in (1, 2):
        simulate.main(population, n, tmp_path / str(workers), parts=True, workers=workers)
    for name in simulate.PARTS:
        assert np.array_equal(pixels(tmp_path / "1", name), pixels(tmp_path / "2", name))
    assert simulate.read_truth(tmp_path / "1").equals(simulate.read_truth(tmp_path / "2"))


# --- tiles -----------------------------------------------------------------------------------


@pytest.fixture
def sky(tmp_path: Path, in_process: None) -> Path:
    population = small_population(
        tmp_path, SIZE, magnitude=[17.0, 19.0], neighbours={"count": [0, 0]}
    )
    out = tmp_path / "sky"
    assert tiles.main(str(population), 7, out, seed=5, per_tile=4) == 0
    return out


def test_tiles_put_each_galaxy_at_its_coordinates(sky: Path) -> None:
    truth = pq.read_table(sky / "truth.parquet").to_pylist()
    files = sorted((sky / "tiles").iterdir())
    assert len(truth) == 7
    assert [f.name for f in files] == [f"calexp-HSC-G-9000-0,{k}.fits.fz" for k in (0, 1)]
    for k, path in enumerate(files):
        with fits.open(path) as hdus:
            assert [h.header.get("EXTTYPE") for h in hdus[1:]] == ["IMAGE", "MASK", "VARIANCE"]
            assert hdus[0].header["FILTER"] == "g"
            image, mask, variance = (hdus[i].data for i in (1, 2, 3))
            wcs = WCS(hdus[1].header)
            detected = 1 << hdus[2].header["MP_DETECTED"]
        y, x = np.mgrid[: image.shape[0], : image.shape[1]]
        for row in truth[4 * k : 4 * k + 4]:
            px, py = wcs.all_world2pix(row["ra"], row["dec"], 0)
            near = np.hypot(x - px, y - py) < 12
            light = image * near
            assert (light * x).sum() / light.sum() == pytest.approx(px, abs=0.3)
            assert (light * y).sum() / light.sum() == pytest.approx(py, abs=0.3)
            assert light.sum() * ADU == pytest.approx(row["flux"], rel=0.2)
            assert mask[round(float(py)), round(float(px))] & detected
        pull = (image / np.sqrt(variance))[(mask & detected) == 0]
        assert 1.4826 * np.median(np.abs(pull - np.median(pull))) == pytest.approx(1, rel=0.1)


def test_tiles_are_read_by_the_images_room_without_an_edge(sky: Path) -> None:
    catalog = pq.read_table(sky / "catalog.parquet")
    assert catalog.column_names == ["object_id", "ra", "dec"]
    assert catalog.schema.metadata[b"survey_gampen"].decode().splitlines() == [
        'survey = "hsc-wide"',
        'band = "g"',
        'images = "tiles"',
    ]
    survey = load_survey("hsc-wide")
    source = open_images(sky / "tiles", survey, "g", survey.pixel_scale)
    truth = pq.read_table(sky / "truth.parquet")
    seen = 0
    y, x = np.mgrid[:SIZE, :SIZE] - SIZE // 2
    for batch in source.cutouts(catalog["ra"].to_numpy(), catalog["dec"].to_numpy(), SIZE):
        assert list(batch.status) == [0] * len(batch)
        assert batch.facts["zero_point"] == pytest.approx(27.0)
        for k, image in zip(batch.index, batch.image, strict=True):
            seen += 1
            light = image * (np.hypot(x, y) < 12)
            assert abs((light * x).sum() / light.sum()) < 0.8
            assert light.sum() == pytest.approx(truth["flux"][int(k)].as_py(), rel=0.2)
    assert seen == 7


def test_tiles_come_again_and_refuse_other_settings(sky: Path, tmp_path: Path) -> None:
    population = str(tmp_path / "small.toml")
    tile, truth = sky / "tiles" / "calexp-HSC-G-9000-0,1.fits.fz", sky / "truth.parquet"
    before = tile.read_bytes(), pq.read_table(truth)
    tile.unlink()
    (sky / "truth" / "part-000001.parquet").unlink()
    tiles.main(population, 7, sky, seed=5, per_tile=4)
    assert tile.read_bytes() == before[0]
    assert pq.read_table(truth).equals(before[1])
    for n, seed, per_tile in ((8, 5, 4), (7, 6, 4), (7, 5, 3)):
        with pytest.raises(InputError, match="other settings: choose another --out"):
            tiles.main(population, n, sky, seed=seed, per_tile=per_tile)
    with pytest.raises(InputError, match="at least one galaxy"):
        tiles.main(population, 0, tmp_path / "none")
