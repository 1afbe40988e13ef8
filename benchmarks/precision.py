"""What do bfloat16 and int8 cost in accuracy? The third promise of the design, measured.

The same galaxies, masks and noise in float32 and in the others: by how much do the percentiles of
each posterior move, in units of its width (half of p84 - p16 in float32), and does the coverage
of the intervals change? To be kept: median shift under 5 %, 95th percentile under 15 %, coverage
within one point.

    python benchmarks/precision.py [--model survey] [--data FOLDER] [--n 256] [--passes 200]
                                   [--device cuda]

FOLDER is what ``survey-gampen simulate`` makes; without it `n` galaxies are simulated on the spot.
A change of coverage by a point is seen with a thousand galaxies or more: look at its error.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from ceilings import ceilings, told, write
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.model.targets import PARAMETERS
from survey_gampen.posterior.fidelity import MEDIAN, P95, Columns, Images, posteriors, shifts
from survey_gampen.posterior.settings import PRECISIONS, has, usable_cores
from survey_gampen.posterior.summary import LEVELS, PERCENTILES
from survey_gampen.simulation import simulate
from survey_gampen.training.metrics import covered


def simulated(
    data: Path | None, population: str, n: int, threads: int
) -> tuple[Images, dict[str, NDArray[np.float64]]]:
    """Pixels [nJy] (n, size, size) and truths of the first n galaxies of a simulation.

    It lies in `data`, or is made on the spot.
    """
    with tempfile.TemporaryDirectory() as folder:
        if data is None:
            data = Path(folder) / "sim"
            simulate.main(population, n, data, seed=20_000, workers=threads)
        table = simulate.read_truth(data)[:n]
        group: Any = zarr.open_group(str(data), mode="r")
        images = np.asarray(group["image"][: len(table)])
    names = (*PARAMETERS, "sky_sigma")
    return images, {name: table[name].to_numpy().astype(float) for name in names}


def compare(exact: Columns, rounded: Columns, truth: Columns) -> dict[str, dict[str, float]]:
    """Shifts and coverages, by quantity."""
    result, moved = {}, shifts(exact, rounded)
    for quantity in PARAMETERS:
        figures: dict[str, float] = {}
        for name in PERCENTILES:
            relative = moved[f"{quantity}_{name}"]
            figures[f"{name}_median"] = float(np.median(relative))
            figures[f"{name}_95th"] = float(np.percentile(relative, 95))
        for name in LEVELS:
            held = [covered(columns, truth, quantity, name) for columns in (exact, rounded)]
            figures[f"{name}_fp32"], figures[f"{name}_rounded"] = (float(h.mean()) for h in held)
            # Only truths that one of the two holds tell a difference; chance puts each on a side.
            figures[f"{name}_error"] = float(np.sqrt((held[0] != held[1]).sum()) / len(held[0]))
        result[quantity] = figures
    return result


def kept(result: dict[str, dict[str, float]]) -> bool:
    """Whether the promise holds for all quantities and percentiles."""
    return all(
        figures[f"{name}_median"] < MEDIAN and figures[f"{name}_95th"] < P95
        for figures in result.values()
        for name in PERCENTILES
    ) and all(
        abs(figures[f"{name}_fp32"] - figures[f"{name}_rounded"]) <= 0.01
        for figures in result.values()
        for name in LEVELS
    )


def _coverage(figures: dict[str, float], name: str) -> str:
    change = figures[f"{name}_rounded"] - figures[f"{name}_fp32"]
    return f"{figures[f'{name}_fp32']:.3f}, {change:+.4f} ± {figures[f'{name}_error']:.4f}"


def show(result: dict[str, dict[str, float]]) -> None:
    """Print a table."""
    table = Table("", *(f"shift of {name}" for name in PERCENTILES), *(f"in {n}" for n in LEVELS))
    table.caption = "shift / width: median, 95th percentile; coverage: fp32, then what is added"
    for quantity, figures in result.items():
        table.add_row(
            quantity,
            *(f"{figures[f'{n}_median']:.1%}, {figures[f'{n}_95th']:.1%}" for n in PERCENTILES),
            *(_coverage(figures, name) for name in LEVELS),
        )
    Console(width=200).print(table)
    print("promise kept" if kept(result) else "promise NOT kept")


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="survey")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--population", default="hsc-wide")
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--passes", type=int, default=200)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    ceiling = ceilings(args.device, args.threads)
    images, truth = simulated(args.data, args.population, args.n, args.threads)
    model = load_checkpoint(args.model)
    precisions = [p for p in reversed(PRECISIONS) if has(p, args.device)]
    found = {
        precision: posteriors(model, images, args.passes, precision, args.device)
        for precision in track(precisions, description="precisions")
    }
    exact = found.pop("fp32")
    result = {name: compare(exact, rounded, truth) for name, rounded in found.items()}
    print(told(ceiling))
    for name, figures in result.items():
        print(f"{name}: {len(images)} galaxies, {args.passes} passes")
        show(figures)
    write(args.json, ceiling, {"n": len(images), "passes": args.passes} | result)


if __name__ == "__main__":
    main()
