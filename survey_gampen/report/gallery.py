"""Galaxies beside their posteriors, the crop of the spatial transformer drawn on them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from survey_gampen.report.figures import new_figure

_LABELS = ("B/T", "R_e [arcsec]", "flux [nJy]")


@dataclass(frozen=True)
class Portrait:
    """One galaxy.

    Attributes
    ----------
    name : str
    image : ndarray, (size, size)
        [nJy].
    crop : tuple of three float
        Side over that of the cutout; offset of the centre in x and y [arcsec].
    draws : ndarray, (passes, 3)
        B/T, R_e [arcsec], flux [nJy].
    truth : tuple of three float, or None
    pixel_scale : float
        [arcsec / px].
    """

    name: str
    image: NDArray[np.float32]
    crop: tuple[float, float, float]
    draws: NDArray[np.float32]
    truth: tuple[float, ...] | None = None
    pixel_scale: float = 0.168


def gallery(portraits: Sequence[Portrait], path: Path) -> None:
    """Draw one row a galaxy: cutout with crop, and the three marginal posteriors."""
    n = len(portraits)
    figure = new_figure(11, 2.3 * n)
    axes = figure.subplots(n, 4, squeeze=False, width_ratios=(1, 1.4, 1.4, 1.4))
    for row, portrait in zip(axes, portraits, strict=True):
        show_cutout(row[0], portrait)
        for k, (axis, label) in enumerate(zip(row[1:], _LABELS, strict=True)):
            axis.hist(portrait.draws[:, k], bins=40, density=True, color="#9db7d5")
            low, high = np.percentile(portrait.draws[:, k], [15.865, 84.135])
            axis.axvspan(low, high, color="#4878a8", alpha=0.15, lw=0)
            if portrait.truth is not None:
                axis.axvline(portrait.truth[k], color="k", lw=1.2, ls="--")
            axis.set_yticks([])
            axis.locator_params(axis="x", nbins=5)
            axis.ticklabel_format(axis="x", style="sci", scilimits=(-3, 4))
            axis.xaxis.get_offset_text().set_fontsize(7)
            axis.tick_params(labelsize=7)
            axis.set_xlabel(label, fontsize=8, labelpad=1)
    axes[0, 1].set_title("posterior, 68 % shaded; dashed: truth", fontsize=9)
    figure.savefig(path, dpi=110)


def show_cutout(axis: Axes, portrait: Portrait) -> None:
    """Draw a cutout, and the crop on it."""
    half = portrait.image.shape[0] * portrait.pixel_scale / 2
    noise = 1.4826 * np.median(np.abs(portrait.image - np.median(portrait.image)))
    stretched = np.arcsinh(portrait.image / (2 * noise or 1.0))  # 0: a cutout without data
    axis.imshow(
        stretched,
        origin="lower",
        cmap="gray_r",
        extent=(-half, half, -half, half),
        vmin=-1,
        vmax=max(np.percentile(stretched, 99.8), 1.0),
    )
    scale, dx, dy = portrait.crop
    side = 2 * half * scale
    axis.add_patch(
        Rectangle((dx - side / 2, dy - side / 2), side, side, fill=False, ec="#c44e52", lw=1.2)
    )
    axis.set_title(portrait.name, fontsize=9)
    axis.tick_params(labelsize=7)


def posterior_figure(portrait: Portrait, path: Path) -> None:
    """One galaxy: its cutout with the crop, and the joint posterior with the truth."""
    figure = new_figure(9.5, 9)
    axes = figure.subplots(3, 3)
    draws = portrait.draws
    spans = [_span(draws[:, k], portrait.truth[k] if portrait.truth else None) for k in range(3)]
    for i, row in enumerate(axes):
        for k, axis in enumerate(row):
            if k > i:
                axis.set_axis_off()
                continue
            if i == k:
                axis.hist(draws[:, k], bins=40, range=spans[k], color="#9db7d5")
                low, high = np.percentile(draws[:, k], [15.865, 84.135])
                axis.axvspan(low, high, color="#4878a8", alpha=0.15)
                axis.set_yticks([])
            else:
                axis.scatter(
                    draws[:, k], draws[:, i], s=3, alpha=0.4, color="#4878a8", linewidths=0
                )
                axis.set_ylim(spans[i])
            axis.set_xlim(spans[k])
            axis.tick_params(labelsize=8)
            if portrait.truth is not None:
                axis.axvline(portrait.truth[k], color="k", lw=1, ls="--")
                if i != k:
                    axis.axhline(portrait.truth[i], color="k", lw=1, ls="--")
            if i == 2:
                axis.set_xlabel(_LABELS[k])
            if k == 0 and i > 0:
                axis.set_ylabel(_LABELS[i])
    show_cutout(figure.add_axes((0.62, 0.64, 0.34, 0.32)), portrait)
    figure.savefig(path, dpi=110)


def _span(draws: NDArray[np.float32], truth: float | None) -> tuple[float, float]:
    """Range of an axis that shows almost all draws, and the truth."""
    low, high = np.percentile(draws, [0.3, 99.7]).tolist()
    if truth is not None:
        low, high = min(low, truth), max(high, truth)
    margin = 0.05 * (high - low or 1.0)
    return low - margin, high + margin
