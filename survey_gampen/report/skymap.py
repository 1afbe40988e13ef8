"""Where on the sky a run is: outlines of its partitions with their state, and flagged galaxies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from survey_gampen.catalog.hats_out import HasPixel, Pixel
from survey_gampen.report import skyaxes
from survey_gampen.report.gather import Gathered, numbers
from survey_gampen.report.skyaxes import SkyAxes
from survey_gampen.report.style import BLUE, GREY, ORANGE, PALE, RED
from survey_gampen.report.tally import Floats

#: Outlines in the picture; where a plan has more partitions, they are put together.
OUTLINES = 4000


class State(IntEnum):
    """Of a partition; where several are drawn as one, the worst counts."""

    PUBLISHED = 0
    MISSING = 1
    QUARANTINED = 2


_LOOK: dict[State, dict[str, Any]] = {
    State.PUBLISHED: {"facecolor": PALE, "edgecolor": BLUE},
    State.MISSING: {"facecolor": "#f1f1f1", "edgecolor": GREY, "hatch": "...."},
    State.QUARANTINED: {"facecolor": "#f6c9a8", "edgecolor": RED, "hatch": "////"},
}


class Outlines:
    """Pixels of a stream of partitions, in bounded number.

    Parameters
    ----------
    most : int
        When there are more, the finest are replaced by the pixels around them.
    """

    def __init__(self, most: int = OUTLINES) -> None:
        self._most = most
        self._finest = 29
        self.states: dict[Pixel, State] = {}
        self.counts: Counter[State] = Counter()

    @property
    def merged(self) -> bool:
        """Whether an outline may stand for several partitions."""
        return self._finest < 29

    def add(self, pixels: Iterable[tuple[HasPixel, State]]) -> None:
        """Take in partitions."""
        for pixel, state in pixels:
            self.counts[state] += 1
            self._put(Pixel(pixel.norder, pixel.npix), state)
            while len(self.states) > self._most:
                self._finest = max(known.norder for known in self.states) - 1
                old, self.states = self.states, {}
                for known, worst in old.items():
                    self._put(known, worst)

    def _put(self, pixel: Pixel, state: State) -> None:
        up = max(0, pixel.norder - self._finest)
        pixel = Pixel(pixel.norder - up, pixel.npix >> 2 * up)
        self.states[pixel] = max(state, self.states.get(pixel, state))


def sky_map(outlines: Outlines, found: Gathered) -> bytes:
    """Draw the map: the whole sky, or a close view where all lies within 40 degrees."""
    corners = list(_corners(outlines))

    def draw(sky: SkyAxes) -> None:
        for state, rings in corners:
            sky.fill(rings, linewidths=0.6, zorder=1 + state / 10, **_LOOK[state])
        for rows, look in _kinds(found):
            if rows is not None:
                sky.points(numbers(rows, "ra"), numbers(rows, "dec"), zorder=2, **look)
        _legend(sky.axis, corners, found)

    every = np.concatenate([ring.reshape(-1, 2) for _, ring in corners])
    return skyaxes.sky_picture(every, draw)


Rings = list[tuple[State, Floats]]


def _corners(outlines: Outlines) -> Iterator[tuple[State, Floats]]:
    """Outlines of each state and order: (pixels, points, 2) of ra and dec [deg]."""
    groups: dict[tuple[State, int], list[int]] = {}
    for pixel, state in outlines.states.items():
        groups.setdefault((state, pixel.norder), []).append(pixel.npix)
    for (state, norder), pixels in sorted(groups.items()):
        yield state, skyaxes.outlines(pixels, norder)


def _kinds(found: Gathered) -> list[tuple[pa.Table | None, dict[str, Any]]]:
    """Galaxies to draw, and how: clean, flagged, without a posterior."""
    few = len(found.sample) + len(found.flagged) < 500
    size = 4.0 if few else 2.0
    return [
        (found.sample.table(), {"marker": ".", "color": BLUE, "ms": size, "mew": 0}),
        (found.flagged.table(), {"marker": "o", "color": ORANGE, "ms": size, "mew": 0}),
        (found.without.table(), {"marker": "x", "color": "k", "ms": size + 1, "mew": 0.8}),
    ]


def _legend(axis: Axes, corners: Rings, found: Gathered) -> None:
    there = {state for state, _ in corners}
    handles: list[Patch | Line2D] = [
        Patch(label=state.name.lower(), **_LOOK[state]) for state in State if state in there
    ]
    words = ("no flag", "flagged", "no posterior")
    handles += [
        Line2D([], [], ls="", label=label, **look)
        for label, (rows, look) in zip(words, _kinds(found), strict=True)
        if rows is not None
    ]
    axis.legend(
        handles=handles, loc="upper center", bbox_to_anchor=(0.5, 1.1), ncols=len(handles),
        columnspacing=1.2, handletextpad=0.5,
    )  # fmt: skip
