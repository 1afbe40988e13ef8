"""Fill the part of a box that one tile does not have from its neighbours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import binary_dilation, map_coordinates

from survey_gampen.images.pixels.grid import Grid
from survey_gampen.images.pixels.tile import MISSING, OUTSIDE, Box, Tile

#: Two tiles share one pixel grid if they agree to this all over the box, in pixels.
_SAME_GRID = 0.01
#: Pixels that a cubic spline needs around a point.
_SUPPORT = 4


def grid_offset(
    home: Grid, other: Grid, x0: int, y0: int, n: tuple[int, int]
) -> tuple[int, int] | None:
    """What to add to a pixel of `home` to get that of `other`, if both lie on one grid.

    Coadd patches of one tract do; their overlaps are the same pixels. Checked at the corners and
    the middle of the box of ``n = (nx, ny)`` pixels whose first is (x0, y0).
    """
    right, top = x0 + n[0] - 1, y0 + n[1] - 1
    x = np.array([x0, right, x0, right, (x0 + right) / 2])
    y = np.array([y0, y0, top, top, (y0 + top) / 2])
    there_x, there_y = other.to_pixel(*home.to_sky(x, y))
    shifts = np.stack([there_x - x, there_y - y])
    if not np.isfinite(shifts).all():
        return None
    whole = np.rint(shifts[:, 4])
    if np.abs(shifts - whole[:, None]).max() > _SAME_GRID:
        return None
    return int(whole[0]), int(whole[1])


def fill_from(box: Box, x0: int, y0: int, home: Grid, other: Grid, tile: Tile) -> None:
    """Fill missing pixels of `box`, whose first pixel is (x0, y0) of `home`, from another tile.

    On one grid pixels are copied; else they are interpolated with cubic splines and scaled by the
    pixels' areas, so that flux is kept.
    """
    missing = (box.flags & MISSING) != 0
    if not missing.any():
        return
    ny, nx = box.image.shape
    offset = grid_offset(home, other, x0, y0, (nx, ny))
    if offset is not None:
        there = tile.box(x0 + offset[0], y0 + offset[1], nx, ny)
        _take(box, there, missing)
    else:
        _interpolate(box, x0, y0, home, other, tile, missing)


def _take(box: Box, there: Box, missing: NDArray[np.bool_]) -> None:
    good = missing & ((there.flags & MISSING) == 0)
    box.image[good] = there.image[good]
    box.flags[good] = there.flags[good]
    if box.variance is not None:
        box.variance[good] = there.variance[good] if there.variance is not None else np.nan
    # Seen by the other tile, though without data: no longer outside the images.
    seen = missing & ~good & ((there.flags & OUTSIDE) == 0) & ((box.flags & OUTSIDE) != 0)
    box.flags[seen] = there.flags[seen]


def _interpolate(
    box: Box, x0: int, y0: int, home: Grid, other: Grid, tile: Tile, missing: NDArray[np.bool_]
) -> None:
    rows, columns = np.nonzero(missing)
    x, y = other.to_pixel(*home.to_sky(columns + float(x0), rows + float(y0)))
    inside = (x >= 0) & (y >= 0) & (x <= other.nx - 1) & (y <= other.ny - 1)
    if not inside.any():
        return
    rows, columns, x, y = rows[inside], columns[inside], x[inside], y[inside]
    left, low = int(x.min()) - _SUPPORT, int(y.min()) - _SUPPORT
    right, high = int(x.max()) + _SUPPORT + 2, int(y.max()) + _SUPPORT + 2
    there = tile.box(left, low, right - left, high - low)
    hole = (there.flags & MISSING) != 0
    nearest = np.rint(y).astype(int) - low, np.rint(x).astype(int) - left
    usable = ~binary_dilation(hole, iterations=2)[nearest]
    at = np.stack([y - low, x - left])
    area = np.prod(home.pixel_scales()) / np.prod(other.pixel_scales())
    # Holes are 0 here, close to the sky; their neighbourhood is not used.
    values = map_coordinates(there.image, at, order=3, mode="nearest") * area
    keep = rows[usable], columns[usable]
    box.image[keep] = values[usable]
    box.flags[keep] = there.flags[nearest][usable]
    if box.variance is not None:
        noise = there.variance[nearest] * area**2 if there.variance is not None else None
        box.variance[keep] = np.nan if noise is None else noise[usable]
