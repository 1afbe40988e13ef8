"""Is a galaxy's image like those that the model was trained on?"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

#: Image pixels finer than the model's by more, or coarser by more, than these factors were not
#: seen in training, whatever resampling makes of them.
FINEST, COARSEST = 0.5, 1.25


def out_of_range(
    trained_on: Mapping[str, Any],
    model_scale: float,
    sky_sigma: ArrayLike,
    psf_fwhm: ArrayLike,
    pixel_scale: ArrayLike,
) -> NDArray[np.bool_]:
    """Tell which images lie outside of what a model was trained on.

    What is not known, of an image or of the training, is not held against a galaxy.

    Parameters
    ----------
    trained_on : mapping
        From the checkpoint: ``sky_sigma_njy`` and ``psf_fwhm``, each (least, most), or a list of
        these of several bands.
    model_scale : float
        Pixel scale of the cutouts [arcsec].
    sky_sigma, psf_fwhm, pixel_scale : (n,), or (n, bands)
        Of the images they were cut from: noise a pixel [nJy], FWHM [arcsec], scale [arcsec].

    Returns
    -------
    (n,) bool
        Of several bands whether any lies outside.
    """
    scale = np.asarray(pixel_scale, float)
    # The noise of uncorrelated pixels goes with the side of a pixel when fluxes are conserved.
    ratio = np.where(np.isfinite(scale), scale, model_scale) / model_scale
    noise = np.asarray(sky_sigma, float) / ratio
    outside = (ratio < FINEST) | (ratio > COARSEST)
    for key, values in (("sky_sigma_njy", noise), ("psf_fwhm", np.asarray(psf_fwhm, float))):
        least, most = np.transpose(trained_on.get(key, (-np.inf, np.inf)))
        outside |= (values < least) | (values > most)
    return np.asarray(outside.any(axis=tuple(range(1, outside.ndim))))
