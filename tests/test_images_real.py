"""Real files: HSC's cutout service, the Legacy Surveys, SDSS."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS
from scipy.stats import spearmanr
from skytiles import SCALE, SURVEY, gather

from survey_gampen import cli
from survey_gampen.errors import InputError
from survey_gampen.images import Status, open_images
from survey_gampen.survey import load_survey

HSC = load_survey("hsc-wide")
FIELD = "slug_cutout-HSC-R-9071-s18a_wide.fits"


def test_the_field_with_twenty_sources(realdata) -> None:
    """A source whose box lies inside has no EDGE; all others are flagged, none is lost."""
    path = realdata / "hsc" / FIELD
    sources = Table.read(realdata / "hsc" / "slug_test_source_HSC-R-9071.fits")
    source = open_images(path, HSC, "r", SCALE)
    ra, dec = np.array(sources["ra"]), np.array(sources["dec"])
    image, status, _, replaced = gather(source, ra, dec, 239)
    # The table's x, y count the first pixel as 0, but its ra, dec were made as if it were 1.
    x, y = sources["x"] - 1.0, sources["y"] - 1.0
    pixel_x, pixel_y = np.floor(x + 0.5).astype(int), np.floor(y + 0.5).astype(int)
    with fits.open(path) as hdus:
        adu = hdus[1].data.astype(float)
    ny, nx = adu.shape
    inside = np.min([pixel_x, pixel_y, nx - 1 - pixel_x, ny - 1 - pixel_y], axis=0) >= 119
    assert inside.sum() == 5
    assert np.array_equal((status & Status.EDGE) == 0, inside)
    assert not (status & (Status.NO_IMAGE | Status.BAD_CUTOUT | Status.BAD_PIXELS)).any()
    for k in np.nonzero(inside)[0]:
        i, j = pixel_x[k], pixel_y[k]
        crop = adu[j - 119 : j + 120, i - 119 : i + 120] * 57.5440
        assert np.allclose(image[k], crop, rtol=1e-5)
        assert not replaced[k].any()
    near_border = np.minimum.reduce([x, y, nx - 1 - x, ny - 1 - y]) * SCALE < 2.5
    gone = (status & Status.NO_DATA) != 0
    assert np.array_equal(gone, near_border | (replaced.mean(axis=(1, 2)) > 0.5))
    assert 0 < gone.sum() < 5


@pytest.mark.slow
def test_the_shipped_model_ranks_its_sources_by_flux(realdata, tmp_path) -> None:
    """From the command to the catalogue, on another survey's table of fluxes."""
    sources = Table.read(realdata / "hsc" / "slug_test_source_HSC-R-9071.fits")
    columns = {name: np.array(sources[name], float) for name in ("ra", "dec")}
    rows = pa.table({"object_id": np.arange(len(sources)), **columns})
    pq.write_table(rows, tmp_path / "slug.parquet")
    images = str(realdata / "hsc" / FIELD)
    options = ["--images", images, "--band", "r", "--passes", "50", "--precision", "fp32"]
    assert cli.main(["run", str(tmp_path / "slug.parquet"), *options]) == 0
    found = pd.read_parquet(tmp_path / "slug.gampen" / "posteriors" / "dataset")
    assert len(found) == 20
    found = found.set_index("object_id").sort_index()
    edge = (found["status"].to_numpy() & Status.EDGE) != 0
    assert edge.sum() == 15
    assert found.loc[~edge, "flux_p50"].notna().all()
    # Neighbours are in each other's cutouts and the network was trained on another band: ranks.
    flux = np.array(sources["flux"], float)
    extended = ~np.array(sources["point_source"], bool)
    good = found["flux_p50"].notna().to_numpy() & extended & (flux > 100)
    assert spearmanr(found["flux_p50"][good], flux[good]).statistic >= 0.9


def test_all_of_hscs_files_at_once(realdata) -> None:
    """Tables, a PSF and a cube lie among the images; small cutouts are found and flagged."""
    source = open_images(realdata / "hsc", HSC, None, SCALE)
    (warning,) = source.warnings
    assert "scarlet_Cut_HSC.fits: a cube whose bands nobody tells is left out" in warning
    tiles = source.footprints()
    assert len(tiles) == 11
    _, status, _, replaced = gather(source, tiles["ra"].to_numpy(), tiles["dec"].to_numpy(), 239)
    small = np.array(["hscstars" in name for name in tiles["tile"].to_pylist()])
    assert (replaced[small].mean(axis=(1, 2)) > 0.5).all()
    assert (status[small] == Status.NO_DATA | Status.EDGE).all()
    assert status[~small].tolist() == [Status.BRIGHT_NEIGHBOUR]
    with pytest.raises(InputError, match="no image in band g; there is i, r"):
        open_images(realdata / "hsc", HSC, "g", SCALE)


def test_stars_stand_where_the_catalogue_says(realdata) -> None:
    folder = realdata / "hsc" / "hscstars"
    stars = Table.read(folder / "star_cat_correct.csv")
    source = open_images(folder, HSC, "i", SCALE)
    image, status, _, _ = gather(source, stars["ira"], stars["idec"], 15)
    seen = (status & (Status.NO_IMAGE | Status.NO_DATA)) == 0
    assert seen.sum() >= 8
    peak = image[seen].reshape(seen.sum(), -1).argmax(axis=1)
    offset = np.hypot(peak // 15 - 7, peak % 15 - 7)
    assert (offset <= 1.5).all()


def test_legacy_survey_cutout_of_several_bands(realdata) -> None:
    """0.262 arcsec to HSC's 0.168, nanomaggies to nJy, flux kept."""
    survey = replace(SURVEY, zero_point=22.5, pixel_scale=None)
    path = next((realdata / "decals").glob("pysersic_cutout*.fits"))
    source = open_images(path, survey, "r", SCALE, variance=True)
    ra, dec = 59.1067, -30.4848
    (batch,) = source.cutouts([ra], [dec], 239)
    assert batch.facts["band"] == "r"
    assert batch.facts["zero_point_from"] == "survey"
    assert batch.facts["pixel_scale"] == pytest.approx(0.262, abs=1e-3)
    assert batch.status.tolist() == [0]
    with fits.open(path) as hdus:
        truth = hdus[3].data.astype(float)
        x, y = WCS(hdus[3].header).wcs_world2pix(ra, dec, 0)
    half = 239 * SCALE / batch.facts["pixel_scale"] / 2
    share_x, share_y = (covered(256, float(c) - half, float(c) + half) for c in (x, y))
    total = share_y @ truth @ share_x * 3630.78
    assert batch.image[0].sum() == pytest.approx(total, rel=0.005)
    assert np.nanmedian(batch.variance[0]) > 0


def covered(n: int, low: float, high: float) -> np.ndarray:
    """Share of each of `n` pixels between two places on their axis."""
    k = np.arange(n)
    return np.clip(np.minimum(k + 0.5, high) - np.maximum(k - 0.5, low), 0.0, 1.0)


def test_sdss_image_in_the_primary_hdu(realdata) -> None:
    survey = replace(SURVEY, zero_point=26.0, pixel_scale=None)
    path = realdata / "sdss" / "imfit_ic3478rss_256.fits"
    source = open_images(path, survey, "r")
    assert source.pixel_scale == pytest.approx(0.396, abs=1e-3)
    tile = source.footprints().to_pylist()[0]
    image, status, _, _ = gather(source, [tile["ra"]], [tile["dec"]], 201)
    assert status.tolist() == [0]
    assert image[0].max() > 0
