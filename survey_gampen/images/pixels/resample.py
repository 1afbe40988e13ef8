"""To another pixel scale, conserving flux.

The running sum of an image along an axis, at the edges of its pixels, is interpolated with a cubic
spline (scipy) and read at the edges of the new pixels; differences are the new pixels. Whatever
the spline does between the edges, no flux is lost or made: the sum of the new pixels is the sum of
the old ones they cover. Larger pixels are true integrals, so nothing aliases; smaller ones keep
the resolution better than bilinear or drizzled ones would.

The axes are handled one after the other: exact for a change of scale, which is all that is needed
here. The network does not know which way is north, so no image is ever turned.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.interpolate import CubicSpline

Floats = NDArray[np.floating]


def needed_pixels(size: int, ratio: float) -> int:
    """Side of the smallest odd box of old pixels that covers a new one.

    `ratio` is new pixel / old pixel. One old pixel more than the size says, because the galaxy
    stands up to half a pixel off the middle of the old box.
    """
    pixels = int(np.ceil(size * ratio - 1e-9)) + 1
    return pixels + 1 - pixels % 2


def resample(
    image: Floats, centre: tuple[float, float], ratio: tuple[float, float], size: int
) -> NDArray[np.float32]:
    """Cut a box with new pixels around a point.

    Parameters
    ----------
    image : ndarray, shape (ny, nx)
        Finite flux a pixel.
    centre : (x, y)
        The point, in pixels of `image` (0 = centre of the first); it becomes the centre of the
        new box's middle pixel.
    ratio : (x, y)
        New pixel / old pixel.
    size : int
        New pixels a side.

    Returns
    -------
    ndarray of float32, shape (size, size)
        Flux a pixel.
    """
    steps = np.arange(size + 1) - size / 2
    out = _along(image.astype(np.float64), centre[1] + steps * ratio[1], axis=0)
    return _along(out, centre[0] + steps * ratio[0], axis=1).astype(np.float32)


def _along(values: Floats, edges: Floats, axis: int) -> Floats:
    start = np.zeros_like(np.take(values, [0], axis=axis))
    running = np.concatenate([start, np.cumsum(values, axis=axis)], axis=axis)
    old_edges = np.arange(values.shape[axis] + 1) - 0.5
    spline = CubicSpline(old_edges, running, axis=axis)
    return np.asarray(np.diff(spline(edges), axis=axis))


def nearest(
    mask: NDArray[np.bool_], centre: tuple[float, float], ratio: tuple[float, float], size: int
) -> NDArray[np.bool_]:
    """The same change of pixels for a mask: each new pixel takes the old one at its centre."""
    steps = np.arange(size) - (size - 1) / 2
    rows = np.clip(np.rint(centre[1] + steps * ratio[1]).astype(int), 0, mask.shape[0] - 1)
    columns = np.clip(np.rint(centre[0] + steps * ratio[0]).astype(int), 0, mask.shape[1] - 1)
    return mask[np.ix_(rows, columns)]
