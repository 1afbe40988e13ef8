"""`survey-gampen simulate`: galaxies with known truth, on all cores, resumable by block.

A block is 128 galaxies, one shard of each Zarr array, and one file of truth. The truth is
published last, so a block is there when its truth is; a killed simulation goes on with the blocks
that are missing. Two forms:

* *cutouts*: ``image`` (object, y, x) [nJy] with noise, as a survey would give them;
* *parts* (``--parts``): disk and bulge of a fixed flux, and the neighbours, apart and without
  noise. Training mixes them anew in each epoch (:mod:`survey_gampen.training.parts`).

Of several bands (``--bands``) each array has them as its second axis.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import zarr
from zarr.codecs import ZstdCodec

from survey_gampen.errors import InputError
from survey_gampen.pool import compute, one_a_core
from survey_gampen.simulation.colours import stream
from survey_gampen.simulation.ingredients import check_same, describe, ingredients, measure
from survey_gampen.simulation.noise import add_noise
from survey_gampen.simulation.population import Galaxy, Population
from survey_gampen.simulation.rows import publish_rows

BLOCK = 128
#: Flux of disk and bulge in the *parts* form [ADU]: peaks stay far below the largest half
#: precision number (65504), wings far above the smallest.
PARTS_FLUX = 1e4
PARTS = ("disk", "bulge", "neighbours")


def main(
    population: str,
    n: int,
    out: Path,
    *,
    seed: int = 0,
    psfs: tuple[Path, ...] = (),
    sky: tuple[Path, ...] = (),
    real_galaxies: Path | None = None,
    parts: bool = False,
    bands: tuple[str, ...] = (),
    cluster: str = "local",
    workers: int | None = None,
) -> int:
    """Simulate `n` galaxies of a population into the folder `out`.

    Raises
    ------
    InputError
        If the population, its bands, a PSF, the sky or the real galaxies cannot be used, or `out`
        holds another simulation.
    """
    if n < 1:
        raise InputError("simulate at least one galaxy: raise --n")
    if parts and (sky or real_galaxies):
        raise InputError(
            "parts have no noise, and real galaxies no parts: --sky and --real-galaxies go without "
            "--parts; for training with correlated noise set the population's correlation"
        )
    profile = one_a_core(cluster, workers)
    chosen = Population.load(population, bands)
    settings = describe(chosen, n, seed, psfs, sky, real_galaxies) | {"parts": parts}
    measure(out, settings, compute, profile, lambda: prepare(out, settings))
    missing = [b for b in range(-(-n // BLOCK)) if not _truth_file(out, b).exists()]
    calls = [(str(out), block) for block in missing]
    compute(simulate_block, calls, f"blocks of {BLOCK} galaxies", profile, out)
    print(f"{n} galaxies of {chosen['name']} in {out}")
    return 0


def simulate_block(out: str, block: int) -> int:
    """Simulate one block; returns its number of galaxies. Runs without Dask too."""
    from survey_gampen.simulation.render import EXACT, FAST

    settings = read_settings(Path(out))
    made_of = ingredients(out, settings, FAST if settings["parts"] else EXACT)
    population, renderer = made_of.population, made_of.renderer
    first, last = block * BLOCK, min(settings["n"], (block + 1) * BLOCK)
    galaxies = [made_of.draw(i) for i in range(first, last)]
    group = zarr.open_group(out, mode="r+")
    # Galaxies by band; arrays of a single band have no axis for it.
    seen = {band: [made_of.in_band(g, band) for g in galaxies] for band in population.bands}
    several = len(seen) > 1
    if settings["parts"]:
        planes = np.stack(
            [[renderer.parts(g, PARTS_FLUX) for g in there] for there in seen.values()], axis=2
        )
        for k, name in enumerate(PARTS):
            plane = planes[:, k] if several else planes[:, k, 0]
            _array(group, name)[first:last] = plane.astype(np.float16)
    else:
        side = (renderer.size, renderer.size)
        images = np.empty((len(galaxies), len(seen), *side), np.float32)
        for channel, (band, there) in enumerate(seen.items()):
            sky_level = population.observed(band)["sky_level"]
            for image, galaxy in zip(images[:, channel], there, strict=True):
                # A stream of its own, so that noise does not move when the population changes.
                key = galaxy.index + (1 << 40)
                rng = stream(settings["seed"], key, band if channel else None)
                light, field = renderer.image(galaxy), made_of.noise_field(galaxy)
                image[:] = add_noise(light, galaxy.sky_sigma, sky_level, rng, field)
        images *= np.float32(population.unit)
        _array(group, "image")[first:last] = images if several else images[:, 0]
    table = truth_table(galaxies, population.unit, seen)
    publish_rows(_truth_file(Path(out), block), table, Path(out))
    return len(galaxies)


def truth_table(
    galaxies: list[Galaxy], unit: float, seen: Mapping[str, Sequence[Galaxy]] | None = None
) -> pa.Table:
    """What is true of the galaxies: one row each, fluxes in nJy, radii in arcsec.

    Of several bands with B/T, flux, sky and PSF in the others. Under real skies with the piece of
    sky, for real galaxies with the catalogue's IDENT, the factor of enlargement and the turn [deg];
    their disk and bulge are those of the fit.

    Parameters
    ----------
    galaxies : list of Galaxy
    unit : float
        1 ADU in nJy.
    seen : mapping, optional
        The galaxies by band, if there are several; the first band is that of `galaxies`.
    """
    rows: list[dict[str, Any]] = []
    for g in galaxies:
        row: dict[str, Any] = {
            "object_id": g.index,
            "bt": g.bt,
            "r_e": g.r_e,
            "flux": g.flux * unit,
            "mag": g.magnitude,
            "sky_sigma": g.sky_sigma * unit,
            "psf_fwhm": g.moffat_fwhm,
            "psf_beta": g.moffat_beta,
            "psf_index": g.psf_index,
            "n_neighbours": len(g.neighbours),
        }
        if g.sky_piece >= 0:
            row["sky_piece"] = g.sky_piece
        if g.real is not None:
            row |= {
                "real_id": g.real.identity,
                "real_factor": g.real.factor,
                "real_turn": g.real.turn,
            }
        for name, profile in (("disk", g.disk), ("bulge", g.bulge)):
            shape = asdict(profile)
            row |= {
                f"{name}_{key}": shape[key]
                for key in ("sersic_n", "half_light_radius", "axis_ratio", "position_angle")
            }
        rows.append(row)
    for band, others in list((seen or {}).items())[1:]:
        for row, g in zip(rows, others, strict=True):
            row |= {
                f"bt_{band}": g.bt,
                f"flux_{band}": g.flux * unit,
                f"sky_sigma_{band}": g.sky_sigma * unit,
                f"psf_fwhm_{band}": g.moffat_fwhm,
            }
    return pa.Table.from_pylist(rows)


def read_truth(out: Path) -> pa.Table:
    """The truth of all galaxies of a finished simulation, in order.

    Raises
    ------
    InputError
        If blocks are missing.
    """
    settings = read_settings(out)
    files = [_truth_file(out, b) for b in range(-(-settings["n"] // BLOCK))]
    if missing := sum(not f.exists() for f in files):
        raise InputError(f"{out} lacks {missing} blocks: run the same simulate command again")
    return pa.concat_tables([pq.read_table(f) for f in files])


def read_settings(out: Path) -> dict[str, Any]:
    """What `out` was simulated with.

    Raises
    ------
    InputError
        If `out` is no simulation.
    """
    try:
        return dict(zarr.open_group(str(out), mode="r").attrs["simulation"])  # type: ignore[arg-type]
    except (FileNotFoundError, KeyError):
        raise InputError(
            f"{out} is no simulation of cutouts or parts: make one with survey-gampen simulate,"
            " without --as-tiles"
        ) from None


def prepare(out: Path, settings: dict[str, Any]) -> None:
    """Make the arrays of a simulation, or see that `out` holds the same one.

    Raises
    ------
    InputError
        If `out` holds something else.
    """
    population = Population(settings["population"])
    size, bands = population["size"], population.bands
    several = (len(bands),) if len(bands) > 1 else ()
    if (out / "zarr.json").exists():
        check_same(out, read_settings(out), settings)
    elif out.is_dir() and any(out.iterdir()):
        raise InputError(f"{out} holds other things: choose another --out")
    out.mkdir(parents=True, exist_ok=True)
    # Never mode "w": it removes whatever the folder holds.
    group = zarr.open_group(str(out), mode="a", attributes={"simulation": settings})
    for name in PARTS if settings["parts"] else ("image",):
        if name in group:
            continue
        group.create_array(
            name,
            shape=(settings["n"], *several, size, size),
            chunks=(8, *several, size, size),
            shards=(BLOCK, *several, size, size),
            dtype="float16" if settings["parts"] else "float32",
            compressors=ZstdCodec(level=1),
            dimension_names=("object", "band", "y", "x") if several else ("object", "y", "x"),
            attributes={"unit": "adu" if settings["parts"] else "nJy"},
        )


def _array(group: zarr.Group, name: str) -> zarr.Array:
    array = group[name]
    assert isinstance(array, zarr.Array)
    return array


def _truth_file(out: Path, block: int) -> Path:
    return out / "truth" / f"part-{block:06d}.parquet"
