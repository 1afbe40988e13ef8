"""Residuals of all methods side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from methods.judge import BINS, Truth, residuals, rows

from survey_gampen.report.style import BLUE, ORANGE, picture

#: quantity: label and half the range shown; what lies outside stands on the border.
PANELS = {
    "flux": ("magnitude: answer - truth", 0.8),
    "r_e": (r"$\ln R_e$: answer - truth", 1.2),
    "bt": ("B/T: answer - truth", 1.0),
}


def draw(records: list[dict[str, Any]], truth: Truth, path: Path) -> None:
    """One panel a quantity, one row a method; the bars are median and 16-84 range."""
    methods = rows(records)
    names = list(methods)[::-1]

    def paint(figure: Any) -> None:
        axes = figure.subplots(1, len(PANELS), sharey=True)
        for axis, (quantity, (label, span)) in zip(axes, PANELS.items(), strict=True):
            axis.axvline(0, color="k", lw=0.7)
            for place, name in enumerate(names):
                mag, off = residuals(methods[name], truth, quantity)
                for k, color in enumerate((BLUE, ORANGE)):
                    chosen = off[(mag >= BINS[k]) & (mag < BINS[k + 1]) & np.isfinite(off)]
                    if not chosen.size:
                        continue
                    y = place + 0.18 * (1 - 2 * k)
                    spread = np.linspace(-0.08, 0.08, chosen.size)
                    shown = np.clip(chosen, -span, span)
                    words = f"mag {BINS[k]:.0f}-{BINS[k + 1]:.0f}" if not place else None
                    axis.plot(
                        shown, y + spread, "o", ms=3, mew=0, alpha=0.5, color=color, label=words
                    )
                    p16, p50, p84 = np.clip(np.percentile(chosen, [16, 50, 84]), -span, span)
                    axis.plot([p16, p84], [y, y], color=color, lw=1.6)
                    axis.plot(p50, y, "|", ms=11, mew=2, color=color)
            axis.set(xlabel=label, xlim=(-1.05 * span, 1.05 * span))
        axes[0].set_yticks(range(len(names)), names)
        axes[0].legend(loc="lower left")

    path.write_bytes(picture(paint, 10, 1.2 + 0.6 * len(names)))
