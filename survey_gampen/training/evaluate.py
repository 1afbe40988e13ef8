"""`survey-gampen evaluate`: posteriors of simulated galaxies against what is true of them."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from survey_gampen.errors import InputError
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.model.targets import PARAMETERS
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.settings import resolve_device, resolve_precision, usable_cores
from survey_gampen.posterior.summary import summarise
from survey_gampen.training import metrics
from survey_gampen.training.population import Population, fits
from survey_gampen.training.simulate import read_settings, read_truth

#: Edges of the magnitude bins.
BINS = (15.0, 17.0, 19.0, 21.0, 23.0)
_BATCH = 64


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

    Writes ``evaluation.json`` (all figures by magnitude) and pictures into the folder `out`, and
    prints a table.

    Raises
    ------
    InputError
        If the model or the data cannot be used.
    """
    if read_settings(data)["parts"]:
        raise InputError(f"{data} holds parts: evaluate on what simulate makes without --parts")
    out.mkdir(parents=True, exist_ok=True)  # rather an error now than after all the passes
    device = resolve_device()
    checkpoint = load_checkpoint(model)
    fits(checkpoint.config, Population(read_settings(data)["population"]))
    engine = Engine(
        checkpoint,
        passes=passes,
        seed=seed,
        precision=resolve_precision(precision, device),
        batch=_BATCH,
        device=device,
        threads=usable_cores(),
    )
    table = read_truth(data)[:limit]
    truth = {p: table[p].to_numpy().astype(float) for p in PARAMETERS}
    columns, ranks = measure(engine, data, truth, len(table))
    magnitude = table["mag"].to_numpy()
    bins = {f"{a:g}-{b:g}": (a <= magnitude) & (magnitude < b) for a, b in pairwise(BINS)}
    selections = {"< 21": magnitude < 21, **bins, "all": magnitude > 0}
    result = {
        "model": str(model),
        "model_sha256": checkpoint.sha256,
        "data": read_settings(data)["population"]["name"],
        "n": len(table),
        "passes": passes,
        "precision": engine.settings.precision,
        "figures": {
            name: metrics.figures(columns, truth, rows) for name, rows in selections.items()
        },
    }
    (out / "evaluation.json").write_text(json.dumps(result, indent=1))
    from survey_gampen.report.figures import coverage_figure, residual_figure

    residual_figure(columns, truth, magnitude, out / "residuals.png")
    coverage_figure(ranks, magnitude, out / "coverage.png")
    # A file has no width: as wide as the table needs.
    Console(width=None if Console().is_terminal else 150).print(_table(result))
    print(f"figures and pictures in {out}")
    return 0


def measure(
    engine: Engine, data: Path, truth: dict[str, NDArray[np.float64]], n: int
) -> tuple[dict[str, NDArray[np.float64]], dict[str, NDArray[np.float64]]]:
    """Posterior columns and CRPS of the first `n` galaxies, and the rank of each truth.

    Returns
    -------
    columns, ranks : dict of str to ndarray, (n,)
    """
    parts: list[dict[str, Any]] = []
    ranks: dict[str, list[Any]] = {p: [] for p in PARAMETERS}
    for where, images in track(list(_batches(data, n)), description="measuring"):
        draws = engine.draws(images(), np.arange(where.start, where.stop, dtype=np.uint64))
        part: dict[str, Any] = summarise(draws)
        for k, p in enumerate(PARAMETERS):
            sample = draws.physical[..., k].cpu().numpy()
            part[f"{p}_crps"] = metrics.crps(sample, truth[p][where])
            ranks[p].append(metrics.rank_of_truth(sample, truth[p][where]))
        parts.append(part)
    columns = {
        name: np.concatenate([part[name] for part in parts]).astype(float) for name in parts[0]
    }
    return columns, {p: np.concatenate(r) for p, r in ranks.items()}


def _batches(data: Path, n: int) -> Iterator[tuple[slice, Any]]:
    array = zarr.open_group(str(data), mode="r")["image"]
    for start in range(0, n, _BATCH):
        where = slice(start, min(n, start + _BATCH))
        yield where, lambda where=where: np.asarray(array[where])


def _table(result: dict[str, Any]) -> Table:
    table = Table(title=f"{result['n']} galaxies, {result['passes']} passes: mode minus truth")
    table.add_column("magnitude")
    names = (
        "mean",
        "median",
        "sigma",
        "nmad",
        "coverage_ci68",
        "coverage_ci95",
        "coverage_ci99",
        "crps",
    )
    for head in ("n", "", *names):
        table.add_column(head.replace("coverage_ci", "in "), justify="right")
    units = {"bt": "B/T", "r_e": 'R_e ["]', "flux": "flux [share]"}
    for name, figures in result["figures"].items():
        for p in PARAMETERS:
            cells = [f"{figures[p][key][0]:.4f} ± {figures[p][key][1]:.4f}" for key in names]
            table.add_row(name, str(figures["n"]), units[p], *cells)
    return table
