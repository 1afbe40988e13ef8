"""The joint posterior of one galaxy: every pair of parameters, and each of them alone."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter

from survey_gampen.model.targets import PARAMETERS
from survey_gampen.report.cards import density, flux_unit
from survey_gampen.report.style import BLUE, LABELS, PALE, bare, picture

#: Probability that the two contours hold.
LEVELS = (0.68, 0.95)
#: Draws below which a contour would be drawn around noise.
_ENOUGH = 100
_CELLS = 48


def corner_picture(draws: NDArray[np.float32]) -> bytes:
    """Draw the joint posterior.

    Parameters
    ----------
    draws : ndarray, (passes, 3)
        B/T, R_e [arcsec], flux [nJy]; finite.

    Returns
    -------
    bytes
        PNG.
    """
    unit, label = flux_unit(float(np.median(draws[:, 2])))
    values = draws.astype(np.float64) / [1.0, 1.0, unit]
    labels = [LABELS["bt"], LABELS["r_e"], label]
    limits = [_limits(values[:, k], name) for k, name in enumerate(PARAMETERS)]

    def draw(figure: Figure) -> None:
        axes = figure.subplots(3, 3)
        figure.set_layout_engine("constrained", h_pad=0.02, w_pad=0.02)
        for row in range(3):
            for column in range(3):
                axis = axes[row, column]
                if column > row:
                    axis.set_visible(False)
                    continue
                axis.set_xlim(limits[column])
                if column == row:
                    _alone(axis, values[:, row], PARAMETERS[row])
                else:
                    axis.set_ylim(limits[row])
                    _pair(axis, values[:, column], values[:, row])
                axis.locator_params(nbins=4)
                axis.ticklabel_format(useOffset=False)
                axis.tick_params(labelsize=7)
                _outer_labels(axis, labels, row, column)

    return picture(draw, 4.6, 4.4)


def _outer_labels(axis: Axes, labels: list[str], row: int, column: int) -> None:
    if row == 2:
        axis.set_xlabel(labels[column])
    else:
        axis.tick_params(labelbottom=False)
    if column == 0 and row > 0:
        axis.set_ylabel(labels[row])
    elif row != column:
        axis.tick_params(labelleft=False)
    if row == column:
        bare(axis)


def _limits(values: NDArray[np.float64], name: str) -> tuple[float, float]:
    if name == "bt":
        return 0.0, 1.0
    low, high = np.percentile(values, [0.5, 99.5])
    pad = max(0.1 * (high - low), 1e-3 * abs(high), 1e-12)
    return float(low - pad), float(high + pad)


def _alone(axis: Axes, values: NDArray[np.float64], name: str) -> None:
    x, y = density(values, name)
    axis.fill_between(x, y, color=PALE, lw=0)
    axis.plot(x, y, color=BLUE, lw=1)
    axis.set_ylim(0, None)
    for quantile, style in ((16, ":"), (50, "--"), (84, ":")):
        axis.axvline(np.percentile(values, quantile), color="k", lw=0.8, ls=style)


def _pair(axis: Axes, x: NDArray[np.float64], y: NDArray[np.float64]) -> None:
    axis.plot(x, y, ".", color=BLUE, ms=1.8, mew=0, alpha=0.35)
    if len(x) < _ENOUGH or not np.ptp(x) or not np.ptp(y):
        return
    limits = axis.get_xlim(), axis.get_ylim()
    counts, x_edges, y_edges = np.histogram2d(x, y, _CELLS, range=limits)
    # Mirrored at the edges: B/T piles up at 0 and 1, and smoothing must not pull it away.
    smooth = gaussian_filter(counts, 1.6, mode="reflect")
    ordered = np.sort(smooth, axis=None)[::-1]
    held = np.cumsum(ordered) / ordered.sum()
    levels = sorted({float(ordered[np.searchsorted(held, level)]) for level in LEVELS})
    middles = ((x_edges[1:] + x_edges[:-1]) / 2, (y_edges[1:] + y_edges[:-1]) / 2)
    axis.contour(*middles, smooth.T, levels, colors="k", linewidths=0.8)
