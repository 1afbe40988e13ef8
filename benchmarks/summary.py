"""What does it cost to turn draws into a catalogue's columns? Beside scipy, on the same draws.

Percentiles, moments, modes and intervals of B/T, R_e, flux and magnitude by

- ``integrals``: how GaMPEN's result scripts do it (Ghosh et al. 2022): for one galaxy and
  parameter after the other ``scipy.stats.gaussian_kde``, its density on a grid, its integral up
  to each point by ``integrate_box_1d``, and the interval grown point by point from the highest;
- ``sums``: the same with the density's running sum for its integral, which is what one would
  write who has profiled the former; it also reflects B/T at 0 and 1, as this package does;
- ``package``: this package, in batches as a run has them.

All on one core: galaxies are independent, more cores help all alike. The bandwidth of all three
is Scott's; this package's kernel is wider by 0.05 %, since draws are put on a grid first.
Times alternate in one run; their medians count.

Figures are compared in units of the posterior's width (half of p84 - p16), and must agree to
0.02 of it in 95 of 100, to 0.1 in 99: the ends of ``integrals`` are points of a grid, which is
coarse for skewed posteriors, and where two maxima are equally high either is the mode.
``integrals`` does not know that B/T ends at 0 and 1: only posteriors that stay clear of both count
for it there.

    python benchmarks/summary.py [--n 256] [--passes 1000] [--points 1000] [--json FILE]
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ceilings import ceilings, told, write
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.integrate import cumulative_trapezoid
from scipy.stats import gaussian_kde

from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.posterior.engine import Draws
from survey_gampen.posterior.summary import LEVELS, PERCENTILES, QUANTITIES, ZERO_POINT, summarise
from survey_gampen.run.measure import BATCHES

#: Widths of the simulated posteriors, in standard deviations of the model's targets.
NARROWEST, WIDEST = 0.02, 0.5
#: Shares of a posterior's width to which figures must agree, by the share of figures that must.
TOLERANCES = {0.95: 0.02, 0.99: 0.1}
GOAL = 300
#: Bandwidths from an end beyond which it does not matter to a posterior.
_CLEAR = 5
_ENDS = {"bt": (0.0, 1.0), "r_e": (0.0, np.inf), "flux": (0.0, np.inf), "mag": (-np.inf, np.inf)}
#: Ends of mode, then intervals: what comes from the density.
SHAPE = ("mode", *(f"{level}_{end}" for level in LEVELS for end in ("lo", "hi")))

Floats = NDArray[np.float64]
Columns = dict[str, Floats]
#: From one sample, points of the grid and the ends to what :data:`SHAPE` names.
Shape = Callable[[Floats, int, tuple[float, float]], list[float]]


def simulated(n: int, passes: int, seed: int = 0) -> Draws:
    """Draws as the shipped model makes them: Gaussian on its targets' scale."""
    rng = np.random.default_rng(seed)
    centre = rng.normal(size=(n, 1, 3))
    width = np.exp(rng.uniform(np.log(NARROWEST), np.log(WIDEST), (n, 1, 3)))
    scaled = torch.tensor(centre + width * rng.normal(size=(n, passes, 3)), dtype=torch.float32)
    physical = load_checkpoint("survey").targets.to_physical(scaled)
    every = torch.ones(n, dtype=torch.bool)
    return Draws(scaled, physical, torch.ones(n, 3), every)


def some(draws: Draws, rows: slice) -> Draws:
    """A batch of them."""
    return Draws(*(t[rows] for t in (draws.scaled, draws.physical, draws.crop, draws.finite)))


def integrals(x: Floats, points: int, ends: tuple[float, float]) -> list[float]:
    """Mode and intervals from one integral a point of the grid."""
    kde, grid = _on_grid(x, points, ends)
    top = int(kde.pdf(grid).argmax())
    below = np.array([kde.integrate_box_1d(grid[0], end) for end in grid])
    away = np.arange(1, max(top, points - 1 - top) + 1)
    low, high = np.maximum(top - away, 0), np.minimum(top + away, points - 1)
    held = (below[high] - below[low]) / below[-1]
    best = [int(np.abs(held - level).argmin()) for level in LEVELS.values()]
    return [grid[top], *(grid[end[k]] for k in best for end in (low, high))]


def sums(x: Floats, points: int, ends: tuple[float, float]) -> list[float]:
    """Mode and intervals from the density's running sum."""
    kde, grid = _on_grid(x, points, ends)
    start, stop = grid[0], grid[-1]
    density = kde(grid)
    if np.isfinite(ends[1]):  # reflected, where that changes anything
        for end in (end for end in ends if end in (start, stop)):
            density += kde(2 * end - grid)
    below = cumulative_trapezoid(density, grid, initial=0.0)
    mode = grid[density.argmax()]
    half = np.linspace(0.0, stop - start, points)
    low, high = np.maximum(mode - half, start), np.minimum(mode + half, stop)
    held = np.interp(high, grid, below) - np.interp(low, grid, below)
    grown = [np.interp(level * below[-1], held, half) for level in LEVELS.values()]
    return [mode, *(e for h in grown for e in (max(mode - h, start), min(mode + h, stop)))]


def _on_grid(x: Floats, points: int, ends: tuple[float, float]) -> tuple[gaussian_kde, Floats]:
    """The estimate, and a grid as wide as it is within the ends."""
    kde = gaussian_kde(x)
    reach = _CLEAR * np.sqrt(kde.covariance[0, 0])
    return kde, np.linspace(max(x.min() - reach, ends[0]), min(x.max() + reach, ends[1]), points)


def one_by_one(physical: Floats, points: int, shape: Shape) -> Columns:
    """Columns of (n, passes, 3), modes and intervals for a galaxy and parameter at a time."""
    magnitude = ZERO_POINT - 2.5 * np.log10(physical[..., 2:])
    values = np.concatenate([physical, magnitude], axis=-1)
    columns: Columns = {}
    for i, quantity in enumerate(QUANTITIES):
        x = values[..., i]
        percentiles = np.percentile(x, list(PERCENTILES.values()), axis=1)
        found = dict(zip(PERCENTILES, percentiles, strict=True))
        found |= {"mean": x.mean(1), "std": x.std(1, ddof=1)}
        shapes = np.array([_shape(shape, sample, points, _ENDS[quantity]) for sample in x])
        found |= dict(zip(SHAPE, shapes.T, strict=True))
        columns |= {f"{quantity}_{name}": column for name, column in found.items()}
    return columns


def _shape(shape: Shape, x: Floats, points: int, ends: tuple[float, float]) -> list[float]:
    """Scipy refuses a posterior whose draws are all one number: B/T of a pure disk."""
    return shape(x, points, ends) if np.ptp(x) > 0 else [x[0]] * len(SHAPE)


def package(draws: Draws) -> Columns:
    """The same by this package."""
    n, batch = len(draws.physical), BATCHES["cpu"]
    parts = [summarise(some(draws, slice(k, k + batch))) for k in range(0, n, batch)]
    return {k: np.concatenate([part[k] for part in parts]).astype(float) for k in parts[0]}


def clear(columns: Columns, physical: Floats) -> dict[str, NDArray[np.bool_]]:
    """Which posteriors stay clear of the ends of their range."""
    result = {"mag": np.ones(len(physical), bool)}
    for i, quantity in enumerate(QUANTITIES[:3]):
        x = physical[..., i]
        reach = _CLEAR * columns[f"{quantity}_std"] * x.shape[1] ** -0.2
        low, high = _ENDS[quantity]
        result[quantity] = (x.min(1) - reach > low) & (x.max(1) + reach < high)
    return result


def apart(ours: Columns, theirs: Columns, counted: dict[str, NDArray[np.bool_]]) -> Floats:
    """By how much figures differ, in widths of the posteriors."""
    found = []
    for quantity in QUANTITIES:
        width = (theirs[f"{quantity}_p84"] - theirs[f"{quantity}_p16"]) / 2
        # A posterior that is nearly all on one of B/T's ends has no width to speak of.
        rows = counted[quantity] & (width > 0)
        for name in (*PERCENTILES, "mean", "std", *SHAPE):
            key = f"{quantity}_{name}"
            found.append(np.abs(ours[key] - theirs[key])[rows] / width[rows])
    return np.concatenate(found)


def timed(run: Callable[[], Columns]) -> tuple[float, Columns]:
    """Seconds, and what came out."""
    begun = time.perf_counter()
    columns = run()
    return time.perf_counter() - begun, columns


def measure(n: int, passes: int, points: int, repeats: int, few: int) -> dict[str, dict[str, Any]]:
    """All three; each repeat gives scipy `few` other galaxies, the package all `n`."""
    draws = simulated(n, passes)
    package(some(draws, slice(0, few)))  # warms up
    shapes: dict[str, Shape] = {"integrals": integrals, "sums": sums}
    each: dict[str, list[float]] = {name: [] for name in (*shapes, "package")}
    differences: dict[str, list[Floats]] = {name: [] for name in shapes}
    for repeat in range(repeats):
        seconds, ours = timed(lambda: package(draws))
        each["package"].append(seconds / n)
        rows = np.arange(repeat * few, (repeat + 1) * few) % n
        physical = draws.physical[rows].double().numpy()
        mine = {name: column[rows] for name, column in ours.items()}
        free = clear(mine, physical)
        everything = dict.fromkeys(QUANTITIES, np.ones(few, bool))
        for name, shape in shapes.items():
            seconds, theirs = timed(lambda p=physical, s=shape: one_by_one(p, points, s))  # type: ignore[misc]
            each[name].append(seconds / few)
            counted = free if name == "integrals" else everything
            differences[name].append(apart(mine, theirs, counted))
    result: dict[str, dict[str, Any]] = {}
    for name, seconds_each in each.items():
        ratio = np.median(np.array(seconds_each) / np.array(each["package"]))
        result[name] = {"s_a_galaxy": float(np.median(seconds_each)), "ratio": float(ratio)}
        if name in differences:
            figures = np.concatenate(differences[name])
            result[name] |= {
                "figures": len(figures),
                "median": float(np.median(figures)),
                **{f"{share}": float(np.quantile(figures, share)) for share in TOLERANCES},
                "most": float(figures.max()),
            }
    return result


def show(result: dict[str, dict[str, Any]]) -> None:
    """Print a table, and whether all agree."""
    table = Table(
        "", "galaxies/s", "ms a parameter", "x package", "apart: median", "95 %", "99 %", "most"
    )
    table.caption = "apart: from the package's figures, in widths of the posteriors"
    for name, row in result.items():
        apart = [
            f"{row[k]:.5f}" if k in row else "" for k in ("median", *map(str, TOLERANCES), "most")
        ]
        speed = f"{1 / row['s_a_galaxy']:.1f}"
        parameter = f"{1e3 * row['s_a_galaxy'] / len(QUANTITIES):.3f}"
        table.add_row(name, speed, parameter, f"{row['ratio']:.0f}", *apart)
    Console(width=110).print(table)
    agree = all(
        row.get(str(share), 0.0) <= tolerance
        for row in result.values()
        for share, tolerance in TOLERANCES.items()
    )
    wanted = ", ".join(f"{t} of a width in {s:.0%}" for s, t in TOLERANCES.items())
    print(f"figures {'agree' if agree else 'do NOT agree'} to {wanted}")
    reached = result["integrals"]["ratio"] >= GOAL
    print(f"wanted: {GOAL} times the scripts' speed; {'kept' if reached else 'NOT kept'}")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--passes", type=int, default=1000)
    parser.add_argument("--points", type=int, default=1000, help="of scipy's grids")
    parser.add_argument("--repeats", type=int, default=9)
    parser.add_argument("--few", type=int, default=16, help="galaxies that scipy gets a repeat")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    ceiling = ceilings(threads=1)
    print(told(ceiling))
    result = measure(args.n, args.passes, args.points, args.repeats, args.few)
    show(result)
    write(args.json, ceiling, {"n": args.n, "passes": args.passes, "summary": result})


if __name__ == "__main__":
    main()
