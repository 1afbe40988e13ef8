"""How all pictures of the page look, and how they become bytes."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from survey_gampen.report.figures import new_figure

#: Of Okabe and Ito's set (2008), which the colour-blind can tell apart.
BLUE, RED, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#e69f00", "#009e73", "#9aa3ad"
PALE = "#b9d6ea"

#: quantity: its label in a picture
LABELS = {"bt": "B/T", "r_e": r"$R_e$ [arcsec]", "flux": "flux [nJy]", "mag": "magnitude [AB]"}

#: Three pixels for two of the page: sharp on paper, and twenty cutouts stay a few megabytes.
_DPI = 150
_LOOK: dict[Any, Any] = {
    "font.size": 9,
    "axes.labelsize": 9,
    "axes.titlesize": 9,
    "xtick.labelsize": 8,
    "ytick.labelsize": 8,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "axes.linewidth": 0.7,
    "axes.edgecolor": "#444444",
    "xtick.color": "#444444",
    "ytick.color": "#444444",
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def picture(draw: Callable[[Figure], None], width: float, height: float) -> bytes:
    """Draw a picture off screen.

    Parameters
    ----------
    draw : callable
        Draws on the figure it is given.
    width, height : float
        [inch]; the page shows an inch as 100 pixels.

    Returns
    -------
    bytes
        PNG.
    """
    with mpl.rc_context(_LOOK):
        figure = new_figure(width, height)
        draw(figure)
        stream = io.BytesIO()
        # Without software and date: the same run gives the same bytes.
        figure.savefig(stream, format="png", dpi=_DPI, metadata={"Software": None})
    return stream.getvalue()


def bare(axis: Axes) -> None:
    """Leave the height of a density untold: only its shape means something."""
    axis.set_yticks([])
    axis.spines["left"].set_visible(False)
