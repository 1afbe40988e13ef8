"""One galaxy as a picture: its cutout with the crop, and its posterior."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from numpy.typing import NDArray

from survey_gampen.posterior.density import kernel_density
from survey_gampen.report.gallery import draw_cutout
from survey_gampen.report.picks import Row
from survey_gampen.report.style import BLUE, LABELS, PALE, bare, picture

#: Range, and whether the estimate is reflected at its ends, as in the catalogue's own columns.
_BOUNDS = {"bt": (0.0, 1.0, True), "r_e": (0.0, np.inf, False), "flux": (0.0, np.inf, False)}


@dataclass(frozen=True)
class Card:
    """A galaxy to draw.

    Attributes
    ----------
    row : dict
        Its row of the catalogue.
    image : ndarray, (size, size), or None
        [nJy]; None where the cutout was not kept.
    pixel_scale : float
        [arcsec / px].
    draws : ndarray, (passes, 3), or None
        B/T, R_e [arcsec], flux [nJy]; None where the draws were not kept.
    """

    row: Row
    image: NDArray[np.float32] | None = None
    pixel_scale: float = 0.0
    draws: NDArray[np.float32] | None = None

    @property
    def measured(self) -> bool:
        """Whether the galaxy has a posterior."""
        return self.row["bt_p50"] is not None


def card_picture(card: Card) -> bytes | None:
    """Draw what there is of a galaxy; None where there is nothing to draw."""
    if card.image is None and not card.measured:
        return None

    def draw(figure: Figure) -> None:
        both = card.image is not None and card.measured
        panels: Any = figure.subfigures(1, 2, width_ratios=(1.15, 1)) if both else [figure] * 2
        if card.image is not None:
            _cutout(panels[0].subplots(), card)
        if card.measured:
            for axis, name in zip(panels[1].subplots(3, 1), _BOUNDS, strict=True):
                _posterior(axis, card, name)

    width = 4.4 if card.image is not None and card.measured else 2.6
    return picture(draw, width, 2.5)


def _cutout(axis: Axes, card: Card) -> None:
    assert card.image is not None
    crop = tuple(card.row[name] for name in ("stn_scale", "stn_dx", "stn_dy"))
    draw_cutout(axis, card.image, card.pixel_scale, None if None in crop else crop)
    axis.spines[:].set_visible(True)
    axis.locator_params(nbins=5)
    axis.tick_params(labelsize=6.5, length=2)
    axis.set_xlabel("x [arcsec]", fontsize=7, labelpad=1)
    axis.set_ylabel("y [arcsec]", fontsize=7, labelpad=0)


def _posterior(axis: Axes, card: Card, name: str) -> None:
    unit, label = 1.0, LABELS[name]
    if name == "flux":
        unit, label = flux_unit(card.row["flux_p50"])
    value = {
        key: card.row[f"{name}_{key}"] / unit
        for key in ("p2_5", "p16", "p50", "p84", "p97_5", "mode", "ci68_lo", "ci68_hi")
    }
    if card.draws is not None and np.isfinite(card.draws).all() and len(card.draws) > 1:
        draws = card.draws[:, list(_BOUNDS).index(name)].astype(np.float64) / unit
        x, y = density(draws, name)
        axis.fill_between(x, y, color=PALE, lw=0)
        inside = (x >= value["ci68_lo"]) & (x <= value["ci68_hi"])
        axis.fill_between(x, y, where=inside, color=BLUE, alpha=0.45, lw=0)
        axis.plot(x, y, color=BLUE, lw=0.9)
        axis.set_ylim(0, None)
    else:
        axis.plot([value["p2_5"], value["p97_5"]], [0, 0], color=BLUE, lw=1.2)
        axis.plot([value["p16"], value["p84"]], [0, 0], color=PALE, lw=7, solid_capstyle="butt")
        axis.plot([value["mode"]], [0], "|", color=BLUE, ms=9, mew=1.4)
        axis.set_ylim(-1, 1)
    axis.axvline(value["p50"], color="k", lw=0.9, ls="--")
    if name == "bt":
        axis.set_xlim(0, 1)
    else:
        pad = max((value["p97_5"] - value["p2_5"]) * 0.25, abs(value["p50"]) * 1e-3, 1e-12)
        axis.set_xlim(value["p2_5"] - pad, value["p97_5"] + pad)
    bare(axis)
    axis.locator_params(axis="x", nbins=4)
    axis.ticklabel_format(axis="x", useOffset=False)
    axis.tick_params(labelsize=6.5, length=2)
    axis.set_xlabel(label, fontsize=7, labelpad=1)


def density(draws: NDArray[np.float64], name: str) -> tuple[NDArray[Any], NDArray[Any]]:
    """The kernel density estimate that modes and intervals of the catalogue come from.

    Parameters
    ----------
    draws : ndarray, (passes,)
    name : {"bt", "r_e", "flux"}

    Returns
    -------
    x, y : ndarray
        Points within the range of the quantity, and the density there.
    """
    low, high, reflected = _BOUNDS[name]
    ordered = torch.from_numpy(np.sort(draws))[None, None]
    found = kernel_density(ordered, ordered.std(-1), [reflected], [low], [high])
    step, start = float(found.step), float(found.start)
    if step == 0:  # all draws are one number
        return np.repeat(draws[0], 3), np.array([0.0, 1.0, 0.0])
    y = np.diff(found.cumulative[0, 0].numpy()) / step
    x = start + (np.arange(len(y)) + 0.5) * step
    inside = (x >= low) & (x <= high)
    return x[inside], y[inside]


def flux_unit(flux: float) -> tuple[float, str]:
    """A power of 1000 that leaves few digits, and the label that says so."""
    power = int(np.clip(np.floor(np.log10(max(abs(flux), 1.0)) / 3) * 3, 0, 12))
    return 10.0**power, f"flux [$10^{power}$ nJy]" if power else "flux [nJy]"
