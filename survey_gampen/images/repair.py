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

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray
from scipy.ndimage import uniform_filter

from survey_gampen.images.status import Status
from survey_gampen.images.tile import BAD, BRIGHT, DETECTED, MISSING, OUTSIDE, SATURATED, Box

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
    image = box.image
    if replaced.any():
        image = fill(image, replaced, level if np.isfinite(level) else 0.0)
    note = None
    valid = box.image[~replaced]
    if valid.size and not status & Status.NO_DATA and valid.min() == valid.max():
        status |= Status.BAD_CUTOUT
        note = f"every pixel has the same value, {valid[0]:g} nJy"
    return Repaired(image, int(status), note, replaced, level, sigma)


def flag(flags: NDArray[np.uint8], pixel_scales: tuple[float, float]) -> Status:
    """Status bits from the flags of a box's pixels."""
    ny, nx = flags.shape
    y, x = np.ogrid[:ny, :nx]
    distance2 = ((x - nx // 2) * pixel_scales[0]) ** 2 + ((y - ny // 2) * pixel_scales[1]) ** 2
    central = flags[distance2 <= CENTRAL_RADIUS**2]
    missing = (flags & MISSING) != 0
    status = Status(0)
    if (
        flags[ny // 2, nx // 2] & (MISSING | BAD)
        or missing.mean() > 0.5
        or (central & MISSING).any()
    ):
        status |= Status.NO_DATA
    if (flags & OUTSIDE).any():
        status |= Status.EDGE
    if ((flags & OUTSIDE == 0) & ((flags & (MISSING | BAD)) != 0)).any():
        status |= Status.BAD_PIXELS
    if (central & SATURATED).any():
        status |= Status.SATURATED
    if (flags & BRIGHT).any():
        status |= Status.BRIGHT_NEIGHBOUR
    return status


def sky(
    image: NDArray[np.float32], valid: NDArray[np.bool_], detected: NDArray[np.bool_]
) -> tuple[float, float]:
    """Local sky level and noise a pixel, from the outer tenth of a box.

    Returns
    -------
    level, sigma : float
        Clipped median and 1.4826 times the median absolute deviation; NaN without a valid pixel.
    """
    ny, nx = image.shape
    rim_y, rim_x = max(1, ny // 10), max(1, nx // 10)
    frame = np.ones(image.shape, bool)
    frame[rim_y : ny - rim_y, rim_x : nx - rim_x] = False
    values = image[frame & valid & ~detected]
    if values.size < _ENOUGH_SKY:
        values = image[valid & ~detected]
    if values.size < _ENOUGH_SKY:
        values = image[valid]
    if not values.size:
        return float("nan"), float("nan")
    for _ in range(5):
        level = np.median(values)
        sigma = _SIGMA_OF_MAD * np.median(np.abs(values - level))
        kept = values[np.abs(values - level) <= 3.0 * sigma] if sigma > 0 else values
        if kept.size == values.size:
            break
        values = kept
    return float(level), float(sigma)


def fill(
    image: NDArray[np.float32], replaced: NDArray[np.bool_], level: float
) -> NDArray[np.float32]:
    """Apply the rule of this module to the pixels that `replaced` marks."""
    count = uniform_filter((~replaced).astype(np.float32), size=5, mode="constant") * 25.0
    bridged = replaced & (count > _NEIGHBOURS - 0.5)
    out = np.where(replaced, np.float32(level), image)
    if bridged.any():
        known = np.pad(np.where(replaced, np.float32(np.nan), image), 2, constant_values=np.nan)
        rows, columns = np.nonzero(bridged)
        windows = sliding_window_view(known, (5, 5))[rows, columns]
        out[rows, columns] = np.nanmedian(windows.reshape(len(rows), 25), axis=1)
    return out
