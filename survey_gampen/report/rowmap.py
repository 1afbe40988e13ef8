"""Where the rows of a catalogue lie, and whether they have images."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from survey_gampen.report import skyaxes
from survey_gampen.report.cells import Images, corners, patches
from survey_gampen.report.scan import Scan
from survey_gampen.report.skyaxes import SkyAxes
from survey_gampen.report.style import BLUE, ORANGE, PALE, RED

#: Pixels in the map.
_PATCHES = 6000
_LOOK: dict[Images, tuple[str, dict[str, Any]]] = {
    Images.ALL: ("all rows have an image", {"facecolor": PALE, "edgecolor": BLUE}),
    Images.SOME: ("some rows have", {"facecolor": "#f7dfa8", "edgecolor": ORANGE}),
    Images.NONE: ("no row has", {"facecolor": "#f6c9a8", "edgecolor": RED}),
    Images.UNKNOWN: ("rows of the catalogue", {"facecolor": PALE, "edgecolor": BLUE}),
}
_MARK: dict[str, Any] = {"marker": "+", "color": "k", "ms": 5, "mew": 0.8}


def row_map(found: Scan) -> bytes:
    """Draw the occupied HEALPix cells, and where the galaxies of the contact sheet lie: PNG."""
    pixels = patches(found.cells, found.with_image is not None, _PATCHES)
    rings = [(kind, skyaxes.outlines(npix, order)) for kind, order, npix in corners(pixels)]
    kinds = sorted({kind for kind, _ in rings})
    ra, dec = (found.sample[name].to_numpy() for name in ("ra", "dec"))

    def draw(sky: SkyAxes) -> None:
        for kind, borders in rings:
            sky.fill(borders, linewidths=0.4, zorder=1 + kind / 10, **_LOOK[kind][1])
        handles: list[Patch | Line2D] = [
            Patch(label=_LOOK[kind][0], **_LOOK[kind][1]) for kind in kinds
        ]
        if len(ra):
            sky.points(ra, dec, zorder=2, **_MARK)
            handles.append(Line2D([], [], ls="", label="on the contact sheet", **_MARK))
        sky.axis.figure.legend(
            handles=handles, loc="outside upper center", ncols=len(handles),
            columnspacing=1.2, handletextpad=0.5,
            title=f"{found.rows} rows, {found.cells.area:.4g} deg²",
        )  # fmt: skip

    return skyaxes.sky_picture(np.concatenate([r.reshape(-1, 2) for _, r in rings]), draw)
