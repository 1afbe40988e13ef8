"""How fast is a simulation, against GalSim alone drawing the same galaxies?

Two ways to the same images, in turns in one process, in seconds of processor time (so that a busy
machine does not count):

- ``GalSim``: a plain loop over the same galaxies: disk and bulge convolved with the PSF on the
  whole cutout, each neighbour on its own stamp, GalSim's own noise; nothing is written;
- ``simulate_block``: this package's block, from drawing the galaxies to the published files.

The images differ by their noise alone: their difference over its standard deviation must have mean
0 and standard deviation 1, to two per cent.

    python benchmarks/simulate.py [--n 64] [--repeats 3] [--population hsc-wide] [--json FILE]
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import galsim
import numpy as np
import zarr
from ceilings import ceilings, told, write
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from survey_gampen.simulation import simulate
from survey_gampen.simulation.ingredients import describe
from survey_gampen.simulation.population import Galaxy, Population, Profile

#: What `simulate` is to reach of GalSim's own rate.
WANTED = 0.9
#: By how much the difference of the images may not be that of two noises.
TOLERANCE = 0.02
Image = NDArray[np.float32]
Result = TypeVar("Result")


def plain_loop(
    population: Population, galaxies: list[Galaxy], seed: int
) -> list[tuple[Image, Image]]:
    """The same galaxies as anybody would draw them with GalSim, and the variances of the noise."""
    size, scale = population["size"], population["pixel_scale"]
    level = population["noise"]["sky_level"]
    params = galsim.GSParams(maximum_fft_size=8192)
    noise = galsim.BaseDeviate(seed + 1)

    def light(profile: Profile) -> galsim.GSObject:
        return galsim.Sersic(
            profile.sersic_n,
            half_light_radius=profile.half_light_radius,
            flux=profile.flux,
            gsparams=params,
        ).shear(q=profile.axis_ratio, beta=profile.position_angle * galsim.degrees)

    drawn = []
    for galaxy in galaxies:
        image = galsim.ImageF(size, size, scale=scale)
        image.setCenter(0, 0)
        psf = galsim.Moffat(galaxy.moffat_beta, fwhm=galaxy.moffat_fwhm, gsparams=params)
        whole = galsim.Convolve(galsim.Sum([light(p) for p in galaxy.components]), psf)
        place = galsim.PositionD(galaxy.disk.x, galaxy.disk.y)
        whole.drawImage(image, center=place, add_to_image=True)
        for neighbour in galaxy.neighbours:
            one = galsim.Convolve(light(neighbour), psf)
            place = galsim.PositionD(neighbour.x, neighbour.y)
            stamp = one.drawImage(scale=scale, center=place)
            bounds = stamp.bounds & image.bounds
            if bounds.isDefined():
                image[bounds] += stamp[bounds]
        variance = galaxy.sky_sigma**2 * (1 + np.maximum(image.array, 0) / level)
        image.addNoise(galsim.VariableGaussianNoise(noise, galsim.Image(variance)))
        drawn.append((image.array, variance))
    return drawn


def processor_seconds(call: Callable[[], Result]) -> tuple[float, Result]:
    """Processor time of a call, all its threads together, and what it returned."""
    begun = time.process_time()
    result = call()
    return time.process_time() - begun, result


def differences(drawn: list[tuple[Image, Image]], out: Path, unit: float) -> tuple[float, float]:
    """Mean and standard deviation of the images' differences over those of their noises."""
    group: Any = zarr.open_group(str(out), mode="r")
    images = np.asarray(group["image"][: len(drawn)]) / unit
    plain, variance = (np.stack(arrays) for arrays in zip(*drawn, strict=True))
    over = (images - plain) / np.sqrt(2 * variance)
    return float(over.mean()), float(over.std())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=64, help="galaxies; at most one block of 128")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--population", default="hsc-wide")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    if not 1 <= args.n <= simulate.BLOCK:
        parser.error(f"--n must be 1 to {simulate.BLOCK}")

    ceiling = ceilings()
    population = Population.load(args.population)
    galaxies = [population.draw(args.seed, i) for i in range(args.n)]
    seconds: dict[str, list[float]] = {"GalSim": [], "simulate_block": []}
    folder = Path(tempfile.mkdtemp(prefix="simulate-"))
    try:
        for repeat in range(args.repeats + 1):
            out = folder / str(repeat)
            simulate.prepare(out, describe(population, args.n, args.seed) | {"parts": False})
            plain, drawn = processor_seconds(lambda: plain_loop(population, galaxies, args.seed))
            block, _ = processor_seconds(partial(simulate.simulate_block, str(out), 0))
            if repeat:  # the first of each warms up: GalSim tabulates profiles once an index
                seconds["GalSim"].append(plain)
                seconds["simulate_block"].append(block)
        mean, scatter = differences(drawn, out, population.unit)
    finally:
        shutil.rmtree(folder)

    rates = {name: args.n / min(times) for name, times in seconds.items()}
    ratio = rates["simulate_block"] / rates["GalSim"]
    console = Console()
    print(told(ceiling))
    print(
        f"GalSim {galsim.__version__}, {args.n} galaxies of {population['name']}, best of "
        f"{args.repeats}"
    )
    table = Table("way", "galaxies / s a core", "ms a galaxy", "of GalSim's rate")
    for name, rate in rates.items():
        table.add_row(name, f"{rate:.1f}", f"{1e3 / rate:.1f}", f"{rate / rates['GalSim']:.2f}")
    console.print(table)
    agrees = max(abs(mean), abs(scatter - 1)) < TOLERANCE
    print(
        f"differences of the images over their noise: {mean:.4f} ± {scatter:.4f}; the two "
        + ("agree" if agrees else "do NOT agree: the rates say nothing")
    )
    console.print(f"wanted: {WANTED} or more; {'reached' if ratio >= WANTED else 'missed'}")
    figures = {
        "galsim": galsim.__version__,
        "population": population["name"],
        "n": args.n,
        "seconds": seconds,
        "galaxies_a_second": rates,
        "ratio": ratio,
        "difference_mean": mean,
        "difference_std": scatter,
    }
    write(args.json, ceiling, figures)


if __name__ == "__main__":
    main()
