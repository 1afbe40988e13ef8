"""`survey-gampen simulate --as-tiles`: coadds in the layout of HSC ``calexp`` files.

A tile is a field of its own: galaxies of the population on a jittered grid, so that each is its
neighbours' neighbour, fainter sources between them, one PSF, one sky. Of several bands it is as
many files of one grid of pixels. Beside the tiles stand the catalogue (``catalog.parquet``, ready
for ``survey-gampen run``) and the truth.
"""

from __future__ import annotations

import json
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.wcs import WCS
from numpy.typing import NDArray

from survey_gampen.commit import publish
from survey_gampen.commit import replace as replace_file
from survey_gampen.errors import InputError
from survey_gampen.pool import compute, one_a_core
from survey_gampen.simulation.colours import stream
from survey_gampen.simulation.ingredients import (
    Ingredients,
    check_same,
    describe,
    ingredients,
    measure,
)
from survey_gampen.simulation.noise import add_noise
from survey_gampen.simulation.population import Galaxy, Population
from survey_gampen.simulation.rows import publish_rows
from survey_gampen.simulation.simulate import truth_table

#: Numbers of the mask planes in HSC coadds (Bosch et al. 2018, PASJ 70, S5; read off PDR files).
MASK_PLANES = {
    "BAD": 0,
    "SAT": 1,
    "INTRP": 2,
    "CR": 3,
    "EDGE": 4,
    "DETECTED": 5,
    "DETECTED_NEGATIVE": 6,
    "SUSPECT": 7,
    "NO_DATA": 8,
    "BRIGHT_OBJECT": 9,
}


@dataclass(frozen=True)
class Field:
    """What a tile is made of; plain values, so that it travels to a worker."""

    settings: dict[str, Any]
    tile: int
    rows: int
    columns: int
    n: int
    out: str

    def path(self, band: str) -> Path:
        """The tile's file of a band."""
        tract, patch = 9000 + self.tile // 81, f"{self.tile // 9 % 9},{self.tile % 9}"
        name = f"calexp-HSC-{band.upper()}-{tract}-{patch}.fits.fz"
        return Path(self.out) / "tiles" / name

    @property
    def truth(self) -> Path:
        """The tile's galaxies."""
        return Path(self.out) / "truth" / f"part-{self.tile:06d}.parquet"


def main(
    population: str,
    n: int,
    out: Path,
    *,
    seed: int = 0,
    psfs: tuple[Path, ...] = (),
    sky: tuple[Path, ...] = (),
    real_galaxies: Path | None = None,
    per_tile: int = 49,
    bands: tuple[str, ...] = (),
    cluster: str = "local",
    workers: int | None = None,
) -> int:
    """Simulate `n` galaxies on tiles of at most `per_tile` into the folder `out`.

    Raises
    ------
    InputError
        If the population, its bands, a PSF, the sky or the real galaxies cannot be used, or `out`
        holds another simulation.
    """
    if n < 1 or per_tile < 1:
        raise InputError("simulate at least one galaxy: raise --n and --per-tile")
    profile = one_a_core(cluster, workers)
    chosen = Population.load(population, bands)
    settings = describe(chosen, n, seed, psfs, sky, real_galaxies) | {"per_tile": per_tile}
    measure(out, settings, compute, profile, lambda: _prepare(out, settings))
    side = int(np.ceil(np.sqrt(min(n, per_tile))))
    fields = [
        Field(
            settings=settings,
            tile=tile,
            rows=-(-min(per_tile, n - tile * per_tile) // side),
            columns=side,
            n=min(per_tile, n - tile * per_tile),
            out=str(out),
        )
        for tile in range(-(-n // per_tile))
    ]
    missing = [f for f in fields if not f.truth.exists()]
    compute(make_tile, [(f, f.tile * per_tile) for f in missing], "tiles", profile, out)
    truth = pa.concat_tables([pq.read_table(f.truth) for f in fields])
    # Whatever the population, the files are laid out as those of HSC.
    note = f'survey = "hsc-wide"\nband = "{chosen["band"]}"\nimages = "tiles"\n'
    catalog = truth.select(["object_id", "ra", "dec"]).replace_schema_metadata(
        {"survey_gampen": note}
    )
    for name, table in (("catalog.parquet", catalog), ("truth.parquet", truth)):
        replace_file(out / name, lambda p, t=table: pq.write_table(t, p), out / ".staging")  # type: ignore[misc]
    print(f"{n} galaxies of {chosen['name']} on {len(fields)} tiles in {out}")
    return 0


def _prepare(out: Path, settings: dict[str, Any]) -> None:
    """Write down what `out` is to hold, or see that it is the same."""
    note = out / "simulation.json"
    if note.exists():
        check_same(out, json.loads(note.read_text()), settings)
        return

    def write(path: Path) -> None:
        path.write_text(json.dumps(settings, indent=1))

    replace_file(note, write, out / ".staging")


def make_tile(field: Field, tile_start: int) -> None:
    """Render one tile in all bands, publish it and then its truth. Runs without Dask too."""
    from survey_gampen.simulation.render import EXACT

    made_of = ingredients(field.out, field.settings, EXACT)
    population, seed = made_of.population, made_of.seed
    # Streams of their own: galaxies count from 0, tiles' skies from 2^41, all else from 2^42.
    rng = np.random.Generator(np.random.Philox(key=[seed, (1 << 42) + field.tile]))
    cell = population["size"]
    # A galaxy may sit a quarter of a cell off the middle of its own: with this margin every
    # cutout lies inside the tile.
    width, height = (k * cell + cell // 2 + 4 for k in (field.columns, field.rows))

    # PSF and sky of all.
    number = (1 << 41) + field.tile
    sky = made_of.under_sky(population.draw(seed, number, len(made_of.renderer.psfs)))
    galaxies: list[Galaxy] = []
    for k in range(field.n):
        drawn = population.draw(seed, tile_start + k)
        # Somewhere in the middle half of its cell.
        x = (k % field.columns - (field.columns - 1) / 2) * cell + rng.uniform(-cell / 4, cell / 4)
        y = (k // field.columns - (field.rows - 1) / 2) * cell + rng.uniform(-cell / 4, cell / 4)
        galaxy = replace(
            drawn,
            disk=replace(drawn.disk, x=x, y=y),
            bulge=replace(drawn.bulge, x=x, y=y),
            neighbours=tuple(replace(p, x=p.x + x, y=p.y + y) for p in drawn.neighbours),
        )
        galaxies.append(made_of.as_real(_under(sky, galaxy)))
    # The pixel of `canvas` with the coordinates (0, 0), as GalSim's setCenter has it.
    centre = (width // 2, height // 2)
    wcs = _wcs(centre, population["pixel_scale"], field.tile)
    seen: dict[str, list[Galaxy]] = {}
    for band in population.bands:
        above = made_of.in_band(sky, band)
        seen[band] = [_under(above, made_of.in_band(g, band)) for g in galaxies]
        noise = stream(seed, (1 << 42) + field.tile, band) if band != population["band"] else rng
        hdus = _render(made_of, seen[band], above, (width, height), noise, band, wcs)
        _publish(field.path(band), hdus, field.out)
    x = np.array([g.disk.x + centre[0] for g in galaxies])
    y = np.array([g.disk.y + centre[1] for g in galaxies])
    ra, dec = wcs.all_pix2world(x, y, 0)
    table = truth_table(galaxies, population.unit, seen)
    table = table.add_column(1, "ra", pa.array(ra)).add_column(2, "dec", pa.array(dec))
    publish_rows(field.truth, table, Path(field.out))


def _under(sky: Galaxy, galaxy: Galaxy) -> Galaxy:
    """A galaxy with the PSF and the sky of its tile."""
    return replace(
        galaxy,
        moffat_fwhm=sky.moffat_fwhm,
        moffat_beta=sky.moffat_beta,
        psf_index=sky.psf_index,
        sky_sigma=sky.sky_sigma,
        sky_piece=sky.sky_piece,
    )


def _render(
    made_of: Ingredients,
    galaxies: list[Galaxy],
    sky: Galaxy,
    shape: tuple[int, int],
    rng: np.random.Generator,
    band: str,
    wcs: WCS,
) -> fits.HDUList:
    """A tile of `shape` (x, y) in one band."""
    population, renderer = made_of.population, made_of.renderer
    psf, canvas = renderer.psf(sky), renderer.canvas(*shape)
    for galaxy in galaxies:
        # Every cell has its own galaxy, which is a neighbour to those beside it: half the
        # population's neighbours are enough.
        renderer.add_central(canvas, galaxy, psf, stamp=True)
        for neighbour in galaxy.neighbours[::2]:
            renderer.add(canvas, (neighbour,), psf, stamp=True)
    sky_level = population.observed(band)["sky_level"]
    image = add_noise(canvas.array, sky.sky_sigma, sky_level, rng, made_of.noise_field(sky))
    hdus = _hdus(image, canvas.array, sky.sky_sigma, sky_level, wcs)
    hdus[0].header["FILTER"] = band
    hdus[0].header["FLUXMAG0"] = (10 ** (0.4 * population["zero_point"]), "flux of magnitude 0")
    if np.isfinite(sky.moffat_fwhm):
        hdus[0].header["PSF_FWHM"] = (sky.moffat_fwhm, "[arcsec]")
    return hdus


def _wcs(centre: tuple[int, int], pixel_scale: float, tile: int) -> WCS:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crpix = [centre[0] + 1, centre[1] + 1]
    wcs.wcs.crval = [150.0 + 2.0 * (tile % 100), 2.0 + 2.0 * (tile // 100)]
    wcs.wcs.cdelt = [-pixel_scale / 3600, pixel_scale / 3600]
    return wcs


def _hdus(
    image: NDArray[np.float32],
    light: NDArray[np.float32],
    sky_sigma: float,
    sky_level: float,
    wcs: WCS,
) -> fits.HDUList:
    variance = (sky_sigma**2 * (1 + np.maximum(light, 0) / sky_level)).astype(np.float32)
    mask = np.where(light > 3 * sky_sigma, 1 << MASK_PLANES["DETECTED"], 0).astype(np.int32)
    primary = fits.PrimaryHDU()
    primary.header["SIMULATE"] = (True, "simulated by survey-gampen")
    header = wcs.to_header()
    # Steps of a quarter of the sky noise, dithered: below what a measurement can notice (Pence,
    # White & Seaman 2010, PASP 122, 1065).
    packed = {"compression_type": "RICE_1", "quantize_level": 4.0, "quantize_method": 1}
    coarse = packed | {"quantize_level": -0.02 * sky_sigma**2}  # negative: the step itself
    planes = [
        fits.CompImageHDU(image, header, **packed, dither_seed=1),
        fits.CompImageHDU(mask, header, compression_type="RICE_1"),
        fits.CompImageHDU(variance, header, **coarse, dither_seed=1),
    ]
    for plane, kind in zip(planes, ("IMAGE", "MASK", "VARIANCE"), strict=True):
        plane.header["EXTTYPE"] = kind
    for name, bit in MASK_PLANES.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", fits.verify.VerifyWarning)  # long names: HIERARCH
            planes[1].header[f"MP_{name}"] = bit
    return fits.HDUList([primary, *planes])


def _publish(final: Path, hdus: fits.HDUList, out: str) -> None:
    def check(path: Path) -> None:
        with fits.open(path) as read:
            if read[1].data.shape != hdus[1].data.shape:
                raise OSError("the tile does not read back")

    publish(final, lambda path: hdus.writeto(path), check, Path(out) / ".staging")
