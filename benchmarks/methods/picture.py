"""Residuals of all methods side by side."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from methods.judge import BINS, Array, Truth, residuals, rows
from survey_gampen.report.style import BLUE, ORANGE, picture

#: quantity: label, and half the range shown; what lies outside stands on the border.
PANELS = {
    "flux": ("magnitude, answer minus truth", 0.6),
    "r_e": (r"$\ln R_e$, answer minus truth", 1.0),
    "bt": ("B/T, answer minus truth", 0.6),
}
COLOURS = (BLUE, ORANGE)


def draw(records: list[dict[str, Any]], truth: Truth, path: Path) -> None:
    """One panel a quantity, one line a method; the bars are median and 16-84 range."""
    methods = rows(records)

    def paint(figure: Figure) -> None:
        axes = figure.subplots(1, len(PANELS), sharey=True)
        for axis, (quantity, (label, span)) in zip(axes, PANELS.items(), strict=True):
            axis.axvline(0, color="k", lw=0.7)
            for place, fits in enumerate(methods.values()):
                mag, off = residuals(fits, truth, quantity)
                for k, colour in enumerate(COLOURS):
                    inside = (mag >= BINS[k]) & (mag < BINS[k + 1]) & np.isfinite(off)
                    line(axis, off[inside].clip(-span, span), place + 0.36 * k - 0.18, colour)
            axis.set(xlabel=label, xlim=(-1.05 * span, 1.05 * span))
        axes[0].set_yticks(range(len(methods)), methods)
        axes[0].invert_yaxis()
        names = [f"magnitude {low:.0f} to {high:.0f}" for low, high in pairwise(BINS)]
        marks = [Line2D([], [], color=colour, lw=2, marker="o", ms=4) for colour in COLOURS]
        figure.legend(marks, names, loc="outside upper center", ncols=2)

    path.write_bytes(picture(paint, 10, 1.1 + 0.55 * len(methods)))


def line(axis: Axes, off: Array, height: float, colour: str) -> None:
    """Residuals of one method in one bin of magnitude."""
    if not off.size:
        return
    # Beside each other, in the order of the galaxies.
    heights = height + np.linspace(-0.1, 0.1, off.size)
    axis.plot(off, heights, "o", ms=3.5, mew=0, alpha=0.45, color=colour)
    p16, p50, p84 = np.percentile(off, [16, 50, 84])
    axis.plot([p16, p84], [height, height], color=colour, lw=2)
    axis.plot(p50, height, "|", ms=11, mew=2.2, color=colour)
