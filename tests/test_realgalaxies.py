"""Real galaxies as light, and skies as noise: what the truth says is what is in the images."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import zarr
from astropy.io import fits
from astropy.table import Table

from survey_gampen.errors import InputError
from survey_gampen.simulation import simulate, tiles
from survey_gampen.simulation.population import Population, half_light_radius
from tests.smallsim import inline, small_population
from tests.test_noise import make_sky

galsim = pytest.importorskip("galsim", exc_type=ImportError)
realgalaxies = pytest.importorskip("survey_gampen.simulation.realgalaxies", exc_type=ImportError)

SIZE, SCALE = 63, 0.03
#: B/T, half-light radius of disk and bulge [arcsec], axis ratio, angle of the galaxies below.
GALAXIES = ((0.0, 0.18, 0.05, 0.6, 30.0), (0.5, 0.24, 0.1, 0.8, 120.0), (0.2, 0.2, 0.08, 0.9, 0.0))


def make_catalog(folder: Path) -> Path:
    """Three parametric galaxies and one of noise alone, as HST would have seen them."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    psf = galsim.Moffat(beta=4.0, fwhm=0.1)
    params = galsim.GSParams(maximum_fft_size=8192)
    stamps, sigma = [], 5e-5
    for bt, disk, bulge, q, angle in GALAXIES:
        light = galsim.Exponential(half_light_radius=disk, flux=1 - bt)
        light += galsim.DeVaucouleurs(half_light_radius=bulge, flux=bt)
        light = light.shear(q=q, beta=angle * galsim.degrees).shift(0.02, -0.03)
        seen = galsim.Convolve(light, psf, gsparams=params)
        stamps.append(seen.drawImage(nx=64, ny=60, scale=SCALE, method="no_pixel").array)
    stamps.append(np.zeros((60, 64), np.float32))
    planes = [s + sigma * rng.standard_normal(s.shape).astype(np.float32) for s in stamps]
    seen = psf.drawImage(nx=41, ny=41, scale=SCALE, method="no_pixel").array
    for name, images in (("images.fits", planes), ("psfs.fits", [seen] * 4)):
        hdus = [fits.PrimaryHDU(images[0]), *map(fits.ImageHDU, images[1:])]
        fits.HDUList(hdus).writeto(folder / name)
    n = len(planes)
    table = Table(
        {
            "IDENT": 100 + np.arange(n),
            "MAG": np.full(n, 22.0),
            "BAND": ["F814W"] * n,
            "WEIGHT": np.ones(n),
            "GAL_FILENAME": ["images.fits"] * n,
            "PSF_FILENAME": ["psfs.fits"] * n,
            "GAL_HDU": np.arange(n),
            "PSF_HDU": np.arange(n),
            "PIXEL_SCALE": np.full(n, SCALE),
            "NOISE_MEAN": np.zeros(n),
            "NOISE_VARIANCE": np.full(n, sigma**2),
        }
    )
    table.write(folder / "catalog.fits")
    return folder / "catalog.fits"


@pytest.fixture(autouse=True)
def in_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(simulate, "compute", inline)
    monkeypatch.setattr(tiles, "compute", inline)


@pytest.fixture(scope="module")
def catalog(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_catalog(tmp_path_factory.mktemp("real") / "hst")


@pytest.fixture(scope="module")
def simulated(catalog: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """Six real galaxies in cutouts under a measured sky."""
    folder = tmp_path_factory.mktemp("simulated")
    changes: dict[str, Any] = {"magnitude": [19.0, 20.0], "neighbours": {"count": [0, 0]}}
    population = str(small_population(folder, SIZE, **changes))
    sky = make_sky(folder / "sky.fits", mask=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "compute", inline)
        simulate.main(population, 6, folder / "six", seed=2, sky=(sky,), real_galaxies=catalog)
    return population, folder


def images(out: Path) -> np.ndarray:
    return np.asarray(zarr.open_group(str(out), mode="r")["image"])


def test_the_fit_finds_what_was_put_in(simulated: tuple[str, Path]) -> None:
    rows = pq.read_table(realgalaxies.block_file(simulated[1] / "six", 0)).to_pylist()
    assert [row["identity"] for row in rows] == [100, 101, 102, 103]
    for row, (bt, disk, bulge, q, angle) in zip(rows, GALAXIES, strict=False):
        (r_e,) = half_light_radius([[1], [4]], [[disk], [bulge]], [[q], [q]], np.array([bt]))
        assert row["bt"] == pytest.approx(bt, abs=0.06)
        # The stamp ends where some of a bulge's wings are still to come.
        assert r_e * (0.97 - 0.15 * bt) < row["r_e"] < 1.03 * r_e
        assert (row["x"], row["y"]) == pytest.approx((0.02, -0.03), abs=0.005)
        assert row["disk_axis_ratio"] == pytest.approx(q, abs=0.06)
        assert abs((row["disk_angle"] - angle + 90) % 180 - 90) < 12 or q > 0.85
        assert row["psf_fwhm"] == pytest.approx(0.1, rel=0.15)
    # Noise alone has no signal: it is not used.
    assert not (rows[3].get("signal_to_noise") or 0) > realgalaxies.ENOUGH_SIGNAL


def test_images_hold_what_the_truth_says(simulated: tuple[str, Path]) -> None:
    """The rendered image is that of the disk and bulge that the truth tells."""
    from survey_gampen.simulation.ingredients import Ingredients
    from survey_gampen.simulation.render import EXACT

    out = simulated[1] / "six"
    truth = simulate.read_truth(out).to_pylist()
    made_of = Ingredients(out, simulate.read_settings(out), EXACT)
    assert {row["real_id"] for row in truth} <= {100, 101, 102}
    for row in truth:
        galaxy = made_of.draw(row["object_id"])
        plain = made_of.population.draw(2, row["object_id"])
        assert (galaxy.flux, galaxy.magnitude, galaxy.moffat_fwhm) == (
            plain.flux, plain.magnitude, plain.moffat_fwhm
        )  # fmt: skip
        assert row["r_e"] == galaxy.r_e <= plain.r_e * (1 + 1e-9)
        assert row["real_factor"] <= row["psf_fwhm"] / 0.08
        assert row["sky_piece"] == 0
        assert row["sky_sigma"] == pytest.approx(0.05 * made_of.population.unit, rel=0.03)
        real = made_of.renderer.image(galaxy)
        assert real.sum() == pytest.approx(galaxy.flux, rel=0.05)
        fitted = made_of.renderer.canvas()
        psf = made_of.renderer.psf(galaxy)
        made_of.renderer.add(fitted, galaxy.components, psf)
        assert np.abs(real - fitted.array).max() < 0.08 * real.max()
        assert np.abs(real - fitted.array).sum() < 0.15 * real.sum()


def test_galaxy_i_is_the_same_in_a_smaller_simulation(
    simulated: tuple[str, Path], catalog: Path
) -> None:
    population, folder = simulated
    sky = (folder / "sky.fits",)
    simulate.main(population, 2, folder / "two", seed=2, sky=sky, real_galaxies=catalog)
    assert np.array_equal(images(folder / "two"), images(folder / "six")[:2])
    one, other = (simulate.read_truth(folder / name) for name in ("two", "six"))
    assert one.equals(other.slice(0, 2))
    with pytest.raises(InputError, match="other settings"):
        simulate.main(population, 2, folder / "two", seed=2, sky=sky)


def test_on_tiles(simulated: tuple[str, Path], catalog: Path) -> None:
    population, folder = simulated
    out = folder / "tiles"
    sky = (folder / "sky.fits",)
    tiles.main(population, 2, out, seed=2, sky=sky, real_galaxies=catalog, per_tile=2)
    truth = pq.read_table(out / "truth.parquet")
    assert {"object_id", "ra", "dec", "bt", "r_e", "flux", "real_id"} <= set(truth.column_names)
    (path,) = (out / "tiles").iterdir()
    with fits.open(path) as hdus:
        image, empty = hdus[1].data, hdus[2].data == 0
    both = empty[:, 1:] & empty[:, :-1]
    found = (image[:, 1:] * image[:, :-1])[both].mean() / image[empty].var()
    assert found == pytest.approx(np.exp(-1 / (4 * 0.9**2)), abs=0.08)


def test_draws_of_the_shipped_populations_have_not_moved() -> None:
    """Hashes computed before there was any of these options."""
    for name, wanted in (
        ("hsc-wide", "4ff35c94f6c4dd299b506b9b379589597aeccb9242e295f6863da37a92a03d6a"),
        ("paper-2021", "c7a4e9c1cd8add9d58237f3ad2081a372d67267de8478de853eea83f2c395069"),
    ):
        drawn = [Population.load(name).draw(7, i, 3) for i in range(20)]
        lines = [
            f"{g.magnitude:.9g} {g.bt:.9g} {g.r_e:.6g} {g.disk.x:.9g}"
            f" {g.disk.half_light_radius:.9g} {g.bulge.position_angle:.9g} {g.moffat_fwhm:.9g}"
            f" {g.psf_index} {g.psf_turn} {g.sky_sigma:.9g} {[p.x for p in g.neighbours]}"
            for g in drawn
        ]
        assert hashlib.sha256("\n".join(lines).encode()).hexdigest() == wanted


def test_bad_inputs_are_told_before_anything_is_written(tmp_path: Path, catalog: Path) -> None:
    population = str(small_population(tmp_path, SIZE))
    (tmp_path / "empty").mkdir()
    fits.writeto(tmp_path / "image.fits", np.zeros((4, 4)))
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "catalog.fits").write_bytes(catalog.read_bytes())
    for given, reason in (
        ({"real_galaxies": tmp_path / "none.fits"}, "none.fits is no catalogue of real galaxies"),
        ({"real_galaxies": tmp_path / "image.fits"}, "image.fits is no catalogue of real galaxies"),
        ({"real_galaxies": tmp_path / "empty"}, "must hold one catalogue of real galaxies"),
        ({"real_galaxies": tmp_path / "alone"}, "names images.fits, which is not beside it"),
        ({"sky": (tmp_path / "none.fits",)}, "none.fits cannot be read"),
        ({"psfs": (tmp_path / "none.fits",)}, "none.fits cannot be read"),
        ({"real_galaxies": catalog, "parts": True}, "real galaxies no parts"),
    ):
        with pytest.raises(InputError, match=reason):
            simulate.main(population, 2, tmp_path / "out", **given)
    assert realgalaxies.find_catalog(catalog.parent) == catalog.resolve()
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_real_galaxies_of_cosmos(realdata: Path, tmp_path: Path) -> None:
    folder = realdata / "cosmos"
    path = realgalaxies.find_catalog(folder)
    stamps = realgalaxies._open(str(path))
    for number in (8, 37):
        row = realgalaxies._measure(stamps, number)
        assert row["problem"] is None
        assert row["signal_to_noise"] > realgalaxies.ENOUGH_SIGNAL
        assert 0.05 < row["r_e"] < 1.5
        assert row["chi2"] < 3
