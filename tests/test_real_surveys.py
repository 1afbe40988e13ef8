"""Every real image through the profile of its survey, from the command to the catalogue.

What the catalogue says of a flux is compared with an aperture sum of the same stamp, in nJy. The
shipped model knows HSC's g band, so elsewhere a factor is all that can be asked for; that pixels
arrive in the right unit is asked for exactly.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import xarray as xr
from astropy.io import fits
from astropy.table import Table
from astropy.wcs import WCS

from survey_gampen import cli, parquet
from survey_gampen.images import open_images
from survey_gampen.images.status import NULL_BITS, names
from survey_gampen.paths import data_file
from survey_gampen.survey import load_survey

SCALE, SIZE = 0.168, 239
#: Of the aperture that pixels are compared in, and of the one for a galaxy's light [arcsec].
CORE, WIDE = 1.5, 6.0


@dataclass
class Case:
    """Galaxies of one file.

    Attributes
    ----------
    images : Path
    survey : str
        Name or file of the profile.
    band : str
    rows : Table
        object_id, ra, dec.
    stamp : callable
        Pixels of the file [nJy], the place of a row in them, and arcsec a pixel.
    """

    images: Path
    survey: str
    band: str
    rows: pa.Table
    stamp: Callable[[int], tuple[np.ndarray, float, float, float]]


def profile(folder: Path, name: str, **more: str) -> str:
    """A copy of a shipped profile that says what the files do not."""
    text = data_file("catalogs", f"{name}.toml").read_text()
    head = "".join(f"{key} = {value}\n" for key, value in more.items())
    lines = [line for line in text.splitlines() if line.split(" = ")[0] not in more]
    path = folder / f"my-{name}.toml"
    path.write_text(head + "\n".join(lines) + "\n")
    return str(path)


def table(ra: object, dec: object, object_id: object = None) -> pa.Table:
    ra, dec = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
    ids = np.arange(len(ra)) if object_id is None else object_id
    return pa.table({"object_id": ids, "ra": ra, "dec": dec})


def on_the_sky(
    path: Path, hdu: int, unit: float, rows: pa.Table, plane: int | None = None
) -> Callable[[int], tuple[np.ndarray, float, float, float]]:
    with fits.open(path) as hdus:
        pixels = hdus[hdu].data.astype(float)
        wcs = WCS(hdus[hdu].header).celestial
    pixels = (pixels if plane is None else pixels[plane]) * unit
    scale = float(np.sqrt(np.abs(np.linalg.det(wcs.pixel_scale_matrix)))) * 3600
    x, y = wcs.all_world2pix(rows["ra"].to_numpy(), rows["dec"].to_numpy(), 0)
    return lambda row: (pixels, float(x[row]), float(y[row]), scale)


HSC_NJY, NANOMAGGY = 57.544, 3630.78


def hsc_field(data: Path, folder: Path) -> Case:
    path = data / "hsc" / "slug_cutout-HSC-R-9071-s18a_wide.fits"
    found = Table.read(data / "hsc" / "slug_test_source_HSC-R-9071.fits")
    rows = table(found["ra"], found["dec"])
    return Case(path, "hsc-pdr2-wide", "r", rows, on_the_sky(path, 1, HSC_NJY, rows))


def hsc_cube(data: Path, folder: Path) -> Case:
    path = data / "hsc" / "scarlet_Cut_HSC.fits"
    survey = profile(folder, "hsc-pdr2-wide", cube_bands='["g", "r", "i", "z", "y"]')
    with fits.open(path) as hdus:
        ra, dec = WCS(hdus[0].header).celestial.all_pix2world(24.0, 24.0, 0)
    rows = table(ra, dec)
    return Case(path, survey, "i", rows, on_the_sky(path, 0, HSC_NJY, rows, plane=2))


def hsc_stars(data: Path, folder: Path) -> Case:
    images = data / "hsc" / "hscstars"
    stars = Table.read(images / "star_cat_correct.csv")
    rows = table(stars["ira"], stars["idec"], np.array(stars["# object_id"]))
    paths = sorted(images.glob("*.fits"))
    one_each = []
    for row in range(len(stars)):
        stamps = [on_the_sky(path, 1, HSC_NJY, rows)(row) for path in paths]
        one_each.append(min(stamps, key=lambda s: np.hypot(s[1] - 12, s[2] - 12)))
    return Case(images, "hsc-pdr2-wide", "i", rows, one_each.__getitem__)


def ready(folder: Path, image: np.ndarray, **arrays: object) -> Path:
    """Cutouts in a Zarr group: what one does with arrays that have no header."""
    dims = ("object", "band", "y", "x")[-image.ndim :] if image.ndim == 4 else ("object", "y", "x")
    data = xr.Dataset(
        {"image": (dims, image.astype(np.float32)), **arrays},
        coords={"object_id": ("object", np.arange(len(image)))},
        attrs={"pixel_scale": SCALE},
    )
    data.to_zarr(str(folder / "ready.zarr"), zarr_format=3)
    return folder / "ready.zarr"


def hsc_array(data: Path, folder: Path) -> Case:
    image = np.load(data / "hsc" / "pysersic_gal1_im.npy")
    mask = np.load(data / "hsc" / "pysersic_gal1_mask.npy").astype(np.int8)
    images = ready(folder, image[None], mask=(("object", "y", "x"), mask[None]))
    pixels, middle = image * HSC_NJY, image.shape[0] // 2
    stamp = (pixels, middle, middle, SCALE)
    return Case(images, "hsc-pdr2-wide", "i", table(150.0, 2.0), lambda row: stamp)


def hsc_blend(data: Path, folder: Path) -> Case:
    with np.load(data / "hsc" / "scarlet_hsc_cosmos_35.npz") as arrays:
        image = arrays["images"].astype(float)
    bands = ("band", ["g", "r", "i", "z", "y"])
    images = ready(folder, image[None], band=bands)
    ny, nx = image.shape[1:]
    stamp = (image[1] * HSC_NJY, nx // 2, ny // 2, SCALE)
    return Case(images, "hsc-pdr2-wide", "r", table(150.0, 2.0), lambda row: stamp)


def decals(data: Path, folder: Path) -> Case:
    path = data / "decals" / "pysersic_cutout_59.1067_-30.4848.fits"
    rows = table(59.1067, -30.4848)
    rows = rows.rename_columns(["ls_id", "ra", "dec"])
    return Case(path, "legacy-survey", "r", rows, on_the_sky(path, 3, NANOMAGGY, rows))


def sdss_galaxies(data: Path, folder: Path) -> Case:
    """One file a galaxy without a WCS."""
    (folder / "sdss" / "cutouts").mkdir(parents=True)
    paths = sorted((data / "sdss").glob("gamornet_*-g.fits"))
    ids = [int(path.stem.removeprefix("gamornet_").removesuffix("-g")) for path in paths]
    for name, path in zip(ids, paths, strict=True):
        shutil.copy(path, folder / "sdss" / "cutouts" / f"{name}.fits")
    listed = "\n".join(map(str, ids))
    (folder / "sdss" / "info.csv").write_text(f"object_id\n{listed}\n")
    survey = profile(folder, "generic", layout='"gampen"', pixel_scale="0.396", zero_point="22.5")
    pixels = [fits.getdata(path).astype(float) * NANOMAGGY for path in paths]
    half = pixels[0].shape[0] // 2
    return Case(
        folder / "sdss",
        survey,
        "g",
        table([150.0, 151.0], [2.0, 2.0], np.array(ids)),
        lambda row: (pixels[row], half, half, 0.396),
    )


def sdss_field(data: Path, folder: Path) -> Case:
    path = data / "sdss" / "imfit_ic3478rss_256.fits"
    with fits.open(path) as hdus:
        ra, dec = WCS(hdus[0].header).celestial.all_pix2world(127.0, 127.0, 0)
    rows = table(ra, dec)
    survey = profile(folder, "generic", zero_point="26.0")
    return Case(path, survey, "r", rows, on_the_sky(path, 0, 10 ** (0.4 * 5.4), rows))


CASES = (
    *(hsc_field, hsc_cube, hsc_stars, hsc_array, hsc_blend),
    *(decals, sdss_galaxies, sdss_field),
)


def aperture(pixels: np.ndarray, x: float, y: float, radius: float) -> float:
    """The sum of the pixels whose centres lie within a circle [px]."""
    rows, columns = np.indices(pixels.shape)
    inside = np.hypot(columns - x, rows - y) <= radius
    return float(np.nansum(np.where(inside, pixels, 0.0)))


@pytest.mark.slow
@pytest.mark.parametrize("make", CASES)
def test_from_the_file_to_the_catalogue(
    realdata: Path, make: Callable[[Path, Path], Case], tmp_path: Path
) -> None:
    case = make(realdata, tmp_path)
    pq.write_table(case.rows, tmp_path / "galaxies.parquet")
    words = ["run", str(tmp_path / "galaxies.parquet"), "--images", str(case.images)]
    words += ["--survey", case.survey, "--band", case.band, "--passes", "20"]
    assert cli.main([*words, "--precision", "fp32"]) == 0
    out = tmp_path / "galaxies.gampen"
    dataset = out / "posteriors" / "dataset"
    leaves = dataset.glob("Norder=*/Dir=*/Npix=*.parquet")
    found = pa.concat_tables([parquet.open_file(leaf).read() for leaf in leaves])
    rows = {row["object_id"]: row for row in found.to_pylist()}
    ids = case.rows.column(0).to_pylist()
    assert sorted(rows) == sorted(ids)

    source = open_images(case.images, load_survey(case.survey), case.band, SCALE)
    sky = case.rows.rename_columns(["object_id", "ra", "dec"])
    batches = source.cutouts(sky["ra"].to_numpy(), sky["dec"].to_numpy(), SIZE, ids)
    cutouts = {int(i): b.image[k] for b in batches for k, i in enumerate(b.index)}
    print(f"\n{case.images.name}, {load_survey(case.survey).name}, {case.band} [nJy]")
    for place, name in enumerate(ids):
        pixels, x, y, scale = case.stamp(place)
        middle = SIZE // 2
        row = rows[name]
        here = aperture(cutouts[place], middle, middle, CORE / SCALE)
        there = aperture(pixels, x, y, CORE / scale)
        wide = aperture(pixels, x, y, WIDE / scale)
        said = row["flux_p50"]
        shown = "null" if said is None else f"{said:.0f}"
        print(f"  {name}: aperture {wide:.0f}, flux {shown}, {names(row['status'])}")
        # Pixels without data are filled, and a circle of few pixels of one scale is not that of
        # another; a wrong unit would be a factor of ten or more.
        if not row["status"] & int(NULL_BITS) and there > 0:
            assert here == pytest.approx(there, rel=0.1)
            assert said is not None
            # Neighbours shine into the wide one, and a galaxy reaches out of the narrow one.
            assert 0.2 * there < said < 5 * wide
