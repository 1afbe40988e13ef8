"""Fits against the truth: how many answered, how far off they are, what their intervals hold."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
from methods import with_gampen
from methods.problem import QUANTITIES
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

#: Edges of the magnitude bins: the bright and the faint half of the population.
BINS = (15.0, 19.0, 23.0)
#: quantity: its residual in words.
RESIDUALS = {"flux": "Δmag", "r_e": "Δ ln R_e", "bt": "Δ B/T"}
Array = NDArray[np.float64]
Truth = Mapping[str, Sequence[float]]


def rows(records: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Fits by row of the tables."""
    found: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        found.setdefault(record["row"], []).append(record)
    return found


def residuals(fits: list[dict[str, Any]], truth: Truth, quantity: str) -> tuple[Array, Array]:
    """Magnitudes of the galaxies with an answer, and by how much it is off: in magnitudes for the
    flux, in the logarithm for R_e, as such for B/T."""
    fits = [f for f in fits if f["answer"]]
    value = np.array([f["answer"][quantity][0] for f in fits])
    true, mag = (np.array([truth[q][f["galaxy"]] for f in fits]) for q in (quantity, "mag"))
    if quantity == "bt":
        return mag, value - true
    off = np.log(value / true)
    return mag, -2.5 / np.log(10) * off if quantity == "flux" else off


def intervals(fits: list[dict[str, Any]], truth: Truth, quantity: str) -> dict[str, float]:
    """How many answers have one, the share of these that holds the truth, and the median of half
    their widths (as a share of the truth, but for B/T)."""
    given = [(f["galaxy"], *f["answer"][quantity][1:]) for f in fits if f["answer"]]
    given = [row for row in given if np.isfinite(row[1])]
    if not given:
        return {"n": 0}
    galaxy, low, high = np.array(given).T
    true = np.array(truth[quantity])[galaxy.astype(int)]
    half = (high - low) / 2 / (1 if quantity == "bt" else true)
    held = (low <= true) & (true <= high)
    return {"n": len(given), "held": float(held.mean()), "half_width": float(np.median(half))}


def judge(records: list[dict[str, Any]], truth: Truth) -> dict[str, Any]:
    """All figures, by row of the tables."""
    ours = {r["galaxy"]: r["seconds"] for r in records if r["row"] == with_gampen.NAME}
    figures: dict[str, Any] = {}
    for name, fits in rows(records).items():
        seconds = np.array([f["seconds"] for f in fits])
        on_same = sum(ours[f["galaxy"]] for f in fits)
        figures[name] = {
            "galaxies": len(fits),
            "answers": sum(bool(f["answer"]) for f in fits),
            "seconds_median": float(np.median(seconds)),
            "seconds_total": float(seconds.sum()),
            "times_ours": float(seconds.sum() / on_same),
            "residuals": {q: _binned(*residuals(fits, truth, q)) for q in QUANTITIES},
            "in_68": {q: intervals(fits, truth, q) for q in QUANTITIES},
        }
    return {"methods": figures}


def _binned(mag: Array, off: Array) -> list[dict[str, float]]:
    """Number, median and half the 16-84 range in each bin."""
    found = []
    for low, high in pairwise(BINS):
        values = off[(mag >= low) & (mag < high) & np.isfinite(off)]
        if values.size:
            p16, p50, p84 = np.percentile(values, [16, 50, 84])
            found.append({"n": values.size, "median": p50, "half_width": (p84 - p16) / 2})
        else:
            found.append({"n": 0, "median": np.nan, "half_width": np.nan})
    return found


def show(figures: dict[str, Any]) -> None:
    """Print the tables: speed, then accuracy in each bin, then intervals."""
    methods, console = figures["methods"], Console(width=150)
    table = Table("method", "galaxies", "answers", "s a galaxy (median)", "total s", "x ours")
    table.caption = "x ours: by the time of survey-gampen on the same galaxies"
    for name, f in methods.items():
        counts = (str(f["galaxies"]), str(f["answers"]))
        speed = (f"{f['seconds_median']:.2f}", f"{f['seconds_total']:.0f}")
        table.add_row(name, *counts, *speed, f"{f['times_ours']:.1f}")
    console.print(table)
    table = Table("magnitude", "method", "n", *RESIDUALS.values())
    table.caption = "median ± half the 16-84 range of answer minus truth"
    for k, (low, high) in enumerate(pairwise(BINS)):
        for name, f in methods.items():
            bins = {q: f["residuals"][q][k] for q in RESIDUALS}
            cells = [
                f"{b['median']:+.3f} ± {b['half_width']:.3f}" if b["n"] else ""
                for b in bins.values()
            ]
            table.add_row(f"{low:.0f}-{high:.0f}", name, str(bins["flux"]["n"]), *cells)
        table.add_section()
    console.print(table)
    table = Table("truths in the 68 % interval", "n", *QUANTITIES)
    table.caption = "± by chance, if it were 68 %; then half the interval of the median galaxy"
    for name, f in methods.items():
        inside = f["in_68"]
        if n := inside["bt"]["n"]:
            chance = np.sqrt(0.68 * 0.32 / n)
            given = (inside[q] for q in QUANTITIES)
            words = [f"{g['held']:.0%} ± {chance:.0%}, {g['half_width']:.3f}" for g in given]
            table.add_row(name, str(n), *words)
    console.print(table)
