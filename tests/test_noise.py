"""Correlated noise: variance kept, correlation as asked for or as measured on a sky."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from astropy.io import fits
from scipy.ndimage import gaussian_filter

from survey_gampen.errors import InputError
from survey_gampen.simulation import noise
from survey_gampen.simulation.population import Population
from survey_gampen.simulation.skynoise import LAG, measure_sky, read_sky, write_sky
from survey_gampen.training.parts import _normals
from tests.smallsim import small_population

SIDE = 400


def correlation(field: np.ndarray, dy: int, dx: int) -> float:
    one, other = field[dy:, dx:], field[: field.shape[0] - dy, : field.shape[1] - dx]
    return float((one * other).mean())


@pytest.mark.parametrize("deviation", [0.3, 0.7, 2.0])
def test_smoothed_noise_keeps_its_variance_and_correlates_as_said(deviation: float) -> None:
    field = noise.smoothed((SIDE, SIDE), np.random.default_rng(1), deviation)
    assert field.shape == (SIDE, SIDE)
    assert field.dtype == np.float32
    # As many independent pixels as the kernel leaves.
    error = max(1.0, 4 * np.pi * deviation**2) ** 0.5 / SIDE
    assert field.var() == pytest.approx(1, abs=5 * error)
    for dy, dx in ((0, 1), (1, 0), (2, 1), (0, 4)):
        expected = np.exp(-(dy**2 + dx**2) / (4 * deviation**2))
        assert correlation(field, dy, dx) == pytest.approx(expected, abs=5 * error)
    # The borders are as noisy as the middle.
    assert np.concatenate([field[:3].ravel(), field[:, -3:].ravel()]).var() == pytest.approx(
        1, abs=0.35
    )


def test_on_a_device_as_in_files() -> None:
    seeds = np.arange(5, 38)
    images = _normals(torch.Size((33, 60, 50)), seeds, torch.device("cpu"), 0.7)
    assert float(images.var()) == pytest.approx(1, abs=0.03)
    found = float((images[:, 1:] * images[:, :-1]).mean())
    assert found == pytest.approx(np.exp(-1 / (4 * 0.7**2)), abs=0.03)
    # A rank's share begins with the block that begins there in the whole batch.
    share = _normals(torch.Size((17, 60, 50)), seeds[16:], torch.device("cpu"), 0.7)
    assert torch.equal(share, images[16:])


def test_white_noise_is_drawn_as_it_always_was() -> None:
    """Bit by bit: simulations, and trainings that go on, must not move."""
    image = np.linspace(-1, 30, 48, dtype=np.float32).reshape(6, 8)
    sigma = 0.05 * np.sqrt(1 + np.maximum(image, 0) / 2.8)
    plain = np.random.default_rng(6).standard_normal((6, 8), dtype=np.float32)
    found = noise.add_noise(image, 0.05, 2.8, np.random.default_rng(6), noise.field_of(0.0))
    assert np.array_equal(found, (image + sigma * plain).astype(np.float32))

    found = _normals(torch.Size((20, 6, 8)), np.arange(20), torch.device("cpu"), 0.0)
    for start in (0, 16):
        wanted = torch.empty(min(16, 20 - start), 6, 8)
        wanted.normal_(generator=torch.Generator().manual_seed(start))
        assert torch.equal(found[start : start + 16], wanted)


def test_the_light_s_noise_is_correlated_as_the_sky_s() -> None:
    light = np.full((SIDE, SIDE), 2.8, np.float32)
    rng = np.random.default_rng(2)
    found = noise.add_noise(light, 0.05, 2.8, rng, noise.field_of(1.0)) - light
    assert found.std() == pytest.approx(0.05 * np.sqrt(2), rel=0.03)
    assert correlation(found, 0, 1) / found.var() == pytest.approx(np.exp(-0.25), abs=0.04)


def test_bad_correlations_are_refused_and_old_files_do_without(tmp_path: Path) -> None:
    for value in (-0.1, 11.0):
        with pytest.raises(InputError, match="correlation must be 0 to 10 px"):
            Population.load(small_population(tmp_path, noise={"correlation": value}))
    path = small_population(tmp_path)
    path.write_text(path.read_text().replace("correlation = 0.0\n", ""))
    assert "correlation" not in path.read_text()
    assert Population.load(path).noise_correlation == 0
    assert Population.load(path).noise_field is noise.white


# --- a sky's own -------------------------------------------------------------------------------


def make_sky(path: Path, *, mask: bool, zero_point: float = 27.0, scale: float = 0.168) -> Path:
    """Noise of 0.05 ADU, smoothed more along x than along y, with bright sources on a grid."""
    rng = np.random.default_rng(3)
    wide = rng.standard_normal((300, 300))
    image = gaussian_filter(wide, (0.7, 0.9), mode="wrap")
    image *= 0.05 / image.std()
    image += 0.3  # a sky level
    sources = np.zeros_like(image)
    sources[30::60, 30::60] = 1.0
    sources = gaussian_filter(sources, 3.0) * 400
    header = fits.Header({"FLUXMAG0": 10 ** (0.4 * zero_point), "CRVAL1": 150.0, "CRVAL2": 2.0})
    header.update({"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN"})
    header.update({"CDELT1": -scale / 3600, "CDELT2": scale / 3600})
    hdus = [fits.PrimaryHDU(), fits.ImageHDU((image + sources).astype(np.float32), header)]
    hdus[1].header["EXTTYPE"] = "IMAGE"
    if mask:
        plane = fits.ImageHDU(np.where(sources > 0.01, 32, 0).astype(np.int32))
        plane.header.update({"EXTTYPE": "MASK", "HIERARCH MP_DETECTED": 5})
        hdus.append(plane)
    fits.HDUList(hdus).writeto(path, overwrite=True)
    return path


@pytest.mark.parametrize("mask", [True, False])
def test_a_sky_with_sources_tells_its_noise_and_correlation(tmp_path: Path, mask: bool) -> None:
    (piece,) = measure_sky([make_sky(tmp_path / "sky.fits", mask=mask)], 27.0, 0.168)
    assert piece.sigma == pytest.approx(0.05, rel=0.03)
    across, up = (np.exp(-1 / (4 * s**2)) for s in (0.9, 0.7))
    middle = piece.field.correlation[LAG:, LAG:]
    assert middle[0, 0] == 1
    assert middle[0, 1] == pytest.approx(across, abs=0.05)
    assert middle[1, 0] == pytest.approx(up, abs=0.06)
    assert np.abs(middle[6:, 6:]).max() < 0.05
    field = piece.field((SIDE, SIDE), np.random.default_rng(4))
    assert field.shape == (SIDE, SIDE)
    assert field.std() == pytest.approx(1, abs=0.02)
    for dy, dx in ((0, 1), (1, 0), (1, 1), (0, 3)):
        assert correlation(field, dy, dx) == pytest.approx(middle[dy, dx], abs=0.03)
    # Opposite borders know nothing of each other.
    assert abs((field[:, 0] * field[:, -1]).mean()) < 0.2


def test_what_was_measured_is_kept(tmp_path: Path) -> None:
    pieces = measure_sky([make_sky(tmp_path / "sky.fits", mask=True)], 27.0, 0.168)
    write_sky(tmp_path / "sky.parquet", pieces)
    (read,) = read_sky(tmp_path / "sky.parquet")
    assert read.file == str(tmp_path / "sky.fits")
    assert (read.y, read.x, read.sigma) == (0, 0, pieces[0].sigma)
    assert np.array_equal(read.field.correlation, pieces[0].field.correlation)


def test_units_are_the_population_s(tmp_path: Path) -> None:
    path = make_sky(tmp_path / "sky.fits", mask=True, zero_point=29.5)
    (piece,) = measure_sky([path], 27.0, 0.168)
    assert piece.sigma == pytest.approx(0.005, rel=0.03)


def test_skies_that_tell_nothing_are_refused(tmp_path: Path) -> None:
    (tmp_path / "no.fits").write_text("nothing")
    for path, reason in (
        (tmp_path / "none.fits", "none.fits cannot be read as a FITS image"),
        (tmp_path / "no.fits", "no.fits cannot be read as a FITS image"),
        (make_sky(tmp_path / "big.fits", mask=True, scale=0.2), "pixels of 0.2 arcsec"),
    ):
        with pytest.raises(InputError, match=reason):
            measure_sky([path], 27.0, 0.168)
    fits.writeto(tmp_path / "flat.fits", np.zeros((300, 300), np.float32))
    with pytest.raises(InputError, match="4096 empty pixels: leave it out"):
        measure_sky([tmp_path / "flat.fits"], 27.0, 0.168)
    fits.writeto(tmp_path / "small.fits", np.ones((20, 20), np.float32))
    with pytest.raises(InputError, match="leave it out"):
        measure_sky([tmp_path / "small.fits"], 27.0, 0.168)


def test_the_sky_of_a_real_coadd(realdata: Path) -> None:
    path = realdata / "hsc" / "slug_cutout-HSC-R-9071-s18a_wide.fits"
    pieces = measure_sky([path], 27.0, 0.168)
    assert len(pieces) == 4
    with fits.open(path) as hdus:
        expected = float(np.sqrt(np.median(hdus[3].data)))
    for piece in pieces:
        # The variance plane knows nothing of the covariance, nor of sources too faint to detect.
        assert piece.sigma == pytest.approx(expected, rel=0.2)
        middle = piece.field.correlation[LAG:, LAG:]
        assert 0.03 < middle[0, 1] < 0.2
        assert 0.03 < middle[1, 0] < 0.2
