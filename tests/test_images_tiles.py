"""Tiles: the right pixels, from the right tile, flagged as the contract says."""

from __future__ import annotations

import gzip
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from hypothesis import given, settings
from hypothesis import strategies as st
from skytiles import PLANES, SCALE, SURVEY, blob, crop, gather, noise, sky_wcs, write_tile

from survey_gampen.errors import InputError, OutsideFault, UnreadableFile
from survey_gampen.images import Status, open_images
from survey_gampen.images.pixels.planes import njy_per_unit
from survey_gampen.images.tiles import footprints

NJY = njy_per_unit(27.0)
SIZE = 41
SIDE, STEP = 160, 120  # tiles of 160 pixels that overlap by 40, as HSC's do by 100
MOSAIC = noise((STEP + SIDE, STEP + SIDE))


@pytest.fixture(scope="module")
def patches(tmp_path_factory) -> Path:
    """Four overlapping patches of one tract, named as HSC names them."""
    folder = tmp_path_factory.mktemp("patches")
    for i, name in enumerate(("0,0", "0%2C1", "1,0", "1,1")):
        y0, x0 = STEP * (i // 2), STEP * (i % 2)
        write_tile(
            folder / "9813" / f"calexp-HSC-G-9813-{name}.fits",
            MOSAIC[y0 : y0 + SIDE, x0 : x0 + SIDE],
            sky_wcs(x0, y0),
            mask=np.zeros((SIDE, SIDE)),
        )
    return folder


def place(x, y):
    """Sky position of a pixel of the mosaic."""
    ra, dec = sky_wcs().wcs_pix2world(x, y, 0)
    return np.atleast_1d(ra), np.atleast_1d(dec)


inside = st.floats(SIZE // 2, STEP + SIDE - 1 - SIZE // 2)


@settings(max_examples=40)
@given(st.lists(st.tuples(inside, inside), min_size=1, max_size=12))
def test_a_cutout_is_the_crop_of_the_mosaic(patches, points) -> None:
    x, y = np.array(points).T
    source = open_images(patches, SURVEY, "g", SCALE, patches.parent / "cache")
    image, status, _, replaced = gather(source, *place(x, y), SIZE)
    assert (status == 0).all()
    assert not replaced.any()
    for got, px, py in zip(image, x, y, strict=True):
        near = {int(np.floor(v + s)) for v in (px,) for s in (0.4999, 0.5001)}
        rows = {int(np.floor(py + s)) for s in (0.4999, 0.5001)}
        wanted = [crop(MOSAIC, i, j, SIZE) * NJY for i in near for j in rows]
        assert any(np.allclose(got, one, rtol=1e-6, atol=0) for one in wanted)
    source.close()


@settings(max_examples=25)
@given(st.lists(st.tuples(st.floats(-30, 310), st.floats(-30, 310)), min_size=1, max_size=8))
def test_every_place_is_the_mosaic_or_flagged(patches, points) -> None:
    x, y = np.array(points).T
    source = open_images(patches, SURVEY, "g", SCALE, patches.parent / "cache")
    image, status, _, replaced = gather(source, *place(x, y), SIZE)
    padded = np.pad(MOSAIC, 100, constant_values=np.nan)
    for k in range(len(x)):
        if status[k] & Status.NO_IMAGE:
            edge = STEP + SIDE - 0.5
            assert min(x[k], y[k]) < -0.49 or max(x[k], y[k]) > edge - 0.01
            assert not image[k].any()
            continue
        i, j = (int(np.floor(v + 0.5)) for v in (x[k], y[k]))
        truth = crop(padded, i + 100, j + 100, SIZE) * NJY
        assert bool(status[k] & Status.EDGE) == bool(np.isnan(truth).any())
        assert np.array_equal(replaced[k], np.isnan(truth))
        assert np.allclose(image[k][~replaced[k]], truth[~replaced[k]], rtol=1e-6)
        assert bool(status[k] & Status.NO_DATA) == (
            replaced[k].mean() > 0.5 or replaced[k][disc(SIZE)].any()
        )
    source.close()


def disc(size: int) -> np.ndarray:
    y, x = np.mgrid[:size, :size] - size // 2
    return np.hypot(x, y) * SCALE <= 2.5


def test_pixels_do_not_depend_on_the_request(patches) -> None:
    rng = np.random.default_rng(1)
    ra, dec = place(*rng.uniform(-5, 285, (2, 150)))
    source = open_images(patches, SURVEY, "g", SCALE)
    image, status, _, _ = gather(source, ra, dec, SIZE)
    order = rng.permutation(150)
    for part in np.array_split(order, 7):
        again, flags, _, _ = gather(source, ra[part], dec[part], SIZE)
        assert np.array_equal(again, image[part])
        assert np.array_equal(flags, status[part])
    assert max(len(batch) for batch in source.cutouts(ra, dec, SIZE)) <= 64


def test_a_tile_is_opened_once_for_its_group(patches, monkeypatch) -> None:
    from survey_gampen.images.tiles import source as tiles

    opened = []
    real = tiles.Tile
    monkeypatch.setattr(
        tiles, "Tile", lambda path, *a, **k: opened.append(path) or real(path, *a, **k)
    )
    source = open_images(patches, SURVEY, "g", SCALE)
    gather(source, *place(*np.random.default_rng(0).uniform(0, 270, (2, 200))), SIZE)
    assert len(opened) == 4


def test_deepest_tile_wins(patches) -> None:
    source = open_images(patches, SURVEY, "g", SCALE)
    names = source.footprints()["tile"].to_pylist()
    home, _, _ = source.assign(*place([125.0, 155.0, 10.0], [60.0, 60.0, 10.0]))
    assert [names[k][-8:] for k in home] == ["0,0.fits", "2C1.fits", "0,0.fits"]


@pytest.mark.parametrize("names", ["EXTTYPE", "EXTNAME", None])
def test_status_bits(tmp_path, names) -> None:
    planes = {"BAD": 3, "SAT": 0, "NO_DATA": 11, "BRIGHT_OBJECT": 17, "DETECTED": 5}
    image, mask = noise((60, 500)), np.zeros((60, 500), np.int32)
    centres = np.arange(30, 500, 60)
    image[30, 30] = np.nan  # a NaN core
    image[30, 90 + 18] = np.nan  # a NaN at the side
    mask[30 + 4, 150] |= 1 << 0  # saturated, 0.7 arcsec off
    mask[30 + 18, 210] |= 1 << 0  # saturated, 3 arcsec off
    mask[30 + 18, 270 + 18] |= 1 << 17
    mask[30, 330 + 3] |= 1 << 3  # one bad pixel near the core
    mask[30, 390] |= 1 << 3  # the very core is bad
    mask[:30, 430:470] |= 1 << 11  # more than half the box never observed
    mask[30:33, 430:470] |= 1 << 11
    write_tile(tmp_path / "t.fits", image, sky_wcs(), mask=mask, names=names, planes=planes)
    source = open_images(tmp_path, SURVEY, "g", SCALE)
    _, status, note, replaced = gather(source, *place(centres, 30.0), SIZE)
    assert [Status(s) for s in status] == [
        Status.NO_DATA | Status.BAD_PIXELS,
        Status.BAD_PIXELS,
        Status.SATURATED,
        Status(0),
        Status.BRIGHT_NEIGHBOUR,
        Status.BAD_PIXELS,
        Status.NO_DATA | Status.BAD_PIXELS,
        Status.NO_DATA | Status.BAD_PIXELS,
    ]
    assert note == [None] * 8
    assert replaced.reshape(8, -1).sum(1).tolist()[:7] == [1, 1, 0, 0, 0, 1, 1]


@pytest.mark.parametrize("compress", [False, True])
def test_the_highest_plane_of_a_mask(tmp_path, compress) -> None:
    """Its bit is the sign of the numbers that masks are stored as."""
    mask = np.zeros((60, 60), np.int32)
    mask[28, 30] = np.iinfo(np.int32).min
    mask[33, 31] = 1 << 4
    planes = {**PLANES, "BAD": 31}
    write_tile(
        tmp_path / "t.fits", noise((60, 60)), sky_wcs(), mask=mask, planes=planes, compress=compress
    )
    _, status, _, replaced = gather(open_images(tmp_path, SURVEY, "g"), *place(30.0, 30.0), SIZE)
    assert status.tolist() == [Status.BAD_PIXELS]
    assert np.argwhere(replaced[0]).tolist() == [[SIZE // 2 - 2, SIZE // 2]]


def test_constant_image_is_a_bad_cutout(tmp_path) -> None:
    write_tile(tmp_path / "t.fits", np.zeros((80, 80), np.float32), sky_wcs())
    source = open_images(tmp_path, SURVEY, None, SCALE)
    _, status, note, _ = gather(source, *place(40.0, 40.0), SIZE)
    assert status.tolist() == [Status.BAD_CUTOUT]
    assert "same value" in note[0]


def test_hole_in_a_tile_comes_from_its_neighbour(tmp_path) -> None:
    """The deepest tile has no data on one side; the overlap of the other has."""
    mask = np.zeros((SIDE, SIDE), np.int32)
    mask[:, 130:] = 1 << PLANES["NO_DATA"]
    write_tile(tmp_path / "a.fits", MOSAIC[:SIDE, :SIDE], sky_wcs(), mask=mask)
    other = {**PLANES, "NO_DATA": 2}  # the same plane, another bit
    right = MOSAIC[:SIDE, STEP : STEP + SIDE]
    write_tile(tmp_path / "b.fits", right, sky_wcs(STEP), mask=mask[:, ::-1] * 0, planes=other)
    source = open_images(tmp_path, SURVEY, "g", SCALE)
    image, status, _, _ = gather(source, *place(120.0, 80.0), SIZE)
    assert status.tolist() == [0]
    assert np.allclose(image[0], crop(MOSAIC, 120, 80, SIZE) * NJY, rtol=1e-6)


def test_many_boxes_of_a_compressed_tile(tmp_path) -> None:
    """Read block by block or from the whole plane: the same pixels."""
    image = noise((90, 90))
    write_tile(tmp_path / "t.fits.fz", image, sky_wcs(), mask=np.zeros((90, 90)), compress=True)
    source = open_images(tmp_path, SURVEY, "g", SCALE)
    x = np.arange(25, 65)
    got, status, _, _ = gather(source, *place(x, 40.0), SIZE)
    assert not status.any()
    for pixels, i in zip(got, x, strict=True):
        assert np.allclose(pixels, crop(image, i, 40, SIZE) * NJY, rtol=1e-6)


@pytest.mark.parametrize("angle", [0.0, 30.0])
def test_neighbour_on_another_grid_is_resampled(tmp_path, angle) -> None:
    """A galaxy whose outskirts lie on the next tract: shape and flux are those of the sky."""
    shape = (120, 120)
    x, y = 112.0, 60.0
    write_tile(tmp_path / "a.fits", blob(shape, x, y, 4.0, 100.0), sky_wcs())
    finer = 0.8 * SCALE
    wcs = sky_wcs(scale=finer, angle=angle)
    ra, dec = place(x, y)
    there = wcs.wcs_world2pix(ra, dec, 0)
    shift = [float(there[0][0]) - 75.3, float(there[1][0]) - 80.6]
    wcs.wcs.crpix -= shift
    write_tile(tmp_path / "b.fits", blob((161, 151), 75.3, 80.6, 5.0, 100.0), wcs)
    source = open_images(tmp_path, SURVEY, "g", SCALE)
    home = source.assign(ra, dec)[0]
    pixels, status, _, _ = gather(source, ra, dec, SIZE)
    truth = blob((SIZE, SIZE), SIZE // 2, SIZE // 2, 4.0, 100.0) * NJY
    if source.footprints()["tile"][int(home[0])].as_py() == "a.fits":
        assert status.tolist() == [0]
    assert pixels[0].sum() == pytest.approx(100.0 * NJY, rel=2e-3)
    assert np.abs(pixels[0] - truth).max() < 0.03 * truth.max()


@pytest.mark.parametrize("kind", ["fz", "gz", "primary", "cube"])
def test_other_kinds_of_file(tmp_path, kind) -> None:
    from astropy.io import fits

    image = noise((100, 120))
    header = sky_wcs().to_header()
    mask = np.zeros(image.shape, np.int32)
    mask[50, 60 + 18] = 1 << PLANES["BRIGHT_OBJECT"]
    if kind == "fz":
        write_tile(tmp_path / "t.fits.fz", image, sky_wcs(), mask=mask, compress=True)
    elif kind == "gz":
        plain = write_tile(tmp_path / "t.fits", image, sky_wcs(), mask=mask)
        (tmp_path / "t.fits.gz").write_bytes(gzip.compress(plain.read_bytes(), 1))
        plain.unlink()
    else:
        data = image if kind == "primary" else image[None]
        fits.PrimaryHDU(data, header).writeto(tmp_path / "t.fits")
    source = open_images(tmp_path, SURVEY, "g", SCALE)
    got, status, _, _ = gather(source, *place(60.2, 49.9), SIZE)
    assert np.allclose(got[0], crop(image, 60, 50, SIZE) * NJY, rtol=1e-6)
    masked = kind in ("fz", "gz")
    assert status.tolist() == [Status.BRIGHT_NEIGHBOUR if masked else 0]


def test_rotated_tile_of_the_same_scale_is_not_touched(tmp_path) -> None:
    image = noise((100, 100))
    wcs = sky_wcs(angle=37.0)
    write_tile(tmp_path / "t.fits", image, wcs)
    source = open_images(tmp_path, SURVEY, "g", SCALE)
    got, status, _, _ = gather(source, *wcs.wcs_pix2world([50.3], [49.6], 0), SIZE)
    assert status.tolist() == [0]
    assert np.allclose(got[0], crop(image, 50, 50, SIZE) * NJY, rtol=1e-6)


def test_variance(tmp_path) -> None:
    mask = np.zeros((60, 60))
    write_tile(tmp_path / "t.fits", noise((60, 60)), sky_wcs(), mask=mask, variance=True)
    source = open_images(tmp_path, SURVEY, "g", SCALE, variance=True)
    (batch,) = source.cutouts(*place(5.0, 30.0), SIZE)
    assert np.isnan(batch.variance[0][:, :10]).all()
    assert np.allclose(batch.variance[0][:, 20:], 0.0025 * NJY**2)
    assert batch.sky_sigma[0] == pytest.approx(0.05 * NJY, rel=0.1)
    assert batch.facts["zero_point"] == pytest.approx(27.0)
    assert batch.facts["band"] == "g"


def test_truncated_file_stops_only_its_own_galaxies(tmp_path) -> None:
    good = write_tile(tmp_path / "a.fits", noise((100, 100)), sky_wcs())
    broken = write_tile(tmp_path / "b.fits", noise((100, 100)), sky_wcs(2000.0))
    broken.write_bytes(broken.read_bytes()[: good.stat().st_size // 2])
    source = open_images(tmp_path, SURVEY, "g", SCALE)
    _, status, _, _ = gather(source, *place([50.0, 9000.0], [50.0, 50.0]), SIZE)
    assert status.tolist() == [0, Status.NO_IMAGE]
    with pytest.raises(UnreadableFile, match=r"b\.fits: cannot be read"):
        gather(source, *place(2050.0, 50.0), SIZE)


@pytest.mark.parametrize("suffix", [".fits", ".fits.fz", ".fits.gz"])
@pytest.mark.parametrize("share", np.linspace(0.03, 0.93, 10).round(2))
def test_no_cut_off_file_gives_pixels(tmp_path, suffix, share) -> None:
    """Wherever a file ends too early: told at the start, or an error; never a missing mask."""
    path, image = tmp_path / "t.fits", noise((90, 90))
    mask = np.random.default_rng(0).integers(0, 2, image.shape) << PLANES["BRIGHT_OBJECT"]
    write_tile(path, image, sky_wcs(), mask=mask, compress=suffix == ".fits.fz")
    content = path.read_bytes()
    path.unlink()
    content = gzip.compress(content, 1) if suffix == ".fits.gz" else content
    (tmp_path / f"t{suffix}").write_bytes(content[: int(len(content) * share)])
    write_tile(tmp_path / "good.fits", noise((60, 60)), sky_wcs(-5000.0))
    source = open_images(tmp_path, SURVEY, "g", SCALE)
    if source.warnings:  # not even its place on the sky could be read
        return
    try:
        got, status, _, _ = gather(source, *place(45.0, 65.0), SIZE)
    except UnreadableFile:
        return
    assert share > 0.9  # only padding is gone
    assert status.tolist() == [Status.BRIGHT_NEIGHBOUR]
    assert np.allclose(got[0], crop(image, 45, 65, SIZE) * NJY, rtol=1e-6)


def test_unreadable_header_is_told_and_counted(tmp_path) -> None:
    write_tile(tmp_path / "a.fits", noise((60, 60)), sky_wcs())
    whole = open_images(tmp_path, SURVEY, "g", SCALE).inventory()
    (tmp_path / "b.fits").write_bytes(b"no FITS at all" * 1000)
    (tmp_path / "c.fits").write_bytes(b"")
    source = open_images(tmp_path, SURVEY, "g", SCALE, tmp_path / "cache")
    assert sorted(line.split(":")[0][-6:] for line in source.warnings) == ["b.fits", "c.fits"]
    assert "2 files unreadable" in source.describe()
    assert source.inventory() != whole
    assert gather(source, *place(30.0, 30.0), SIZE)[1].tolist() == [0]
    # Nobody knows whether a galaxy on no other image lies on one of them.
    with pytest.raises(UnreadableFile, match=r"b\.fits and 1 more: cannot be read, and 1 galaxies"):
        gather(source, *place([30.0, 9000.0], [30.0, 30.0]), SIZE)


@pytest.mark.parametrize("folder_too", [False, True])
def test_a_lost_mount_stops_the_run(tmp_path, folder_too) -> None:
    """Its mount point may stay behind, empty."""
    path = write_tile(tmp_path / "im" / "a.fits", noise((60, 60)), sky_wcs())
    source = open_images(tmp_path / "im", SURVEY, "g", SCALE)
    path.unlink()
    if folder_too:
        path.parent.rmdir()
    with pytest.raises(OutsideFault, match=r"a\.fits is gone: put it back, or mount .*im again"):
        gather(source, *place(30.0, 30.0), SIZE)


def test_index_is_made_once(tmp_path, monkeypatch) -> None:
    path = write_tile(tmp_path / "im" / "a.fits", noise((60, 60)), sky_wcs())
    first = open_images(tmp_path / "im", SURVEY, "g", SCALE, tmp_path / "cache")
    scanned = []
    real = footprints.scan
    monkeypatch.setattr(footprints, "scan", lambda r, f: scanned.append(f.path) or real(r, f))
    again = open_images(tmp_path / "im", SURVEY, "g", SCALE, tmp_path / "cache")
    assert scanned == []
    assert again.tiles.index.equals(first.tiles.index)
    path.unlink()
    write_tile(path, noise((60, 70)), sky_wcs())
    write_tile(tmp_path / "im" / "b.fits", noise((60, 60)), sky_wcs(500))
    frozen = open_images(tmp_path / "im", SURVEY, "g", SCALE, tmp_path / "cache", frozen=True)
    assert scanned == []
    assert frozen.inventory() == first.inventory()
    assert frozen.tiles.index.equals(first.tiles.index)
    later = open_images(tmp_path / "im", SURVEY, "g", SCALE, tmp_path / "cache")
    assert sorted(scanned) == ["a.fits", "b.fits"]
    assert later.inventory() != first.inventory()
    for cached in (tmp_path / "cache").iterdir():
        cached.write_bytes(b"broken")
    assert open_images(tmp_path / "im", SURVEY, "g", SCALE, tmp_path / "cache").tiles.index.equals(
        later.tiles.index
    )


def test_bands(tmp_path) -> None:
    for band in ("HSC-G", "HSC-R2"):
        cards = {"FILTER": band, "FLUXMAG0": 1e10}
        write_tile(tmp_path / f"{band}.fits", noise((60, 60)), sky_wcs(), primary=cards)
    source = open_images(tmp_path, SURVEY, "r", SCALE)
    assert source.footprints()["tile"].to_pylist() == ["HSC-R2.fits"]
    with pytest.raises(InputError, match="no image in band z; there is g, r"):
        open_images(tmp_path, SURVEY, "z", SCALE)


def test_what_cannot_be_used_is_named(tmp_path) -> None:
    from dataclasses import replace

    with pytest.raises(InputError, match="no such file or folder"):
        open_images(tmp_path / "nowhere", SURVEY)
    with pytest.raises(InputError, match="no FITS files"):
        open_images(tmp_path, SURVEY)
    with pytest.raises(InputError, match="images are taken from https:// and s3:// addresses"):
        open_images("ftp://example.org/images", SURVEY)
    write_tile(tmp_path / "t.fits", noise((60, 60)), sky_wcs(), primary={})
    with pytest.raises(InputError, match="no zero point"):
        open_images(tmp_path, replace(SURVEY, zero_point=None))


def test_a_glob_and_a_list(patches) -> None:
    some = open_images(str(patches / "9813" / "*-1,*.fits"), SURVEY)
    assert len(some.footprints()) == 2
    names = sorted(str(path) for path in (patches / "9813").iterdir())
    assert len(open_images(names[:3], SURVEY).footprints()) == 3


def test_coarser_survey_is_resampled(tmp_path) -> None:
    """0.2 arcsec to 0.168: the galaxy in the middle, its flux and width kept."""
    wcs = sky_wcs(scale=0.2)
    image = blob((120, 120), 60.3, 59.8, 4.0, 1000.0)
    write_tile(tmp_path / "t.fits", image, wcs)
    source = open_images(tmp_path, SURVEY, "g", SCALE)
    got, status, _, _ = gather(source, *wcs.wcs_pix2world([60.3], [59.8], 0), 61)
    truth = blob((61, 61), 30, 30, 4.0 * 0.2 / SCALE, 1000.0) * NJY
    assert status.tolist() == [0]
    assert got[0].sum() == pytest.approx(truth.sum(), rel=1e-4)
    assert np.abs(got[0] - truth).max() < 0.01 * truth.max()


@pytest.mark.parametrize("spelled", ["i", "HSC-I"])
def test_the_plane_of_a_cube_is_that_of_its_band(tmp_path: Path, spelled: str) -> None:
    cube = np.stack([noise((80, 80), seed) for seed in range(3)])
    fits.PrimaryHDU(cube, sky_wcs().to_header()).writeto(tmp_path / "cube.fits")
    survey = replace(SURVEY, cube_bands=("g", "r", spelled))
    image, status, *_ = gather(open_images(tmp_path, survey, "i", SCALE), *place(40, 40), SIZE)
    assert status.tolist() == [0]
    np.testing.assert_allclose(image[0], crop(cube[2], 40, 40, SIZE) * NJY, rtol=1e-6)
    with pytest.raises(InputError, match="a cube whose bands nobody tells"):
        open_images(tmp_path, SURVEY, "i", SCALE)
