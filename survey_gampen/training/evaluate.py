"""`survey-gampen evaluate`: posteriors of simulated galaxies against what is true of them."""

from __future__ import annotations

import json
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from matplotlib.axes import Axes
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from survey_gampen.errors import InputError
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.model.targets import PARAMETERS
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.summary import summarise
from survey_gampen.report import figures
from survey_gampen.report.corner import corner_picture
from survey_gampen.report.gallery import Portrait, draw_cutout
from survey_gampen.simulation.population import Population
from survey_gampen.simulation.simulate import read_settings, read_truth
from survey_gampen.training import metrics
from survey_gampen.training.coverage import LEVELS, held
from survey_gampen.training.unseen import batches, cutouts, engine_here

#: Edges of the bins in magnitude, R_e [arcsec] and B/T; pure and almost pure disks and bulges, the
#: hardest cases, on their own.
MAGNITUDES = (15.0, 17.0, 19.0, 21.0, 23.0)
RADII = (0.0, 0.5, 1.0, 2.0, 3.0, 10.0)
RATIOS = (0.0, 0.05, 0.35, 0.65, 0.95, 1.01)


def main(
    model: str,
    data: Path,
    out: Path,
    *,
    passes: int = 1000,
    limit: int | None = None,
    seed: int = 0,
    precision: str = "auto",
) -> int:
    """Evaluate a model on finished cutouts made by ``simulate``.

    Writes ``evaluation.json`` (all figures, by magnitude, size and B/T), ``galaxies.parquet`` (the
    columns of each galaxy, with its truth) and pictures into the folder `out`, and prints a table.

    Raises
    ------
    InputError
        If the model or the data cannot be used.
    """
    if read_settings(data)["parts"]:
        raise InputError(f"{data} holds parts: evaluate on what simulate makes without --parts")
    out.mkdir(parents=True, exist_ok=True)  # rather an error now than after all the passes
    checkpoint = load_checkpoint(model)
    population = Population(read_settings(data)["population"])
    checkpoint.check_takes(population["size"], population["pixel_scale"], population.bands)
    engine = engine_here(checkpoint, passes, seed, precision)
    table = read_truth(data)[:limit]
    truth = {p: table[p].to_numpy().astype(float) for p in PARAMETERS}
    magnitude = table["mag"].to_numpy()
    measured = measure(engine, data, truth, example(truth, magnitude))
    columns = measured.columns
    selections = selected(truth, magnitude)
    result = {
        "model": str(model),
        "model_sha256": checkpoint.sha256,
        "data": read_settings(data)["population"]["name"],
        "n": len(table),
        "passes": passes,
        "precision": engine.settings.precision,
        "levels": LEVELS,
        "figures": {
            name: metrics.figures(columns, truth, rows) for name, rows in selections.items()
        },
        "coverage": {
            name: {p: measured.held[rows, :, k].mean(0).tolist() for k, p in enumerate(PARAMETERS)}
            for name, rows in selections.items()
            if rows.any()
        },
    }
    everything = columns | {f"{p}_true": truth[p] for p in PARAMETERS} | {"mag": magnitude}
    pq.write_table(pa.table(everything), out / "galaxies.parquet")
    (out / "evaluation.json").write_text(json.dumps(result, indent=1))
    (out / "posterior.png").write_bytes(_pictured(measured.example))
    figures.residual_figure(columns, truth, magnitude, out / "residuals.png")
    figures.truth_figure(columns, truth, magnitude, out / "truth.png")
    figures.coverage_figure(measured.held, LEVELS, measured.ranks, magnitude, out / "coverage.png")
    # A file has no width: as wide as the table needs.
    Console(width=None if Console().is_terminal else 180).print(_table(result))
    print(f"figures and pictures in {out}")
    return 0


def selected(
    truth: dict[str, NDArray[np.float64]], magnitude: NDArray[np.float64]
) -> dict[str, NDArray[np.bool_]]:
    """Galaxies by name of the selection: brighter than 21, by magnitude, R_e and B/T, all."""
    chosen = {"< 21": magnitude < 21}
    for label, values, edges in (
        ("", magnitude, MAGNITUDES),
        ("R_e ", truth["r_e"], RADII),
        ("B/T ", truth["bt"], RATIOS),
    ):
        for a, b in pairwise(edges):
            chosen[f"{label}{a:g}-{min(b, 1.0) if label == 'B/T ' else b:g}"] = (a <= values) & (
                values < b
            )
    return chosen | {"all": np.ones(len(magnitude), dtype=bool)}


def example(truth: dict[str, NDArray[np.float64]], magnitude: NDArray[np.float64]) -> int:
    """The first galaxy with both components and of middling magnitude, or the first of all."""
    fit = (np.abs(truth["bt"] - 0.5) < 0.3) & (np.abs(magnitude - 18.5) < 1)
    return int(np.argmax(fit))


@dataclass(frozen=True)
class Measured:
    """What was found of n galaxies.

    Attributes
    ----------
    columns, ranks : dict of str to ndarray, (n,)
        Posterior columns and CRPS; rank of each truth among the draws.
    held : ndarray, (n, levels, 3) bool
        Whether the interval of each of :data:`LEVELS` holds the truth.
    example : Portrait
        One galaxy with its draws.
    """

    columns: dict[str, NDArray[np.float64]]
    ranks: dict[str, NDArray[np.float64]]
    held: NDArray[np.bool_]
    example: Portrait


def measure(
    engine: Engine, data: Path, truth: dict[str, NDArray[np.float64]], which: int
) -> Measured:
    """Draw from the posteriors of the first galaxies of `data`, as many as there are truths.

    `which` is the one whose draws are kept.
    """
    parts: list[dict[str, Any]] = []
    inside = []
    ranks: dict[str, list[Any]] = {p: [] for p in PARAMETERS}
    true = np.stack([truth[p] for p in PARAMETERS], axis=1)
    rows = track(batches(len(true)), "measuring", console=Console(stderr=True))
    for where, images in zip(rows, cutouts(data, len(true)), strict=True):
        draws = engine.draws(images, np.arange(where.start, where.stop, dtype=np.uint64))
        part: dict[str, Any] = summarise(draws)
        for k, p in enumerate(PARAMETERS):
            sample = draws.physical[..., k].cpu().numpy()
            part[f"{p}_crps"] = metrics.crps(sample, truth[p][where])
            ranks[p].append(metrics.rank_of_truth(sample, truth[p][where]))
        inside.append(held(draws.physical, true[where], LEVELS).numpy())
        parts.append(part)
        if where.start <= which < where.stop:
            i = which - where.start
            crop = tuple(draws.crop[i].tolist())
            sample = draws.physical[i].cpu().numpy()
            scale = engine.network.arch.pixel_scale
            told = tuple(true[which].tolist())
            image = images[i] if images.ndim == 3 else images[i, 0]
            portrait = Portrait(f"galaxy {which}", image, crop, sample, told, scale)
    columns = {
        name: np.concatenate([part[name] for part in parts]).astype(float) for name in parts[0]
    }
    every = {p: np.concatenate(r) for p, r in ranks.items()}
    return Measured(columns, every, np.concatenate(inside), portrait)


def _pictured(one: Portrait) -> bytes:
    """The joint posterior of a galaxy, its truth, and the galaxy beside it."""

    def beside(axis: Axes) -> None:
        draw_cutout(axis, one.image, one.pixel_scale, one.crop)
        axis.set_axis_off()

    return corner_picture(one.draws, one.truth, beside)


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=f"{result['n']} galaxies, {result['passes']} passes: mode minus truth")
    table.add_column("galaxies")
    names = (
        "mean",
        "median",
        "sigma",
        "nmad",
        "p50_sigma",
        "p50_nmad",
        "coverage_ci68",
        "coverage_ci95",
        "coverage_ci99",
        "crps",
    )
    for head in ("n", "", *names):
        table.add_column(head.replace("coverage_ci", "in "), justify="right")
    units = {"bt": "B/T", "r_e": 'R_e ["]', "flux": "flux [share]"}
    for name, found in result["figures"].items():
        for p in PARAMETERS:
            cells = [f"{found[p][key][0]:.4f} ± {found[p][key][1]:.4f}" for key in names]
            table.add_row(name, str(found["n"]), units[p], *cells)
    return table
