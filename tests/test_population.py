"""Galaxies are drawn as the population says, and the label R_e is what it claims to be."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tomli_w
from hypothesis import given, settings
from hypothesis import strategies as st

from survey_gampen.errors import InputError
from survey_gampen.simulation.noise import add_noise
from survey_gampen.simulation.population import (
    SERSIC_STEP,
    Galaxy,
    Population,
    Profile,
    half_light_radius,
)

HSC_WIDE = Population.load("hsc-wide")


@pytest.fixture(scope="module")
def galaxies() -> list[Galaxy]:
    return [HSC_WIDE.draw(3, i, n_given_psfs=5) for i in range(1000)]


def radius_of(*profiles: tuple[float, float, float], bt: float) -> float:
    """R_e of a disk and a bulge, each (n, radius, axis ratio)."""
    n, r, q = (np.array(column)[:, None] for column in zip(*profiles, strict=True))
    return half_light_radius(n, r, q, np.array([bt])).item()


# --- drawing ---------------------------------------------------------------------------------


def test_a_galaxy_does_not_depend_on_its_company() -> None:
    alone = HSC_WIDE.draw(7, 123)
    amid = [HSC_WIDE.draw(7, i) for i in range(120, 126)]
    assert amid[3] == alone
    assert len({g.flux for g in amid}) == 6
    assert HSC_WIDE.draw(8, 123).flux != alone.flux


def test_a_galaxy_is_the_same_in_all_versions() -> None:
    """Training and test sets come again from their seeds: a change here is a new method."""
    galaxy = HSC_WIDE.draw(0, 0)
    assert (galaxy.bt, galaxy.flux, galaxy.r_e) == (
        pytest.approx(0.11142585551493822),
        pytest.approx(57949.5924894165),
        pytest.approx(4.69104, rel=1e-4),
    )


def test_given_psfs_do_not_change_the_galaxy(galaxies: list[Galaxy]) -> None:
    for galaxy in galaxies[:50]:
        plain = HSC_WIDE.draw(3, galaxy.index)
        assert (plain.disk, plain.bulge) == (galaxy.disk, galaxy.bulge)
        assert (plain.neighbours, plain.sky_sigma) == (galaxy.neighbours, galaxy.sky_sigma)
        assert plain.psf_index == -1


def test_shares_of_the_kinds(galaxies: list[Galaxy]) -> None:
    bt = np.array([g.bt for g in galaxies])
    disks, bulges = (bt == 0).mean(), (bt == 1).mean()
    error = 4 * math.sqrt(0.125 * 0.875 / len(bt))
    assert disks == pytest.approx(0.125, abs=error)
    assert bulges == pytest.approx(0.125, abs=error)
    mixed = np.sort(bt[(bt > 0) & (bt < 1)])
    assert len(mixed) == len(bt) - (bt == 0).sum() - (bt == 1).sum()
    # Kolmogorov-Smirnov against the uniform distribution, at a level of 1e-4.
    steps = np.abs(mixed - (np.arange(len(mixed)) + 0.5) / len(mixed)).max()
    assert steps < 2.23 / math.sqrt(len(mixed))
    assert [len(g.components) for g in galaxies] == list(1 + ((bt > 0) & (bt < 1)))


def test_everything_lies_in_its_range(galaxies: list[Galaxy]) -> None:
    def inside(values: list[float], low: float, high: float) -> None:
        """All within the range, and the range filled."""
        width = high - low
        assert low <= min(values) < low + 0.02 * width
        assert high - 0.02 * width < max(values) <= high

    inside([g.magnitude for g in galaxies], 15, 23)
    inside([g.sky_sigma for g in galaxies], 0.03, 0.08)
    inside([g.moffat_fwhm for g in galaxies if g.psf_index < 0], 0.45, 1.0)
    inside([g.disk.x for g in galaxies], -0.5, 0.5)
    inside([g.disk.half_light_radius for g in galaxies], 0.1, 5.0)
    inside([g.bulge.half_light_radius for g in galaxies], 0.1, 3.0)
    inside([g.disk.axis_ratio for g in galaxies], 0.25, 1)
    inside([g.disk.position_angle for g in galaxies], 0, 180)
    inside([g.bulge.position_angle - g.disk.position_angle for g in galaxies], -15, 15)
    inside([p.x for g in galaxies for p in g.neighbours], -119.5, 119.5)
    magnitudes = [27 - 2.5 * math.log10(p.flux) for g in galaxies for p in g.neighbours]
    inside(magnitudes, 17, 25)
    for side, low, high in (("disk", 0.8, 1.2), ("bulge", 3.5, 5.0)):
        indices = np.array([getattr(g, side).sersic_n for g in galaxies])
        assert (indices.min(), indices.max()) == (low, high)
        steps = indices / SERSIC_STEP
        assert np.abs(steps - steps.round()).max() < 1e-6
    counts = np.bincount([len(g.neighbours) for g in galaxies], minlength=5) / len(galaxies)
    assert counts == pytest.approx(np.full(5, 0.2), abs=0.05)
    assert all((g.bulge.x, g.bulge.y) == (g.disk.x, g.disk.y) for g in galaxies)


def test_light_adds_up(galaxies: list[Galaxy]) -> None:
    for g in galaxies[:100]:
        assert g.disk.flux + g.bulge.flux == pytest.approx(g.flux)
        assert g.bulge.flux == pytest.approx(g.bt * g.flux)
        assert 27 - 2.5 * math.log10(g.flux) == pytest.approx(g.magnitude)


def test_given_psfs_get_their_share(galaxies: list[Galaxy]) -> None:
    given_one = [g for g in galaxies if g.psf_index >= 0]
    assert len(given_one) / len(galaxies) == pytest.approx(0.2, abs=0.05)
    assert {g.psf_index for g in given_one} == set(range(5))
    assert {g.psf_turn for g in given_one} == set(range(4))
    assert all(math.isnan(g.moffat_fwhm) for g in given_one)


def test_what_is_wrong_with_a_population(tmp_path) -> None:
    with pytest.raises(InputError, match="no population 'hsc-wise': .*hsc-wide"):
        Population.load("hsc-wise")
    (tmp_path / "bad.toml").write_text("magnitude = [")
    with pytest.raises(InputError, match="not valid TOML"):
        Population.load(tmp_path / "bad.toml")
    table = Population.load("hsc-wide").table
    (tmp_path / "own.toml").write_text(tomli_w.dumps(table | {"psf": {"fwhm": [0.5, 0.6]}}))
    with pytest.raises(InputError, match=r"own.toml \[psf\]: lacks moffat_beta"):
        Population.load(tmp_path / "own.toml")
    (tmp_path / "own.toml").write_text(tomli_w.dumps(table | {"magnitude": [15.0]}))
    with pytest.raises(InputError, match="magnitude must be like"):
        Population.load(tmp_path / "own.toml")
    with pytest.raises(InputError, match="population 'bare' lacks the key 'magnitude'"):
        Population({"name": "bare"}).draw(0, 0)


# --- the half-light radius -------------------------------------------------------------------


@given(
    st.floats(0.5, 6),
    st.floats(0.05, 10),
    st.floats(0, 1),
)
@settings(max_examples=30)
def test_of_round_profiles_of_one_kind(n: float, radius: float, bt: float) -> None:
    assert radius_of((n, radius, 1.0), (n, radius, 1.0), bt=bt) == pytest.approx(radius, rel=2e-4)


@given(st.floats(0, 1), st.floats(0.1, 5), st.floats(0.1, 3))
@settings(max_examples=30)
def test_lies_between_those_of_the_parts(bt: float, disk: float, bulge: float) -> None:
    found = radius_of((1.0, disk, 1.0), (4.0, bulge, 1.0), bt=bt)
    assert min(disk, bulge) * (1 - 3e-4) <= found <= max(disk, bulge) * (1 + 3e-4)


def test_of_an_elliptical_gaussian() -> None:
    """n = 0.5 is a Gaussian; in polar coordinates its light within R has one integral left."""
    q, radius = 0.4, 2.0
    sigma = radius / math.sqrt(2 * math.log(2))
    a, b = sigma / math.sqrt(q), sigma * math.sqrt(q)
    found = radius_of((0.5, radius, q), (4.0, 1.0, 1.0), bt=0.0)
    x = (np.arange(2000) + 0.5) / 1000 - 1
    y = x[:, None]
    inside = x**2 + y**2 < 1
    density = np.exp(-0.5 * found**2 * (x**2 / a**2 + y**2 / b**2)) * inside
    share = density.sum() * found**2 * 1e-6 / (2 * math.pi * a * b)
    assert share == pytest.approx(0.5, abs=1e-3)


@pytest.mark.parametrize(
    ("disk", "bulge", "bt"),
    [
        ((1.0, 3.0, 0.3), (4.0, 0.6, 0.8), 0.45),
        ((0.8, 0.5, 0.25), (5.0, 2.5, 0.5), 0.7),
        ((1.2, 4.0, 0.9), (3.5, 1.0, 1.0), 0.0),
    ],
)
def test_against_photons(
    disk: tuple[float, float, float], bulge: tuple[float, float, float], bt: float
) -> None:
    """Photons shot from the profiles as GalSim has them: half of them fall inside."""
    galsim = pytest.importorskip("galsim")
    found = radius_of(disk, bulge, bt=bt)
    n_photons = 100_000
    inside = 0.0
    for k, ((n, r, q), share) in enumerate(((disk, 1 - bt), (bulge, bt))):
        profile = galsim.Sersic(n, half_light_radius=r).shear(q=q, beta=(30 + k) * galsim.degrees)
        photons = profile.shoot(n_photons, galsim.BaseDeviate(k + 1))
        flux = photons.flux[np.hypot(photons.x, photons.y) < found].sum()
        inside += share * flux / photons.flux.sum()
    assert inside == pytest.approx(0.5, abs=0.008)


# --- rendering -------------------------------------------------------------------------------


def plain(**changes: object) -> Galaxy:
    """A round disk in the middle of an empty frame."""
    light = Profile(1.0, 1.0, 1e4, 1.0, 0.0)
    settings = {
        "index": 0,
        "bt": 0.0,
        "r_e": 1.0,
        "flux": 1e4,
        "magnitude": 17.0,
        "disk": light,
        "bulge": Profile(4.0, 1.0, 0.0, 1.0, 0.0),
        "neighbours": (),
        "moffat_fwhm": 0.6,
        "moffat_beta": 3.0,
        "psf_index": -1,
        "psf_turn": 0,
        "sky_sigma": 0.05,
    }
    return Galaxy(**(settings | changes))


def test_rendering_puts_the_light_where_and_as_much_as_it_should() -> None:
    render = pytest.importorskip("survey_gampen.simulation.render")
    renderer = render.Renderer(HSC_WIDE)
    image = renderer.image(plain(disk=Profile(1.0, 1.0, 1e4, 1.0, 0.0, x=3.25, y=-8.5)))
    assert image.sum() == pytest.approx(1e4, rel=0.01)
    pixel = np.arange(239) - 119
    assert (image.sum(0) * pixel).sum() / image.sum() == pytest.approx(3.25, abs=0.02)
    assert (image.sum(1) * pixel).sum() / image.sum() == pytest.approx(-8.5, abs=0.02)


def test_the_psf_has_its_width() -> None:
    """A source far smaller than a pixel, deconvolved of nothing, is the PSF."""
    render = pytest.importorskip("survey_gampen.simulation.render")
    renderer = render.Renderer(HSC_WIDE)
    psf = renderer.psf(plain(moffat_fwhm=0.85, moffat_beta=2.7))
    assert psf.calculateFWHM() == pytest.approx(0.85, rel=1e-3)
    assert psf.flux == pytest.approx(1)
    wide, narrow = (
        renderer.image(plain(moffat_fwhm=fwhm, disk=Profile(1.0, 0.02, 1e4, 1.0, 0.0))).max()
        for fwhm in (1.0, 0.5)
    )
    assert 3 < narrow / wide < 4.2  # surface brightness goes as 1 / FWHM^2, less in finite pixels


def test_given_psfs_are_read_and_turned(tmp_path) -> None:
    render = pytest.importorskip("survey_gampen.simulation.render")
    from astropy.io import fits

    stamp = np.zeros((2, 41, 41))
    stamp[:, 20, 20], stamp[0, 20, 26], stamp[1, 26, 20] = 2.0, 1.0, 1.0
    fits.writeto(tmp_path / "psf.fits", stamp)
    psfs = render.load_psfs([tmp_path / "psf.fits"], 0.168)
    assert len(psfs) == 2
    renderer = render.Renderer(HSC_WIDE, psfs)
    point = Profile(1.0, 0.1, 1e4, 1.0, 0.0)
    first, turned, second = (
        renderer.image(plain(psf_index=k, psf_turn=turn, disk=point))
        for k, turn in ((0, 0), (0, 1), (1, 0))
    )
    pixel = np.arange(239) - 119
    assert (first.sum(0) * pixel).sum() / first.sum() == pytest.approx(2, abs=0.05)
    assert np.abs(turned - second).max() < 0.02 * first.max()
    assert first.sum() == pytest.approx(1e4, rel=0.01)
    (tmp_path / "no.fits").write_text("nothing")
    with pytest.raises(InputError, match="no.fits cannot be read"):
        render.load_psfs([tmp_path / "no.fits"], 0.168)


def test_noise_is_that_of_sky_and_light() -> None:
    rng = np.random.default_rng(0)
    for level, expected in ((0.0, 0.05), (2.8, 0.05 * math.sqrt(2)), (28.0, 0.05 * math.sqrt(11))):
        image = np.full((300, 300), level, np.float32)
        noise = add_noise(image, 0.05, 2.8, rng) - image
        assert noise.std() == pytest.approx(expected, rel=0.01)
        assert noise.mean() == pytest.approx(0, abs=4 * expected / 300)
