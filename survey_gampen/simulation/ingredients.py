"""What a simulation is made of beside its population: PSFs, pieces of real sky, real galaxies.

All are read, and refused if need be, before work starts. What is measured on them is kept in the
simulation's folder (``sky.parquet``, ``real/``), so that every worker, and the same command on
another day, goes by the same numbers. Each has random numbers of its own: an option more moves
nothing else of galaxy i.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from survey_gampen.commit import replace as replace_file
from survey_gampen.errors import InputError
from survey_gampen.simulation.colours import in_band
from survey_gampen.simulation.noise import Field
from survey_gampen.simulation.population import Galaxy, Population, completed
from survey_gampen.simulation.skynoise import measure_sky, read_sky, write_sky

#: Which piece of sky galaxy i has is keyed by i plus this.
_SKY_STREAM = 1 << 44


def describe(
    population: Population,
    n: int,
    seed: int,
    psfs: Sequence[Path] = (),
    sky: Sequence[Path] = (),
    real_galaxies: Path | None = None,
) -> dict[str, Any]:
    """Settings of a simulation, as JSON; options not taken leave no trace.

    Raises
    ------
    InputError
        If a PSF or the catalogue of real galaxies cannot be read, or they are of one band and the
        simulation of several.
    """
    from survey_gampen.simulation.render import load_psfs

    if len(population.bands) > 1 and (psfs or sky or real_galaxies):
        raise InputError(
            "images given by --psf, --sky and --real-galaxies are of one band: leave them out, or"
            " --bands"
        )
    load_psfs(psfs, population["pixel_scale"])
    settings = {
        "population": population.table,
        "n": n,
        "seed": seed,
        "psfs": [str(p.resolve()) for p in psfs],
    }
    if sky:
        settings["sky"] = [str(p.resolve()) for p in sky]
    if real_galaxies is not None:
        from survey_gampen.simulation.realgalaxies import find_catalog

        settings["real_galaxies"] = str(find_catalog(real_galaxies))
    return settings


def check_same(out: Path, found: dict[str, Any], wanted: dict[str, Any]) -> None:
    """Refuse to go on with a simulation that had other settings.

    Raises
    ------
    InputError
        If they differ.
    """
    # Keys that came later are taken at the meaning that their absence had.
    found = found | {"population": completed(found["population"])}
    if found != json.loads(json.dumps(wanted)):
        raise InputError(f"{out} holds a simulation with other settings: choose another --out")


def measure(
    out: Path,
    settings: dict[str, Any],
    compute: Callable[..., None],
    profile: object,
    begin: Callable[[], None],
) -> None:
    """Measure sky and real galaxies, unless `out` has the numbers.

    Parameters
    ----------
    out : Path
    settings : dict
        From :func:`describe`.
    compute, profile
        :func:`survey_gampen.pool.compute` and the cluster profile it takes.
    begin : callable
        Called once the sky is known to be good: prepares the folder `out`.

    Raises
    ------
    InputError
        If an image of the sky cannot be used, or no real galaxy is good enough.
    """
    population = Population(settings["population"])
    pieces = []
    if "sky" in settings and not _sky_file(out).exists():
        files = [Path(f) for f in settings["sky"]]
        pieces = measure_sky(files, population["zero_point"], population["pixel_scale"])
    begin()
    if pieces:
        replace_file(_sky_file(out), lambda path: write_sky(path, pieces), out / ".staging")
        sigma = [piece.sigma * population.unit for piece in pieces]
        print(
            f"{len(pieces)} pieces of sky, noise {min(sigma):.3g} to {max(sigma):.3g} nJy a pixel"
        )
    if catalog := settings.get("real_galaxies"):
        from survey_gampen.simulation import realgalaxies as real

        blocks = range(real.count_blocks(Path(catalog)))
        missing = [b for b in blocks if not real.block_file(out, b).exists()]
        calls = [(str(out), catalog, block) for block in missing]
        compute(real.measure_block, calls, f"blocks of {real.BLOCK} real galaxies", profile, out)
        galaxies = real.RealGalaxies(Path(catalog), out)
        print(f"{len(galaxies.measured)} real galaxies of {catalog} are good enough")


class Ingredients:
    """A simulation's population, renderer and noise, on one worker.

    Parameters
    ----------
    out : Path
        Folder of the simulation.
    settings : dict
        From :func:`describe`.
    folding : float
        As :class:`survey_gampen.simulation.render.Renderer` has it.
    """

    def __init__(self, out: Path, settings: dict[str, Any], folding: float) -> None:
        from survey_gampen.simulation.realgalaxies import RealGalaxies
        from survey_gampen.simulation.render import Renderer, load_psfs

        self.seed: int = settings["seed"]
        self.population = Population(settings["population"])
        psfs = load_psfs(map(Path, settings["psfs"]), self.population["pixel_scale"])
        catalog = settings.get("real_galaxies")
        self.real = RealGalaxies(Path(catalog), out) if catalog else None
        self.renderer = Renderer(self.population, psfs, folding, self.real)
        self.pieces = read_sky(_sky_file(out)) if "sky" in settings else []

    def draw(self, index: int) -> Galaxy:
        """Galaxy number `index`, with its own PSF and sky."""
        drawn = self.population.draw(self.seed, index, len(self.renderer.psfs))
        return self.as_real(self.under_sky(drawn))

    def under_sky(self, galaxy: Galaxy) -> Galaxy:
        """With the noise of one of the pieces of sky, if there are any."""
        if not self.pieces:
            return galaxy
        key = [self.seed, galaxy.index + _SKY_STREAM]
        piece = int(np.random.Generator(np.random.Philox(key=key)).integers(len(self.pieces)))
        return replace(galaxy, sky_piece=piece, sky_sigma=self.pieces[piece].sigma)

    def as_real(self, galaxy: Galaxy) -> Galaxy:
        """As one of the real galaxies, if there are any; its PSF must be settled."""
        if self.real is None:
            return galaxy
        return self.real.become(galaxy, self.seed, self.renderer.psf_fwhm(galaxy))

    def in_band(self, galaxy: Galaxy, band: str) -> Galaxy:
        """As a band shows it."""
        return in_band(self.population, galaxy, self.seed, band)

    def noise_field(self, galaxy: Galaxy) -> Field:
        """How the noise of one pixel of its image goes with that of the next."""
        if galaxy.sky_piece >= 0:
            return self.pieces[galaxy.sky_piece].field
        return self.population.noise_field


@lru_cache(maxsize=1)
def _kept(out: str, settings: str, folding: float) -> Ingredients:
    return Ingredients(Path(out), json.loads(settings), folding)


def ingredients(out: str, settings: dict[str, Any], folding: float) -> Ingredients:
    """The same, kept from call to call by a worker."""
    return _kept(out, json.dumps(settings), folding)


def _sky_file(out: Path) -> Path:
    return out / "sky.parquet"
