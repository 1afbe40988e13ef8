"""From a box of raw pixels to a cutout: flags, and the rule for pixels that cannot be used.

The rule, the same for padded, missing and bad pixels: **such a pixel takes the median of the valid
pixels in the 5 x 5 around it where there are at least 8 of them, and the local sky level
everywhere else.** So a cosmic ray or a hot pixel in a galaxy is bridged from its surroundings and
leaves no dip, while whatever is larger becomes plain sky, as if nothing were there.

The local sky level is the 3-sigma-clipped median of the valid pixels in the outer tenth of the box
that belong to no detected source: in a background-subtracted coadd it is close to 0, and where it
is not, a step at the border of the padding would look like structure. No noise is added: it would
be made-up data, it would have to be drawn again the same way for each galaxy for ever, and a flat
patch is plain to see, to the eye and in ``replaced``.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

from survey_gampen.images.pixels.tile import BAD, BRIGHT, DETECTED, MISSING, OUTSIDE, SATURATED, Box
from survey_gampen.images.status import Status

#: Radius of the "central 5 arcsec" of the status bits.
CENTRAL_RADIUS = 2.5
#: Normal-distribution sigma of a median absolute deviation.
_SIGMA_OF_MAD = 1.4826
#: Fewer pixels than this tell no sky level; all valid ones are taken then.
_ENOUGH_SKY = 100
_NEIGHBOURS = 8


@dataclass
class Repaired:
    """A box without holes.

    Attributes
    ----------
    image : ndarray of float32
        nJy, finite.
    status : int
    note : str or None
        Reason of BAD_CUTOUT.
    replaced : ndarray of bool
        Where the rule was applied.
    sky_level, sky_sigma : float
        nJy; NaN without a valid pixel.
    """

    image: NDArray[np.float32]
    status: int
    note: str | None
    replaced: NDArray[np.bool_]
    sky_level: float
    sky_sigma: float


def repair(box: Box, pixel_scales: tuple[float, float]) -> Repaired:
    """Flag a box and fill what cannot be used.

    Parameters
    ----------
    box : Box
        Odd sides, the galaxy's pixel in the middle.
    pixel_scales : (x, y)
        Arcsec a pixel.
    """
    replaced = (box.flags & (MISSING | BAD)) != 0
    status = flag(box.flags, pixel_scales)
    level, sigma = sky(box.image, ~replaced, (box.flags & DETECTED) != 0)
    image, valid = box.image, box.image
    if replaced.any():
        valid = image[~replaced]
        image = fill(image, replaced, level if np.isfinite(level) else 0.0)
    note = None
    if valid.size and not status & Status.NO_DATA and valid.min() == valid.max():
        status |= Status.BAD_CUTOUT
        note = f"every pixel has the same value, {valid.flat[0]:g} nJy"
    return Repaired(image, int(status), note, replaced, level, sigma)


def flag(flags: NDArray[np.uint8], pixel_scales: tuple[float, float]) -> Status:
    """Status bits from the flags of a box's pixels."""
    # Most boxes have few of the bits, and only the middle needs a look at where they are.
    seen, central = int(np.bitwise_or.reduce(flags, axis=None)), _central(flags.shape, pixel_scales)
    status = Status(0)
    if seen & (MISSING | BAD):
        ny, nx = flags.shape
        missing = (flags & MISSING) != 0
        if (
            flags[ny // 2, nx // 2] & (MISSING | BAD)
            or missing.mean() > 0.5
            or missing[central].any()
        ):
            status |= Status.NO_DATA
        if ((flags & OUTSIDE == 0) & ((flags & (MISSING | BAD)) != 0)).any():
            status |= Status.BAD_PIXELS
    if seen & OUTSIDE:
        status |= Status.EDGE
    if seen & SATURATED and (flags[central] & SATURATED).any():
        status |= Status.SATURATED
    if seen & BRIGHT:
        status |= Status.BRIGHT_NEIGHBOUR
    return status


@lru_cache
def _central(shape: tuple[int, int], pixel_scales: tuple[float, float]) -> NDArray[np.bool_]:
    """The pixels of the central 5 arcsec."""
    ny, nx = shape
    y, x = np.ogrid[:ny, :nx]
    distance2 = ((x - nx // 2) * pixel_scales[0]) ** 2 + ((y - ny // 2) * pixel_scales[1]) ** 2
    central: NDArray[np.bool_] = distance2 <= CENTRAL_RADIUS**2
    return central


def sky(
    image: NDArray[np.float32], valid: NDArray[np.bool_], detected: NDArray[np.bool_]
) -> tuple[float, float]:
    """Local sky level and noise a pixel, from the outer tenth of a box.

    Returns
    -------
    level, sigma : float
        Clipped median and 1.4826 times the median absolute deviation; NaN without a valid pixel.
    """
    free = valid & ~detected
    values = image[_frame(image.shape) & free]
    if values.size < _ENOUGH_SKY:
        values = image[free]
    if values.size < _ENOUGH_SKY:
        values = image[valid]
    if not values.size:
        return float("nan"), float("nan")
    # Sorted once: what is kept of a clipping lies side by side, and medians need no more search.
    values = np.sort(values)
    for _ in range(5):
        level = _middle(values)
        sigma = _SIGMA_OF_MAD * _median_deviation(values, level)
        kept = values
        if sigma > 0:
            near = np.abs(values - level) <= 3.0 * sigma
            kept = values[near.argmax() : near.size - near[::-1].argmax()]
        if kept.size == values.size:
            break
        values = kept
    return float(level), float(sigma)


@lru_cache
def _frame(shape: tuple[int, int]) -> NDArray[np.bool_]:
    """The outer tenth of a box."""
    ny, nx = shape
    rim_y, rim_x = max(1, ny // 10), max(1, nx // 10)
    frame = np.ones(shape, bool)
    frame[rim_y : ny - rim_y, rim_x : nx - rim_x] = False
    return frame


def _middle(ordered: NDArray[np.float32]) -> np.float32:
    """Median of sorted values."""
    n = ordered.size
    return np.float32((ordered[(n - 1) // 2] + ordered[n // 2]) / 2)


def _median_deviation(ordered: NDArray[np.float32], level: np.float32) -> np.float32:
    """Median absolute deviation of sorted values from `level`.

    The k values that are nearest to it lie side by side: the k-th deviation is that of the
    farther end of the tightest run of k.
    """

    def smallest(k: int) -> np.float32:
        last = ordered.size - k + 1
        worst: np.float32 = np.maximum(level - ordered[:last], ordered[k - 1 :] - level).min()
        return worst

    n = ordered.size
    return np.float32((smallest((n + 1) // 2) + smallest(n // 2 + 1)) / 2)


def fill(
    image: NDArray[np.float32], replaced: NDArray[np.bool_], level: float
) -> NDArray[np.float32]:
    """Apply the rule of this module to the pixels that `replaced` marks."""
    valid = np.pad(~replaced, 2).view(np.uint8)
    ny, nx = replaced.shape
    across = np.stack([valid[:, i : i + nx] for i in range(5)]).sum(0, np.uint8)
    count = np.stack([across[i : i + ny] for i in range(5)]).sum(0, np.uint8)
    bridged = replaced & (count >= _NEIGHBOURS)
    out = np.where(replaced, np.float32(level), image)
    if bridged.any():
        known = np.full(valid.shape, np.nan, np.float32)
        known[2:-2, 2:-2] = np.where(replaced, np.float32(np.nan), image)
        places = np.nonzero(bridged)
        windows = sliding_window_view(known, (5, 5))[places].reshape(-1, 25)
        windows.sort(axis=1)  # NaN last
        each, n = np.arange(len(windows)), count[places]
        out[places] = (windows[each, (n - 1) // 2] + windows[each, n // 2]) / 2
    return out
