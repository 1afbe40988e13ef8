"""Where on the sky a run is: outlines of its partitions with their state, and flagged galaxies."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from enum import IntEnum
from typing import Any

import numpy as np
import pyarrow as pa
from astropy import units as u
from astropy.wcs import WCS
from cdshealpix.nested import vertices
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from survey_gampen.catalog.hats_out import HasPixel, Pixel
from survey_gampen.images.grid import unit_vectors
from survey_gampen.report.gather import Gathered, numbers
from survey_gampen.report.style import BLUE, GREY, ORANGE, PALE, RED, picture
from survey_gampen.report.tally import Floats

#: Outlines in the picture; where a plan has more partitions, they are put together.
OUTLINES = 4000
#: Degrees from the middle to the farthest partition up to which the map is a close view.
_CLOSE = 40.0


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
    every = np.concatenate([ring.reshape(-1, 2) for _, ring in corners])
    vectors = unit_vectors(every[:, 0], every[:, 1])
    middle = vectors.mean(axis=0)
    length = float(np.linalg.norm(middle))
    radius = 180.0
    if length > 1e-3:
        radius = float(np.degrees(np.arccos(np.clip((vectors @ middle / length).min(), -1, 1))))
    ra = float(np.degrees(np.arctan2(middle[1], middle[0])) % 360)
    dec = float(np.degrees(np.arcsin(np.clip(middle[2] / max(length, 1e-9), -1, 1))))
    if radius <= _CLOSE:
        return picture(lambda figure: _close(figure, corners, found, ra, dec, every), 6.4, 5.6)
    return picture(lambda figure: _whole(figure, corners, found, ra), 9.6, 5.2)


Rings = list[tuple[State, Floats]]


def _corners(outlines: Outlines) -> Iterator[tuple[State, Floats]]:
    """Outlines of each state and order: (pixels, points, 2) of ra and dec [deg]."""
    groups: dict[tuple[State, int], list[int]] = {}
    for pixel, state in outlines.states.items():
        groups.setdefault((state, pixel.norder), []).append(pixel.npix)
    for (state, norder), pixels in sorted(groups.items()):
        # The border of a large pixel is bent; that of a small one is straight to the eye.
        step = max(1, 16 >> norder)
        lon, lat = vertices(np.array(sorted(pixels), np.uint64), norder, step=step)
        yield state, np.stack([lon.to_value(u.deg), lat.to_value(u.deg)], axis=-1)


def _close(
    figure: Figure, corners: Rings, found: Gathered, ra: float, dec: float, every: Floats
) -> None:
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---ZEA", "DEC--ZEA"]
    wcs.wcs.crval, wcs.wcs.crpix, wcs.wcs.cdelt = [ra, dec], [1, 1], [-1e-3, 1e-3]

    def project(points: Floats) -> Floats:
        flat = points.reshape(-1, 2)
        return np.stack(wcs.all_world2pix(flat[:, 0], flat[:, 1], 0), -1).reshape(points.shape)

    axis = figure.add_subplot(projection=wcs)
    _fill(axis, [(state, project(rings)) for state, rings in corners])
    _points(axis, found, project)
    low, high = project(every).min(axis=0), project(every).max(axis=0)
    side = 1.06 * float((high - low).max()) / 2
    x, y = (low + high) / 2
    axis.set(xlim=(x - side, x + side), ylim=(y - side, y + side), aspect="equal")
    digits = "d." + "d" * int(np.clip(np.ceil(1 - np.log10(side * 1e-3)), 1, 5))
    for coordinate, label in zip(axis.coords, ("RA [deg]", "Dec [deg]"), strict=True):
        coordinate.set_axislabel(label)
        coordinate.set_major_formatter(digits)
        coordinate.set_ticks(number=5)
        coordinate.grid(color="#888888", alpha=0.25, lw=0.5)
    _legend(axis, corners, found)


def _whole(figure: Figure, corners: Rings, found: Gathered, ra: float) -> None:
    centre = round(ra / 30) * 30

    def project(points: Floats) -> Floats:
        """Radians, east to the left."""
        lon = (points[..., 0] - centre + 180) % 360 - 180
        return np.radians(np.stack([-lon, points[..., 1]], axis=-1))

    axis = figure.add_subplot(projection="aitoff")
    _fill(axis, [(s, np.concatenate(list(_split(project(rings))))) for s, rings in corners])
    _points(axis, found, project)
    axis.set_axisbelow(False)  # the labels of RA stand in the middle of the map
    axis.grid(color="#888888", alpha=0.3, lw=0.5)
    hours = np.arange(-150, 151, 30)
    axis.set_xticks(np.radians(hours), [f"{(centre - h) % 360}°" for h in hours], fontsize=7)
    axis.tick_params(axis="y", labelsize=7)
    axis.set(xlabel="RA [deg]", ylabel="Dec [deg]")
    _legend(axis, corners, found)


def _split(rings: Floats) -> Iterator[Floats]:
    """Outlines that reach over the seam of the map, drawn at both of its ends."""
    wide = np.ptp(rings[..., 0], axis=1) > np.pi
    # Around a pole all longitudes are there, and no end is the right one: left as they are.
    yield rings[~wide]
    if wide.any():
        for sign in (1, -1):
            part = rings[wide].copy()
            lon = part[..., 0]
            # Just short of the end, where the projection would jump to the other one.
            part[..., 0] = np.where(lon * sign > 0, lon, sign * (np.pi - 1e-6))
            yield part


def _fill(axis: Axes, shapes: Rings) -> None:
    for state, rings in shapes:
        axis.add_collection(
            PolyCollection(list(rings), linewidths=0.6, zorder=1 + state / 10, **_LOOK[state]),
            autolim=False,
        )


def _points(axis: Axes, found: Gathered, project) -> None:  # type: ignore[no-untyped-def]
    for rows, look in _kinds(found):
        if rows is not None:
            x, y = project(np.stack([numbers(rows, "ra"), numbers(rows, "dec")], -1)).T
            axis.plot(x, y, ls="", zorder=2, **look)


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
