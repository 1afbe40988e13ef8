"""Pictures of results, drawn off screen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from numpy.typing import NDArray

Array = NDArray[np.float64]
_LABELS = {"bt": "B/T", "r_e": "R_e [arcsec]", "flux": "flux (share of truth)"}


def new_figure(width: float, height: float) -> Figure:
    """A figure [inch] that needs no display."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _bright(magnitude: Array) -> tuple[NDArray[np.bool_], str]:
    """Which galaxies a figure is about, in words too: the bright ones, or all if there are none."""
    bright = magnitude < 21
    return (bright, "mag < 21") if bright.any() else (~bright, "all")


def residual_figure(
    columns: Mapping[str, Array], truth: Mapping[str, Array], magnitude: Array, path: Path
) -> None:
    """Mode minus truth: histograms above, against magnitude below; galaxies of all magnitudes."""
    figure = new_figure(12, 6.5)
    axes = figure.subplots(2, 3)
    rows, words = _bright(magnitude)
    for k, (name, label) in enumerate(_LABELS.items()):
        left = columns[f"{name}_mode"] - truth[name]
        left = left / truth["flux"] if name == "flux" else left
        bright = left[rows]
        span = 4 * np.percentile(np.abs(bright), 68)
        top, bottom = axes[0, k], axes[1, k]
        top.hist(bright, bins=np.linspace(-span, span, 61), color="#4878a8")
        top.axvline(0, color="k", lw=0.8)
        top.set_title(
            f"{words}: median {np.median(bright):.2g}, sigma {bright.std():.2g}",
            fontsize=9,
        )
        top.set_xlabel(f"mode - truth, {label}")
        top.locator_params(axis="x", nbins=5)
        bottom.scatter(magnitude, left, s=4, alpha=0.4, color="#4878a8", linewidths=0)
        bottom.axhline(0, color="k", lw=0.8)
        bottom.set(xlabel="magnitude", ylabel=f"mode - truth, {label}", ylim=(-2 * span, 2 * span))
    figure.savefig(path, dpi=110)


def truth_figure(
    columns: Mapping[str, Array], truth: Mapping[str, Array], magnitude: Array, path: Path
) -> None:
    """Mode minus truth against the true values of all three, of the bright galaxies.

    Diagonal panels: each parameter against its own truth; with running median and 68 %.
    """
    figure = new_figure(12, 9.5)
    axes = figure.subplots(3, 3, sharey="row")
    rows, words = _bright(magnitude)
    across = {"bt": "true B/T", "r_e": "true R_e [arcsec]", "flux": "true magnitude"}
    for i, (name, label) in enumerate(_LABELS.items()):
        left = (columns[f"{name}_mode"] - truth[name])[rows]
        left = left / truth["flux"][rows] if name == "flux" else left
        span = 4 * np.percentile(np.abs(left), 68)
        for k, (other, other_label) in enumerate(across.items()):
            axis, x = axes[i, k], (magnitude if other == "flux" else truth[other])[rows]
            axis.scatter(x, left, s=3, alpha=0.3, color="#4878a8", linewidths=0)
            edges = np.quantile(x, np.linspace(0, 1, 11))
            bins = np.clip(np.searchsorted(edges, x, side="right") - 1, 0, 9)
            filled = [n for n in range(10) if (bins == n).any()]
            low, middle, high = np.array(
                [np.percentile(left[bins == n], [15.865, 50, 84.135]) for n in filled]
            ).T
            centres = [np.median(x[bins == n]) for n in filled]
            axis.errorbar(
                centres, middle, (middle - low, high - middle), fmt="o", ms=3, lw=1, color="#c44e52"
            )
            axis.axhline(0, color="k", lw=0.8)
            axis.set_ylim(-span, span)
            if i == 2:
                axis.set_xlabel(other_label)
        axes[i, 0].set_ylabel(f"mode - truth, {label}")
    note = "red: median and 68 % of tenths"
    figure.suptitle(f"{int(rows.sum())} galaxies, {words}; {note}", fontsize=10)
    figure.savefig(path, dpi=110)


def coverage_figure(
    held: NDArray[np.bool_],
    levels: Sequence[float],
    ranks: Mapping[str, Array],
    magnitude: Array,
    path: Path,
) -> None:
    """Share of truths inside the published intervals of all levels, and the histogram of ranks.

    Parameters
    ----------
    held : ndarray, (n, levels, 3) bool
    levels : sequence of float
    ranks : mapping of str to ndarray, (n,)
    magnitude : ndarray, (n,)
    path : Path
    """
    rows, words = _bright(magnitude)
    figure = new_figure(9, 4.3)
    curves, histogram = figure.subplots(1, 2)
    for k, (name, label) in enumerate(_LABELS.items()):
        curves.plot(levels, held[rows, :, k].mean(0), "o-", ms=3, label=label.split(" ")[0])
        histogram.hist(ranks[name][rows], bins=np.linspace(0, 1, 21), histtype="step", density=True)
    curves.plot([0, 1], [0, 1], "k--", lw=0.8)
    curves.set(xlabel="level of the interval", ylabel="share of truths inside")
    curves.legend(frameon=False)
    histogram.axhline(1, color="k", ls="--", lw=0.8)
    histogram.set(xlabel="rank of the truth among the draws", ylabel="density")
    figure.suptitle(f"{int(rows.sum())} galaxies, {words}", fontsize=10)
    figure.savefig(path, dpi=110)


def calibration_figure(found: Sequence[Mapping[str, Any]], chosen: float, path: Path) -> None:
    """Coverage less its level, one curve a dropout rate; below, ranks of the truth.

    Parameters
    ----------
    found : sequence of mapping
        Of each rate, what :func:`survey_gampen.training.calibrate.judge` returns, and ``rate``.
    chosen : float
    path : Path
    """
    figure = new_figure(11, 6.2)
    axes = figure.subplots(2, 3)
    shades = np.linspace(0.05, 0.85, len(found))
    for k, (name, label) in enumerate(_LABELS.items()):
        curves, ranks = axes[0, k], axes[1, k]
        for one, shade in zip(found, shades, strict=True):
            best = one["rate"] == chosen
            style: dict[str, Any] = {
                "color": colormaps["viridis"](shade),
                "lw": 2.4 if best else 1.2,
                "label": f"{one['rate']:g}{' (chosen)' if best else ''}",
            }
            levels = np.array(one["levels"])
            curves.plot(levels, 100 * (np.array(one[name]["coverage"]) - levels), **style)
            counts = np.array(one[name]["ranks"])
            ranks.stairs(
                counts * len(counts) / one["n"], np.linspace(0, 1, len(counts) + 1), **style
            )
        # Two standard errors of a share of so many galaxies.
        error = 200 * np.sqrt(levels * (1 - levels) / found[0]["n"])
        curves.fill_between(levels, -error, error, color="0.9", zorder=0)
        curves.axhline(0, color="k", ls="--", lw=0.8)
        curves.set(title=label.split(" ")[0], xlabel="level of the interval")
        ranks.axhline(1, color="k", ls="--", lw=0.8)
        ranks.set(xlabel="rank of the truth among the draws")
    axes[0, 0].set_ylabel("truths inside, less the level [points]")
    axes[1, 0].set_ylabel("density")
    axes[0, 2].legend(frameon=False, fontsize=8, title="dropout rate")
    figure.savefig(path, dpi=110, format="png")
