"""How does the cost grow: with passes, galaxies, rows of the catalogue, partitions?

- *passes*: a galaxy's share of one batch, by the number of Monte-Carlo passes;
- *galaxies*: the engine, batch after batch, with a few passes;
- *rows*: sorting a shuffled catalogue and planning it, in a process of its own;
- *partitions*: the conductor and real workers, whose tasks do nothing (see ``layer.py``).

The first two should be straight lines, the last two too: what a row or a partition costs must not
depend on how many there are, nor may memory grow with partitions. Each figure is the best of
`--repeats`, but for the partitions, which are many.

    python benchmarks/scaling.py [--passes 50 200 1000] [--galaxies 8 64] [--rows 100000 1000000]
                                 [--partitions 100 1000 10000] [--json FILE] [--picture FILE]

An option without numbers leaves its part out.
"""

from __future__ import annotations

import argparse
import math
import sys
import tempfile
import time
from pathlib import Path

import ceilings
import layer
import numpy as np
import plan_10m
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import NullFormatter
from rich.console import Console
from rich.table import Table

from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.settings import usable_cores
from survey_gampen.posterior.sizing import resolve_engine
from survey_gampen.posterior.summary import summarise

#: Galaxies at once, and their passes where galaxies are counted: few, so that it takes minutes.
BATCH, FEW_PASSES = 8, 8
#: What scheduling may take of a partition that lasts a minute.
MOST_SHARE, MINUTE = 0.01, 60.0
#: part: (what is counted, of which one is the cost [s])
PARTS = {
    "passes": "galaxy",
    "galaxies": "run of the engine",
    "rows": "catalogue planned",
    "partitions": "run of empty tasks",
}
Points = list[dict[str, float]]


class Engines:
    """The shipped model on noise, which costs what galaxies cost.

    Parameters
    ----------
    precision : str
    repeats : int
    """

    def __init__(self, precision: str, repeats: int) -> None:
        self._model, self._repeats = load_checkpoint("survey"), repeats
        self._settings = resolve_engine(
            self._model, BATCH, device="cpu", precision=precision, threads=usable_cores()
        )
        side = self._model.config.size
        noise = np.random.default_rng(0).normal(0, 3, (BATCH, side, side))
        self._images, self._keys = noise.astype(np.float32), np.arange(BATCH, dtype=np.uint64)

    def _seconds(self, passes: int, batches: int) -> tuple[float, float]:
        """Of building an engine, and of so many batches."""
        begun = time.perf_counter()
        engine = Engine(self._model, passes=passes, seed=0, **self._settings.to_dict())
        built = time.perf_counter() - begun

        def work() -> None:
            for _ in range(batches):
                summarise(engine.draws(self._images, self._keys))

        return built, ceilings.seconds(work, self._repeats)

    def passes(self, passes: int) -> dict[str, float]:
        """Seconds a galaxy; ``built_s`` is spent once a worker."""
        built, seconds = self._seconds(passes, 1)
        return {"seconds": seconds / BATCH, "built_s": built}

    def galaxies(self, n: int) -> dict[str, float]:
        """Seconds of `n` galaxies in whole batches."""
        return {"seconds": self._seconds(FEW_PASSES, -(-n // BATCH))[1]}


def rows(n: int) -> dict[str, float]:
    """Sort and plan `n` rows in a process of their own."""
    with tempfile.TemporaryDirectory() as folder:
        catalog, out = Path(folder, "shuffled.parquet"), Path(folder, "out")
        plan_10m.write_catalog(catalog, n, duplicate=False, text=False)
        code = plan_10m.FUNCTIONS.format(rows=plan_10m.PARTITION_ROWS)
        words = [sys.executable, "-c", code, str(catalog), str(out)]
        status, seconds, peak, said = plan_10m.measure(words)
    if status:
        sys.exit(said)
    return {"seconds": seconds, "peak_gib": peak}


def partitions(numbers: list[int], workers: int) -> Points:
    """Empty partitions; resident memory of client and scheduler after a tenth, and at the end."""
    found = []
    with layer.idle(workers) as crew:
        for n in numbers:
            seconds, early, late = layer.run(crew, n)
            figures = {"seconds": seconds, "mib_after_a_tenth": early, "mib_at_the_end": late}
            found.append({"n": n} | figures)
    return found


def exponent(points: Points) -> float:
    """Of the power law between the last two points; NaN for a single one."""
    if len(points) < 2:
        return math.nan
    (x, y), (more_x, more_y) = ((p["n"], p["seconds"]) for p in points[-2:])
    return math.log(more_y / y) / math.log(more_x / x)


def show(found: dict[str, Points]) -> None:
    """Print a table."""
    table = Table("", "n", "seconds", "ms each", "exponent", "beside")
    for part, points in found.items():
        for point in points:
            beside = [f"{k} {v:.3g}" for k, v in point.items() if k not in ("n", "seconds")]
            table.add_row(
                f"{part} of a {PARTS[part]}" if point is points[0] else "",
                f"{point['n']:.0f}",
                f"{point['seconds']:.3f}",
                f"{1e3 * point['seconds'] / point['n']:.3g}",
                f"{exponent(points):.2f}" if point is points[-1] else "",
                ", ".join(beside),
            )
        table.add_section()
    Console(width=130).print(table)


def verdict(points: Points) -> str:
    """Whether partitions cost as little as they may."""
    share = points[-1]["seconds"] / points[-1]["n"] / MINUTE
    grown = points[-1]["mib_at_the_end"] / points[-1]["mib_after_a_tenth"]
    kept = share < MOST_SHARE and grown < layer.MOST
    return (
        f"scheduling is {share:.3%} of a partition that takes a minute (at most {MOST_SHARE:.0%}), "
        f"memory grows to {grown:.3f}x (at most {layer.MOST}x): {'kept' if kept else 'NOT kept'}"
    )


def draw(path: Path, found: dict[str, Points]) -> None:
    """Seconds over what is counted, with a straight line through the last point of each part."""
    figure = Figure(figsize=(2.6 * len(found), 2.7), layout="constrained")
    for axis, (part, points) in zip(
        figure.subplots(1, len(found), squeeze=False)[0], found.items(), strict=True
    ):
        n, seconds = (np.array([p[key] for p in points]) for key in ("n", "seconds"))
        axis.loglog(n, n * seconds[-1] / n[-1], color="0.75", lw=1, ls="--", label="proportional")
        axis.loglog(n, seconds, "o-", color="#0072b2", ms=4, lw=1.2)
        axis.set_xlabel(part)
        axis.set_title(f"one {PARTS[part]}" if part == "passes" else PARTS[part], fontsize=9)
        for one in (axis.xaxis, axis.yaxis):
            one.set_minor_formatter(NullFormatter())
        axis.spines[["top", "right"]].set_visible(False)
    figure.axes[0].set_ylabel("seconds")
    figure.axes[0].legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_figure(path, dpi=150)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--passes", type=int, nargs="*", default=[50, 100, 200, 500, 1000])
    add("--galaxies", type=int, nargs="*", default=[8, 32, 128])
    add("--rows", type=int, nargs="*", default=[10_000, 100_000, 1_000_000])
    add("--partitions", type=int, nargs="*", default=[100, 1000, 10_000])
    add("--workers", type=int, default=4, help="with empty tasks")
    add("--precision", default="bf16")
    add("--repeats", type=int, default=1)
    add("--json", type=Path, help="write the figures to this file")
    add("--picture", type=Path, help="draw them into this file")
    args = parser.parse_args()
    ceiling = ceilings.ceilings()
    print(ceilings.told(ceiling))
    engines = Engines(args.precision, args.repeats)
    calls = {"passes": engines.passes, "galaxies": engines.galaxies, "rows": rows}
    found: dict[str, Points] = {}
    for part, call in calls.items():
        if numbers := getattr(args, part):
            found[part] = [{"n": n} | call(n) for n in numbers]
    if args.partitions:
        found["partitions"] = partitions(args.partitions, args.workers)
    show(found)
    if args.partitions:
        print(verdict(found["partitions"]))
    ceilings.write(args.json, ceiling, {"precision": args.precision, "scaling": found})
    if args.picture:
        draw(args.picture, found)


if __name__ == "__main__":
    main()
