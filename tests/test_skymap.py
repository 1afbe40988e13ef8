"""The rings sky map: every position in one tract and one patch, and where HSC's own files say."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from hypothesis import example, given, settings
from hypothesis import strategies as st

from survey_gampen.errors import InputError
from survey_gampen.images.pixels.grid import Grid
from survey_gampen.images.tiles.skymap import RingsSkymap

HSC = RingsSkymap()
RUBIN = RingsSkymap(pixel_scale=0.2, patch_inner=3000, patch_border=200, clipped=False)
SMALL = RingsSkymap(rings=7, pixel_scale=20.0, patch_inner=500, patch_border=30, ra_start=12.5)

maps = st.sampled_from(
    [HSC, RUBIN, SMALL, RingsSkymap(version=0), RingsSkymap(rings=3, pixel_scale=60.0)]
)
ras = st.floats(-720.0, 720.0)
# Uniform on the sphere, and its poles.
decs = st.one_of(
    st.floats(-1.0, 1.0).map(lambda z: float(np.degrees(np.arcsin(z)))),
    st.sampled_from([-90.0, 90.0, 0.0]),
)


def inside(skymap: RingsSkymap, tract: int, patch: tuple[int, int], ra: float, dec: float) -> bool:
    """Whether a position lies in the inner region of a patch, by astropy's projection."""
    x0, y0, nx, ny = skymap.bounds(patch)
    x, y = Grid(skymap.wcs(tract, patch), nx, ny).to_pixel(ra, dec)
    low = np.array(patch) * skymap.patch_inner - 0.5
    at = np.array([x + x0, y + y0])
    return bool(np.all((at >= low - 1e-6) & (at <= low + skymap.patch_inner + 1e-6)))


@settings(max_examples=300)
@example(RingsSkymap(), 0.0, 89.74376527084115)
@example(RingsSkymap(), 77.0, 89.5)
@example(RingsSkymap(), 77.0, -89.5)
@given(maps, ras, decs)
def test_a_position_lies_in_the_patch_that_is_found(skymap, ra, dec) -> None:
    # The numbering of before 2018 forgot the first tract of the last ring.
    if skymap.version == 0 and dec > 88.0:
        return
    tract, x, y = (int(v[0]) for v in skymap.find(ra, dec))
    assert inside(skymap, tract, (x, y), ra % 360.0, dec)
    assert tract in skymap.tracts_near(ra % 360.0, dec)


@settings(max_examples=100)
@given(maps, ras, decs, st.data())
def test_no_other_patch_of_its_tract_holds_it(skymap, ra, dec, data) -> None:
    if skymap.version == 0 and dec > 88.0:
        return
    tract, x, y = (int(v[0]) for v in skymap.find(ra, dec))
    px, py = skymap.to_pixel(tract, ra, dec)
    place = np.floor(np.array([px[0], py[0]]) + 0.5) // skymap.patch_inner
    assert tuple(place) == (x, y)


@settings(max_examples=200)
@given(maps, ras, decs)
def test_the_tract_found_is_the_nearest_of_its_ring(skymap, ra, dec) -> None:
    """The share of a tract: its ring's declinations, and the nearest centre along the ring."""
    tract = int(skymap.tract(ra, dec)[0])
    if tract in (0, len(skymap) - 1) or (skymap.version == 0 and dec > 88.0):
        return
    centre_ra, centre_dec = skymap.centre(tract)
    height = 180.0 / (skymap.rings + 1)
    assert abs(dec - centre_dec) <= 0.5 * height * (1 + 1e-9)
    same = [t for t in (tract - 1, tract + 1) if 0 < t < len(skymap) - 1]
    mine = abs((ra - centre_ra + 180.0) % 360.0 - 180.0)
    for other in same:
        other_ra, other_dec = skymap.centre(other)
        if abs(other_dec - centre_dec) < 1e-9:
            assert mine <= abs((ra - other_ra + 180.0) % 360.0 - 180.0) + 1e-9


def test_all_centres_lie_in_their_own_tracts() -> None:
    for skymap in (HSC, SMALL):
        numbers = np.arange(len(skymap))
        ra, dec = np.array([skymap.centre(n) for n in numbers]).T
        assert np.array_equal(skymap.tract(ra, dec), numbers)


def test_the_numbering_of_before_differs_where_right_ascension_begins() -> None:
    """LSST's ticket DM-14809: tract 9712 stood for the start of the ring before its own."""
    old = RingsSkymap(version=0)
    assert old.centre(9712) == pytest.approx((0.0, 0.7438016), abs=1e-6)
    assert HSC.centre(9712) == pytest.approx((0.0, 2.2314050), abs=1e-6)
    assert old.tract(0.0, 0.7438)[0] == 9712
    assert HSC.tract(0.0, 0.7438)[0] == 9469
    numbers = np.arange(300, 18600)
    same = np.array([old.centre(n) == HSC.centre(n) for n in numbers])
    assert np.array_equal(~same, np.isin(numbers, HSC._before))
    centres = np.array([old.centre(n) for n in numbers]).T
    assert np.array_equal(old.tract(*centres), numbers)


def test_facts_of_hsc() -> None:
    """Numbers published with the releases: the list of patches of DUD COSMOS (PDR2), and fields."""
    assert (HSC.patches, HSC.side, len(HSC)) == (9, 36000, 18938)
    assert int(HSC.tract(150.1, 2.2)[0]) == 9813  # COSMOS
    assert HSC.centre(9813) == pytest.approx((150.2479339, 2.2314050), abs=1e-6)
    _, _, nx, ny = HSC.bounds((0, 0))
    grid = Grid(HSC.wcs(9812, (0, 0)), nx, ny)
    ra, dec = grid.to_sky([1999.5, 0.0], [1999.5, 0.0])
    assert ra == pytest.approx([149.507118993, 149.600381219], abs=1e-8)
    assert dec == pytest.approx([1.48467782206, 1.39136228924], abs=1e-8)
    assert (HSC.bounds((0, 0))[2:], HSC.bounds((4, 4))[2:]) == ((4100, 4100), (4200, 4200))
    assert HSC.patch_number((3, 2)) == 21


def test_a_fact_of_rubin() -> None:
    """A blend in tract 5063, patch 5, of lsst_cells_v1: public scripts for lsst.multiprofit."""
    tract, x, y = (int(v[0]) for v in RUBIN.find(53.06700454971479, -28.221957930172174))
    assert (tract, RUBIN.patch_number((x, y))) == (5063, 5)
    assert (RUBIN.patches, RUBIN.bounds((0, 0))) == (10, (-200, -200, 3400, 3400))


def test_patches_of_a_tract_share_one_plane() -> None:
    tract = 9813
    first, second = (WCS(fits.Header.fromstring(HSC.wcs(tract, p))) for p in ((3, 4), (4, 4)))
    assert list(first.wcs.crpix - second.wcs.crpix) == [4000.0, 0.0]
    assert list(first.wcs.crval) == list(second.wcs.crval)
    assert first.wcs.crval == pytest.approx(HSC.centre(tract), abs=1e-10)
    bounds = HSC.bounds((3, 4))
    assert Grid(HSC.wcs(tract, (3, 4)), bounds.nx, bounds.ny).shares_projection(
        Grid(HSC.wcs(tract, (4, 4)), bounds.nx, bounds.ny)
    )


@given(ras, st.floats(-80.0, 80.0), st.floats(0.0, 0.05))
def test_tracts_near_are_those_with_pixels_there(ra, dec, radius) -> None:
    near = HSC.tracts_near(ra, dec, radius)
    assert near == sorted(near)
    for number in near:
        x, y = HSC.to_pixel(number, ra, dec)
        slack = radius * 3600.0 / HSC.pixel_scale + 0.5
        assert min(x[0], y[0]) >= -slack
        assert max(x[0], y[0]) <= HSC.side - 1 + slack


def test_positions_that_are_none() -> None:
    tract, x, y = HSC.find([np.nan, 10.0, 10.0], [0.0, np.inf, 91.0])
    assert list(tract) == list(x) == list(y) == [-1, -1, -1]


def test_what_is_not_there_is_refused() -> None:
    for bad in (-1, len(HSC)):
        with pytest.raises(IndexError, match="no tract"):
            HSC.centre(bad)
    with pytest.raises(IndexError, match="no patch 9,0"):
        HSC.wcs(9813, (9, 0))
    with pytest.raises(InputError, match="must be TAN"):
        RingsSkymap.from_table({"projection": "STG"}, "my.toml")
    with pytest.raises(InputError, match="above 0"):
        RingsSkymap.from_table({"rings": 0}, "my.toml")
    table = {"pixel_scale": 0.2, "patch_inner": 3000, "patch_border": 200}
    assert RingsSkymap.from_table({**table, "tract_builder": "cells"}, "my.toml") == RUBIN


@pytest.mark.parametrize(
    ("name", "tract"),
    [
        ("slug_cutout-HSC-R-9071-s18a_wide.fits", 9071),
        ("hscstars/10-cutout-HSC-I-8279-pdr2_wide.fits", 8279),
    ],
)
def test_real_cutouts_lie_in_their_tract(realdata: Path, name: str, tract: int) -> None:
    """CRVAL is the tract's centre, and CRPIX without the cutout's offset (LTV) the tract's own."""
    header = fits.getheader(realdata / "hsc" / name, 1)
    assert HSC.centre(tract) == pytest.approx((header["CRVAL1"], header["CRVAL2"]), abs=1e-12)
    offset = -header["LTV1"], -header["LTV2"]
    for axis, first in enumerate(offset, 1):
        assert header[f"CRPIX{axis}"] + first == HSC.middle + 1
    wcs = WCS(header)
    middle = header["NAXIS1"] / 2, header["NAXIS2"] / 2
    ra, dec = wcs.wcs_pix2world(*middle, 0)
    found, x, y = (int(v[0]) for v in HSC.find(ra, dec))
    assert found == tract
    assert (x, y) == tuple(
        int(first + half) // 4000 for first, half in zip(offset, middle, strict=True)
    )
    x0, y0, nx, ny = HSC.bounds((x, y))
    there = np.array(Grid(HSC.wcs(tract, (x, y)), nx, ny).to_pixel(ra, dec)).ravel()
    here = np.array(middle) + np.array(offset) - (x0, y0)
    assert there == pytest.approx(here, abs=1e-6)


def test_a_real_psf_lies_in_the_patch_of_its_name(realdata: Path) -> None:
    """Its file is of patch 4,4; the alternate WCS holds its place in the tract."""
    header = fits.getheader(realdata / "hsc" / "slug_psf-HSC-R-9071-s18a_wide.fits")
    x, y = (header[f"CRVAL{axis}A"] + header[f"NAXIS{axis}"] // 2 for axis in (1, 2))
    assert (x // 4000, y // 4000) == (4, 4)
    x0, y0, nx, ny = HSC.bounds((4, 4))
    ra, dec = Grid(HSC.wcs(9071, (4, 4)), nx, ny).to_sky(x - x0, y - y0)
    assert tuple(int(v[0]) for v in HSC.find(ra, dec)) == (9071, 4, 4)
