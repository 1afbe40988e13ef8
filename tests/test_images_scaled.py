"""Pixels stored as scaled integers, as many surveys have them, read like any others."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from astropy.io import fits
from skytiles import SCALE, SURVEY, crop, gather, noise, sky_wcs, write_tile

from survey_gampen.images import Status, open_images
from survey_gampen.images.pixels.planes import njy_per_unit

SIDE, SIZE = 120, 41


@pytest.mark.parametrize("kind", ["int16", "uint16", "blank"])
def test_scaled_integers(tmp_path: Path, kind: str) -> None:
    step = 1.0 if kind == "uint16" else 0.01
    truth = np.round(noise((SIDE, SIDE)) * 100 + 100) * step
    path = write_tile(tmp_path / "images" / "tile.fits", truth, sky_wcs())
    with fits.open(path) as hdus:
        if kind == "uint16":
            hdus[1].data = truth.astype(np.uint16)
        else:
            hdus[1].scale("int16", bscale=step, bzero=3.0)
        hdus.writeto(path, overwrite=True)
    if kind == "blank":
        with fits.open(path, mode="update", do_not_scale_image_data=True) as hdus:
            hdus[1].header["BLANK"] = -32768
            hdus[1].data[55:65, 55:65] = -32768
    source = open_images(path.parent, SURVEY, "g", SCALE, tmp_path / "cache")
    ra, dec = sky_wcs().wcs_pix2world([60.0], [60.0], 0)
    image, status, _, replaced = gather(source, ra, dec, SIZE)
    source.close()
    good = ~replaced[0]
    wanted = crop(truth, 60, 60, SIZE) * njy_per_unit(27.0)
    assert np.allclose(image[0][good], wanted[good], rtol=1e-4)
    if kind == "blank":
        assert replaced[0].sum() == 100
        assert status[0] & Status.NO_DATA
    else:
        assert status[0] == 0
        assert good.all()
