"""The last steps to a cutout, the same for every source: repair, then change of scale."""

from __future__ import annotations

import numpy as np

from survey_gampen.images.base import Cutouts
from survey_gampen.images.pixels.repair import repair
from survey_gampen.images.pixels.resample import nearest, needed_pixels, resample
from survey_gampen.images.pixels.tile import Box
from survey_gampen.images.status import Status

#: Pixel scales that differ by less than this (relatively) count as equal: over half a box of 239
#: pixels the difference adds up to an eighth of a pixel, and R_e is off by a thousandth.
SAME_SCALE = 1e-3


def same_scale(scales: tuple[float, float], model: float) -> bool:
    """Whether pixels of `scales` arcsec can be taken as they are."""
    return max(abs(scale / model - 1.0) for scale in scales) < SAME_SCALE


def native_size(size: int, scales: tuple[float, float], model: float) -> int:
    """Side of the box to read from an image for a cutout of `size` pixels of the model."""
    return size if same_scale(scales, model) else needed_pixels(size, model / min(scales))


def finish_into(
    batch: Cutouts,
    slot: int,
    box: Box,
    offset: tuple[float, float],
    scales: tuple[float, float],
    model: float,
) -> None:
    """Turn a box of raw pixels into one cutout of a batch.

    Where the scales agree pixels stay as they are, and the galaxy stands up to half a pixel off
    the middle one. Where they don't, the box is resampled anyway and the galaxy put in the middle.

    Parameters
    ----------
    batch : Cutouts
        Receives image, status, note, sky, variance.
    slot : int
        Place in the batch.
    box : Box
        :func:`native_size` pixels a side.
    offset : (x, y)
        The galaxy's position from the centre of the middle pixel, in pixels of the box.
    scales : (x, y)
        Arcsec a pixel of the box.
    model : float
        Arcsec a pixel of the cutout.
    """
    size = batch.image.shape[1]
    done = repair(box, scales)
    batch.status[slot], batch.note[slot] = done.status, done.note
    batch.sky_level[slot], batch.sky_sigma[slot] = done.sky_level, done.sky_sigma
    if same_scale(scales, model):
        batch.image[slot], batch.replaced[slot] = done.image, done.replaced
        if batch.variance is not None and box.variance is not None:
            batch.variance[slot] = box.variance
    else:
        middle = box.image.shape[0] // 2
        centre = (middle + offset[0], middle + offset[1])
        ratio = (model / scales[0], model / scales[1])
        batch.image[slot] = resample(done.image, centre, ratio, size)
        batch.replaced[slot] = nearest(done.replaced, centre, ratio, size)
        if batch.variance is not None and box.variance is not None:
            # Sums of variances are kept: right for coarser pixels; finer ones get correlated noise.
            known = np.isfinite(box.variance)
            total = resample(np.where(known, box.variance, 0.0), centre, ratio, size)
            holes = nearest(~known, centre, ratio, size)
            batch.variance[slot] = np.where(holes | (total <= 0), np.nan, total)
    if not np.isfinite(batch.image[slot]).all():
        batch.image[slot] = 0.0
        batch.status[slot] |= int(Status.BAD_CUTOUT)
        batch.note[slot] = "pixel values overflow"
