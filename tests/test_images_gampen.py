"""GaMPEN's own layout: one FITS file a galaxy."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from skytiles import SCALE, SURVEY, gather, noise, sky_wcs

from survey_gampen.errors import InputError
from survey_gampen.images import ImageSource, Status, open_images
from survey_gampen.images.pixels.planes import njy_per_unit

SIZE = 41
IMAGE = noise((61, 61))
MIDDLE = IMAGE[10:51, 10:51] * njy_per_unit(27.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    cutouts = tmp_path / "cutouts"
    cutouts.mkdir()
    fits.writeto(cutouts / "11.fits", IMAGE)
    fits.writeto(cutouts / "12.fits", IMAGE[25:, :])
    fits.writeto(cutouts / "13.fits", noise((60, 60)))
    (cutouts / "14.fits").write_bytes(b"broken" * 1000)
    fits.writeto(cutouts / "other.fits", IMAGE, sky_wcs().to_header())
    names = ["", "", "", "", "other.fits", "gone.fits"]
    rows = [f"{k},{name}" for k, name in zip(range(11, 17), names, strict=True)]
    (tmp_path / "info.csv").write_text("\n".join(["object_id,file_name", *rows]) + "\n")
    return tmp_path


def test_each_galaxy_from_its_file(folder) -> None:
    source = open_images(folder, SURVEY, "g", SCALE)
    assert isinstance(source, ImageSource)
    ra, dec = sky_wcs().wcs_pix2world(np.full(8, 30.0), np.full(8, 30.0), 0)
    ids = [11, 12, 13, 14, 15, 16, 17, np.int64(11)]
    image, status, note, _ = gather(source, ra, dec, SIZE, ids)
    assert [Status(s) for s in status] == [
        Status(0),
        Status.EDGE,
        Status(0),
        Status.BAD_CUTOUT,
        Status(0),
        Status.NO_IMAGE,
        Status.NO_IMAGE,
        Status(0),
    ]
    assert np.allclose(image[0], MIDDLE, rtol=1e-6)
    assert np.array_equal(image[0], image[7])
    assert np.allclose(image[4], MIDDLE, rtol=1e-6)
    assert "14.fits: cannot be read" in note[3]
    assert "1 files named in info.csv are not" in source.warnings[0]


def test_the_wcs_places_the_galaxy(folder) -> None:
    source = open_images(folder, SURVEY, "g", SCALE)
    ra, dec = sky_wcs().wcs_pix2world([25.0, 500.0], [33.0, 33.0], 0)
    image, status, note, _ = gather(source, ra, dec, 21, [15, 15])
    assert np.allclose(image[0], IMAGE[23:44, 15:36] * njy_per_unit(27.0), rtol=1e-6)
    assert status.tolist() == [0, Status.BAD_CUTOUT]
    assert "lies outside" in note[1]


def test_other_pixel_scale(folder) -> None:
    source = open_images(folder, replace(SURVEY, pixel_scale=0.2), "g", SCALE)
    image, status, _, _ = gather(source, [1.0], [1.0], SIZE, [11])
    assert status.tolist() == [0]
    covered = SIZE * SCALE / 0.2 / 2  # old pixels from the middle to the border
    inner = IMAGE[np.ix_(*[np.abs(np.arange(61) - 30) < covered - 0.5] * 2)]
    assert image[0].sum() == pytest.approx(inner.sum() * njy_per_unit(27.0), abs=300.0)
    assert not np.allclose(image[0], MIDDLE, atol=1.0)


def test_no_zero_point_is_a_note(folder) -> None:
    source = open_images(folder, replace(SURVEY, zero_point=None), "g", SCALE)
    _, status, note, _ = gather(source, [1.0], [1.0], SIZE, ["11"])
    assert status.tolist() == [Status.BAD_CUTOUT]
    assert "no zero point" in note[0]


def test_errors_say_what_to_do(folder, tmp_path) -> None:
    with pytest.raises(InputError, match="object_id"):
        next(iter(open_images(folder, SURVEY).cutouts([1.0], [1.0], SIZE)))
    before = open_images(folder, SURVEY).inventory()
    (folder / "info.csv").write_text("object_id\n11\n")
    assert open_images(folder, SURVEY).inventory() != before
    (folder / "info.csv").write_text("object_id\n11\n11\n")
    with pytest.raises(InputError, match="twice"):
        open_images(folder, SURVEY)
    (folder / "info.csv").write_text("name\n11\n")
    with pytest.raises(InputError, match="needs a column object_id or file_name, has name"):
        open_images(folder, SURVEY)
    (folder / "info.csv").write_text("object_id\n99\n")
    with pytest.raises(InputError, match=r"none of the files .* such as 99\.fits"):
        open_images(folder, SURVEY)
    (folder / "info.csv").unlink()
    with pytest.raises(InputError, match="info.csv"):
        open_images(folder, replace(SURVEY, layout="gampen"))
