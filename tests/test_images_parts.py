"""Planes, units, the replacement rule, the change of scale."""

from __future__ import annotations

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from skytiles import blob

from survey_gampen.images import MEANINGS, NULL_BITS, Status, names
from survey_gampen.images.pixels.planes import (
    find_groups,
    mask_planes,
    njy_per_unit,
    plane_bits,
    short_band,
    unit_of,
)
from survey_gampen.images.pixels.repair import fill, repair, sky
from survey_gampen.images.pixels.resample import needed_pixels, resample
from survey_gampen.images.pixels.tile import DETECTED, NO_DATA, Box


def test_status_is_the_contract() -> None:
    assert [bit.name for bit in Status] == [
        "NO_IMAGE", "NO_DATA", "EDGE", "BAD_PIXELS", "SATURATED", "BRIGHT_NEIGHBOUR",
        "BAD_CUTOUT", "OUT_OF_DISTRIBUTION", "OUT_OF_RANGE", "NONFINITE",
    ]  # fmt: skip
    assert [int(bit) for bit in Status] == [1 << k for k in range(10)]
    assert names(NULL_BITS) == ["NO_IMAGE", "NO_DATA", "BAD_CUTOUT", "NONFINITE"]
    assert set(MEANINGS) == set(Status)


@pytest.mark.parametrize(
    ("cards", "zero_point", "card"),
    [
        ({"FLUXMAG0": 63095734448.0194}, 27.0, "FLUXMAG0"),
        ({"MAGZERO": 22.5}, 22.5, "MAGZERO"),
        ({"PHOTZP": 30.0, "BUNIT": "DN"}, 30.0, "PHOTZP"),
        ({"BUNIT": "nJy"}, 31.4, "BUNIT"),
        ({"BUNIT": "uJy"}, 23.9, "BUNIT"),
        ({"BUNIT": "nanomaggies"}, 22.5, "BUNIT"),
        ({"BUNIT": "MJy/sr"}, 31.4 - 2.5 * np.log10(1e15 * 0.04 / 206264.806**2), "BUNIT"),
    ],
)
def test_zero_points(cards, zero_point, card) -> None:
    found = unit_of(fits.Header(cards), fits.Header(), pixel_arcsec2=0.04)
    assert found is not None
    assert found[0] == pytest.approx(zero_point, abs=1e-4)
    assert found[1] == card
    assert unit_of(fits.Header(), fits.Header(cards), pixel_arcsec2=0.04) == found


@pytest.mark.parametrize("cards", [{}, {"BUNIT": "DNs"}, {"FLUXMAG0": 0.0}, {"ZP": "none"}])
def test_no_zero_point(cards) -> None:
    assert unit_of(fits.Header(cards), fits.Header()) is None


def test_adu_of_hsc_in_njy() -> None:
    assert njy_per_unit(27.0) == pytest.approx(57.544, abs=1e-3)


def test_bands_have_one_spelling() -> None:
    spelled = ["HSC-G", "g", "R2", "HSC-I2", "lsst_z", "NB0387", "r_03", "y"]
    assert [short_band(b) for b in spelled] == ["g", "g", "r", "i", "z", "nb0387", "r", "y"]
    assert short_band(" ") == ""


def test_mask_planes_of_both_kinds_of_card() -> None:
    header = fits.Header()
    header["MP_SAT"] = 1
    header["HIERARCH MP_BRIGHT_OBJECT"] = 9
    header["MPHASE"] = 3
    planes = mask_planes(header)
    assert planes == {"SAT": 1, "BRIGHT_OBJECT": 9}
    assert plane_bits(planes, ["SAT", "bright_object", "NOT_THERE"]) == 0b1000000010


def test_several_images_in_one_file() -> None:
    """As the Legacy Surveys' cutout service writes them: image and weight of each band."""
    hdus = fits.HDUList([fits.PrimaryHDU()])
    for band in "gr":
        for kind in ("image", "invvar"):
            hdu = fits.ImageHDU(np.zeros((5, 6), np.float32))
            hdu.header.update({"IMAGETYP": kind, "BAND": band})
            hdus.append(hdu)
    groups = find_groups(hdus)
    assert [(g.image, g.invvar, g.band) for g in groups] == [(1, 2, "g"), (3, 4, "r")]


def test_small_holes_are_bridged_and_large_ones_become_sky() -> None:
    image = blob((61, 61), 30, 30, 6.0, 1000.0)
    replaced = np.zeros(image.shape, bool)
    replaced[30, 32] = True
    replaced[:, :12] = True
    spoilt = np.where(replaced, np.nan, image).astype(np.float32)
    out = fill(spoilt, replaced, level=0.25)
    assert out[30, 32] == pytest.approx(image[30, 32], rel=0.1)
    assert (out[:, :10] == np.float32(0.25)).all()
    assert np.array_equal(out[~replaced], image[~replaced])


def test_padding_takes_the_local_sky_and_not_the_galaxy() -> None:
    rng = np.random.default_rng(0)
    image = (3.0 + rng.normal(0, 0.5, (101, 101))).astype(np.float32)
    image += blob(image.shape, 50, 50, 8.0, 1e5)
    flags = np.zeros(image.shape, np.uint8)
    flags[:, 90:] = NO_DATA
    flags[:20, :20] = DETECTED
    image[:20, :20] += 50.0
    done = repair(Box(np.where(flags == NO_DATA, 0, image).astype(np.float32), flags), (0.2, 0.2))
    assert done.sky_level == pytest.approx(3.0, abs=0.1)
    assert done.sky_sigma == pytest.approx(0.5, abs=0.05)
    assert done.image[50, 96] == pytest.approx(3.0, abs=0.1)


def clipped(values: np.ndarray) -> tuple[float, float]:
    """Median and scaled deviation, clipped five times at 3 sigma, as one writes it down."""
    for _ in range(5):
        level = np.median(values)
        sigma = 1.4826 * np.median(np.abs(values - level))
        kept = values[np.abs(values - level) <= 3.0 * sigma] if sigma > 0 else values
        if kept.size == values.size:
            break
        values = kept
    return float(level), float(sigma)


@pytest.mark.parametrize("step", [0.0, 0.5])  # many equal values, too
@pytest.mark.parametrize("side", [21, 60])
def test_sky_is_the_clipped_median_of_the_rim(side, step) -> None:
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image = rng.normal(0.1, 1.0, (side, side)).astype(np.float32)
        image[rng.random(image.shape) < 0.1] += 20.0
        image = np.round(image / step).astype(np.float32) * np.float32(step) if step else image
        valid, detected = rng.random(image.shape) < 0.9, rng.random(image.shape) < 0.1
        rim = np.ones(image.shape, bool)
        rim[side // 10 : -(side // 10), side // 10 : -(side // 10)] = False
        assert sky(image, valid, detected) == clipped(image[rim & valid & ~detected])


def test_bridges_are_medians_of_the_valid_pixels_around() -> None:
    rng = np.random.default_rng(0)
    image = rng.normal(size=(31, 31)).astype(np.float32)
    replaced = rng.random(image.shape) < 0.6
    out = fill(image, replaced, level=7.0)
    known = np.pad(np.where(replaced, np.nan, image), 2, constant_values=np.nan)
    for y, x in np.argwhere(replaced):
        around = known[y : y + 5, x : x + 5]
        around = around[np.isfinite(around)]
        assert out[y, x] == (np.float32(np.median(around)) if around.size >= 8 else 7.0)
    assert np.array_equal(out[~replaced], image[~replaced])


def test_sky_without_pixels_is_unknown() -> None:
    nothing = np.zeros((5, 5), bool)
    assert np.isnan(sky(np.zeros((5, 5), np.float32), nothing, nothing)).all()


@settings(max_examples=40)
@given(st.floats(0.4, 3.0), st.floats(-0.5, 0.5), st.floats(-0.5, 0.5), st.integers(15, 30))
def test_resampling_conserves_flux(ratio, dx, dy, half) -> None:
    """All of a source inside the box stays in the box, at its place."""
    size = 2 * half + 1
    n = needed_pixels(size, ratio)
    assert n % 2 == 1
    assert n >= size * ratio + 1 - 1e-6
    centre = (n // 2 + dx, n // 2 + dy)
    image = blob((n, n), *centre, sigma=max(1.2, n / 14.0), flux=1000.0).astype(np.float64)
    new = resample(image, centre, (ratio, ratio), size)
    assert new.shape == (size, size)
    assert new.sum() == pytest.approx(1000.0, rel=1e-3)
    y, x = np.mgrid[:size, :size]
    assert (new * x).sum() / new.sum() == pytest.approx(half, abs=0.02)
    assert (new * y).sum() / new.sum() == pytest.approx(half, abs=0.02)


@settings(max_examples=20)
@given(st.integers(0, 1000), st.floats(0.5, 2.0))
def test_resampling_sums_exactly_over_what_it_covers(seed, ratio) -> None:
    """Noise too: whole old pixels under the new box are all counted, none twice."""
    image = np.random.default_rng(seed).normal(size=(41, 41))
    size = 2
    # edges of the new box on edges of old pixels
    side = 2 * 8
    new = resample(image, (19.5, 19.5), (side / size, side / size), size)
    old = image[12:28, 12:28].reshape(2, 8, 2, 8).sum(axis=(1, 3))
    assert np.allclose(new, old, atol=1e-4)
