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
        draw_cutout(row[0], portrait.image, portrait.pixel_scale, portrait.crop)
        row[0].set_title(portrait.name, fontsize=9)
        row[0].tick_params(labelsize=7)
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


def draw_cutout(
    axis: Axes,
    image: NDArray[np.float32],
    pixel_scale: float,
    crop: tuple[float, ...] | None,
) -> None:
    """Draw a cutout, stretched like the sky's noise, and the crop on it.

    Parameters
    ----------
    axis : Axes
    image : ndarray, (size, size)
        [nJy].
    pixel_scale : float
        [arcsec / px].
    crop : tuple of three float, or None
        As in :class:`Portrait`; None where the network saw nothing.
    """
    half = image.shape[0] * pixel_scale / 2
    noise = 1.4826 * np.median(np.abs(image - np.median(image)))
    stretched = np.arcsinh(image / (2 * noise or 1.0))  # 0: a cutout without data
    axis.imshow(
        stretched,
        origin="lower",
        cmap="gray_r",
        extent=(-half, half, -half, half),
        vmin=-1,
        vmax=max(np.percentile(stretched, 99.8), 1.0),
    )
    if crop is not None:
        scale, dx, dy = crop
        side = 2 * half * scale
        axis.add_patch(
            Rectangle((dx - side / 2, dy - side / 2), side, side, fill=False, ec="#c44e52", lw=1.2)
        )
