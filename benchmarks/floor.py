"""How well could anybody measure these galaxies? The noise floor of a population.

For each simulated galaxy: the Fisher information of its pixels about everything that was drawn for
it (flux, B/T, both Sersic profiles, the position, and the PSF, which the network is not told),
plus that of the ranges they were drawn from (van Trees 1968, "Detection, Estimation, and
Modulation Theory", section 2.4: a bound on the mean squared error of any estimator, here taken at
the true galaxy and so a little too high or too low for the single one). A uniform range counts as
a normal distribution of the same variance. Neighbours count as known: in truth they cost more.

    python benchmarks/floor.py hsc-wide --n 400 --out floor.json
"""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from survey_gampen.simulation.population import Galaxy, Population, half_light_radius
from survey_gampen.simulation.render import Renderer

BINS = ((0.0, 21.0), (15.0, 17.0), (17.0, 19.0), (19.0, 21.0), (21.0, 23.0))


def parameters(galaxy: Galaxy) -> dict[str, float]:
    """All that was drawn for a galaxy, but for noise and neighbours."""
    disk, bulge = galaxy.disk, galaxy.bulge
    values = {"ln_flux": np.log(galaxy.flux), "bt": galaxy.bt, "x": disk.x, "y": disk.y}
    for name, profile in (("disk", disk), ("bulge", bulge)):
        values |= {
            f"{name}_n": profile.sersic_n,
            f"{name}_ln_r": np.log(profile.half_light_radius),
            f"{name}_q": profile.axis_ratio,
        }
    values |= {"angle": disk.position_angle, "tilt": bulge.position_angle - disk.position_angle}
    return values | {"fwhm": galaxy.moffat_fwhm, "beta": galaxy.moffat_beta}


def galaxy_of(values: dict[str, float], like: Galaxy) -> Galaxy:
    """Inverse of :func:`parameters`."""
    flux = float(np.exp(values["ln_flux"]))
    sides: dict[str, Any] = {}
    for name, share, turn in (("disk", 1 - values["bt"], 0.0), ("bulge", values["bt"], 1.0)):
        sides[name] = replace(
            getattr(like, name),
            flux=flux * share,
            sersic_n=values[f"{name}_n"],
            half_light_radius=float(np.exp(values[f"{name}_ln_r"])),
            axis_ratio=min(values[f"{name}_q"], 1.0),
            position_angle=values["angle"] + turn * values["tilt"],
            x=values["x"],
            y=values["y"],
        )
    sides |= {"moffat_fwhm": values["fwhm"], "moffat_beta": values["beta"]}
    return replace(like, flux=flux, bt=values["bt"], **sides)


def prior_sigmas(population: Population) -> dict[str, float]:
    """Standard deviations of the ranges that parameters are drawn from."""

    def uniform(low: float, high: float) -> float:
        return (high - low) / np.sqrt(12)

    found = {"ln_flux": 0.4 * np.log(10) * uniform(*population["magnitude"]), "bt": uniform(0, 1)}
    found |= dict.fromkeys("xy", uniform(-1, 1) * population["centre_offset"])
    for name in ("disk", "bulge"):
        ranges = population[name]
        low, high = ranges["half_light_radius"]
        # Of the logarithm of a uniform radius: little is lost by the wide range's own.
        logs = np.log(np.linspace(low, high, 1001))
        found |= {
            f"{name}_n": uniform(*ranges["sersic_n"]),
            f"{name}_ln_r": float(logs.std()),
            f"{name}_q": uniform(*ranges["axis_ratio"]),
        }
    tilt = population["bulge"]["max_misalignment"]
    found |= {"angle": uniform(0, 180), "tilt": uniform(-tilt, tilt)}
    psf = population["psf"]
    return found | {"fwhm": uniform(*psf["fwhm"]), "beta": uniform(*psf["moffat_beta"])}


def radius(values: dict[str, float]) -> float:
    """R_e [arcsec] of a galaxy with these parameters."""
    index, ln_r, q = (
        [[values["disk" + key]], [values["bulge" + key]]] for key in ("_n", "_ln_r", "_q")
    )
    return float(half_light_radius(index, np.exp(ln_r), q, np.array([values["bt"]]))[0])


def bounds(galaxy: Galaxy, renderer: Renderer, sigmas: dict[str, float]) -> dict[str, float]:
    """Floors of B/T, R_e [arcsec] and ln flux; with ``_psf`` those of who knows the PSF."""
    values = parameters(galaxy)
    image = renderer.image(galaxy)
    noise = galaxy.sky_sigma * np.sqrt(1 + np.maximum(image, 0) / renderer.sky_level)
    alone = replace(galaxy, neighbours=())  # derivatives need no neighbours
    slopes, of_radius = [], []
    for name, sigma in sigmas.items():
        # Away from the edges of what is possible, and by little of the range.
        step = 0.02 * sigma * (-1 if name == "bt" and values["bt"] > 0.5 else 1)
        step *= -1 if name.endswith("_q") else 1
        moved = values | {name: values[name] + step}
        here = renderer.image(galaxy_of(values, alone))
        there = renderer.image(galaxy_of(moved, alone))
        slopes.append(((there - here) / step / noise).ravel().astype(np.float64))
        of_radius.append((radius(moved) - radius(values)) / step)
    jacobian = np.stack(slopes)
    fisher = jacobian @ jacobian.T + np.diag([s**-2.0 for s in sigmas.values()])
    names = list(sigmas)
    found = {}
    for suffix, keep in (("", names), ("_psf", [n for n in names if n not in ("fwhm", "beta")])):
        rows = [names.index(n) for n in keep]
        covariance = np.linalg.inv(fisher[np.ix_(rows, rows)])
        gradient = np.array(of_radius)[rows]
        found["bt" + suffix] = float(np.sqrt(covariance[keep.index("bt"), keep.index("bt")]))
        found["r_e" + suffix] = float(np.sqrt(gradient @ covariance @ gradient))
        found["flux" + suffix] = float(np.sqrt(covariance[0, 0]))
    return found


def main() -> None:
    """Measure, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("population")
    parser.add_argument("--n", type=int, default=400)
    parser.add_argument("--seed", type=int, default=991)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    population = Population.load(args.population)
    renderer, sigmas = Renderer(population), prior_sigmas(population)
    rows: list[dict[str, float]] = []
    for index in range(args.n):
        galaxy = population.draw(args.seed, index)
        rows.append({"magnitude": galaxy.magnitude, **bounds(galaxy, renderer, sigmas)})
        if (index + 1) % 25 == 0:
            print(f"{index + 1} of {args.n}", flush=True)
    table = {key: np.array([row[key] for row in rows]) for key in rows[0]}
    found: dict[str, Any] = {"population": population["name"], "n": args.n, "bins": []}
    for low, high in BINS:
        inside = (table["magnitude"] >= low) & (table["magnitude"] < high)
        if inside.any():
            found["bins"].append(_of_bin(table, inside, low, high))
    args.out.write_text(json.dumps(found, indent=1))


def _of_bin(
    table: dict[str, NDArray[np.float64]], inside: NDArray[np.bool_], low: float, high: float
) -> dict[str, Any]:
    """Of the galaxies of a bin: root mean square and median floor."""
    print(f"magnitude {low:g} to {high:g}: {inside.sum()} galaxies")
    out: dict[str, Any] = {"magnitude": [low, high], "n": int(inside.sum())}
    for key in table:
        if key == "magnitude":
            continue
        values = table[key][inside]
        out[key] = {"rms": float(np.sqrt((values**2).mean())), "median": float(np.median(values))}
        print(f"  {key:9s} rms {out[key]['rms']:.4f}, median {out[key]['median']:.4f}")
    return out


if __name__ == "__main__":
    main()
