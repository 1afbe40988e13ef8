"""One galaxy as each method is given it, and the form in which each method answers.

The other methods get what a survey can only estimate: the PSF and the noise of every pixel as they
were simulated. Neighbours are masked by a segmentation that all of them share, whose time is not
counted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from astropy.convolution import convolve_fft
from numpy.typing import ArrayLike, NDArray
from scipy.ndimage import binary_dilation
from scipy.special import gamma, gammaincinv

from survey_gampen.simulation.ingredients import ingredients
from survey_gampen.simulation.population import half_light_radius
from survey_gampen.simulation.render import EXACT
from survey_gampen.simulation.simulate import read_settings

try:
    from photutils import segmentation as photutils
except ModuleNotFoundError:
    raise SystemExit("neighbours are masked with photutils: pip install photutils") from None

Array = NDArray[np.float64]
#: quantity: estimate and the ends of its 68 % interval (NaN where a method gives none).
Answer = dict[str, tuple[float, float, float]]

QUANTITIES = ("bt", "r_e", "flux")
NONE = (np.nan, np.nan, np.nan)
#: Sides of the PSF [px]: what lies beyond holds 0.5 % of the widest one.
PSF_SIZE = 61
#: Neighbours are masked so far beyond their segments [px].
MARGIN = 3


@dataclass(frozen=True)
class Problem:
    """One galaxy.

    Attributes
    ----------
    image, sigma : ndarray, (y, x)
        Pixels and the standard deviation of their noise [nJy].
    psf, bare_psf : ndarray, (61, 61)
        With and without the response of a pixel; for methods that evaluate a profile at the middle
        of a pixel, and for those that integrate it over the pixel.
    segments : ndarray of int, (y, x)
        Sources; 0 is sky.
    label : int
        The galaxy's; 0 if it was not detected.
    scale : float
        Side of a pixel [arcsec].
    """

    image: Array
    sigma: Array
    psf: Array
    bare_psf: Array
    segments: NDArray[np.int_]
    label: int
    scale: float

    @property
    def own(self) -> NDArray[np.bool_]:
        """Pixels of the galaxy's segment."""
        return (self.segments == self.label) & (self.label != 0)

    @property
    def neighbours(self) -> NDArray[np.bool_]:
        """Pixels that are not to be fitted."""
        others = (self.segments != 0) & (self.segments != self.label)
        return np.asarray(binary_dilation(others, iterations=MARGIN)) & ~self.own

    def cropped(self, sizes: Sequence[int] = range(81, 239, 2)) -> Problem:
        """A square half as wide again as the galaxy's segment, or the next larger one of `sizes`
        [px], as one would fit it to save time."""
        middle = self.image.shape[0] // 2
        wanted = int(1.5 * np.abs(np.argwhere(self.own) - middle).max(initial=0))
        half = min((n // 2 for n in sizes if n // 2 >= wanted), default=middle)
        square = (slice(middle - half, middle + half + 1),) * 2
        return Problem(
            *(self.image[square], self.sigma[square], self.psf, self.bare_psf),
            *(self.segments[square], self.label, self.scale),
        )


def problems(data: Path, n: int) -> Iterator[Problem]:
    """The first `n` galaxies of a simulation of cutouts."""
    settings = read_settings(data)
    made_of = ingredients(str(data), settings, EXACT)
    images: Any = zarr.open_group(str(data), mode="r")["image"]
    unit, sky_level = made_of.population.unit, made_of.renderer.sky_level
    for i in range(n):
        galaxy = made_of.draw(i)
        light = np.maximum(made_of.renderer.image(galaxy).astype(float), 0)
        sigma = galaxy.sky_sigma * np.sqrt(1 + light / sky_level) * unit
        image = np.asarray(images[i], dtype=float)
        segments, label = segmentation(image, galaxy.sky_sigma * unit)
        profile, scale = made_of.renderer.psf(galaxy), made_of.renderer.scale
        psf, bare = (drawn(profile, scale, method) for method in ("auto", "no_pixel"))
        yield Problem(image, sigma, psf, bare, segments, label, scale)


def drawn(profile: Any, scale: float, method: str) -> Array:
    """Image of a PSF; its pixels add up to 1."""
    image = profile.drawImage(nx=PSF_SIZE, ny=PSF_SIZE, scale=scale, method=method).array
    return np.asarray(image / image.sum(), dtype=float)


def segmentation(image: Array, sky_sigma: float) -> tuple[NDArray[np.int_], int]:
    """Sources in an image, and the label of that in its middle (0: none).

    Smoothed, detected at 3 sigma of what noise the smoothing leaves, and deblended with
    SExtractor's settings (Bertin & Arnouts 1996, A&AS 117, 393).
    """
    kernel = photutils.make_2dgaussian_kernel(3.0, size=5)
    smooth = convolve_fft(image, kernel)
    threshold = 3 * sky_sigma * np.sqrt((kernel.array**2).sum())
    found = photutils.detect_sources(smooth, threshold, 8)
    if found is None:
        return np.zeros(image.shape, int), 0
    found = photutils.deblend_sources(
        smooth, found, 8, n_levels=32, contrast=0.005, progress_bar=False
    )
    middle = image.shape[0] // 2
    near = found.data[middle - 1 : middle + 2, middle - 1 : middle + 2]
    return found.data, int(np.bincount(near.ravel()).argmax())


def of_components(
    flux: Array, radius: Array, axis_ratio: Array, sersic_n: Array, scale: float
) -> Array:
    """What is asked for, from the parameters of disk and bulge.

    Parameters
    ----------
    flux, radius, axis_ratio, sersic_n : ndarray, (2, n)
        Of disk and bulge; [nJy] and the half-light semi-major axis [px].
    scale : float
        Side of a pixel [arcsec].

    Returns
    -------
    ndarray, (3, n)
        B/T, half-light radius of the circle [arcsec], and flux [nJy].
    """
    total = flux.sum(0)
    bt = flux[1] / total
    circular = radius * np.sqrt(axis_ratio) * scale
    return np.stack([bt, half_light_radius(sersic_n, circular, axis_ratio, bt), total])


def sersic_flux(sersic_n: Any, circular: Any, brightness: Any) -> Any:
    """Total light of a Sersic profile (Graham & Driver 2005, PASA 22, 118, eq. 4).

    Parameters
    ----------
    sersic_n, circular, brightness : array_like
        Index, circularised half-light radius and surface brightness there; the result is in
        brightness times the radius squared.
    """
    b = gammaincinv(2 * sersic_n, 0.5)
    shape = 2 * np.pi * sersic_n * np.exp(b) * gamma(2 * sersic_n) / b ** (2 * sersic_n)
    return brightness * circular**2 * shape


def answered(estimate: ArrayLike, low: ArrayLike = NONE, high: ArrayLike = NONE) -> Answer:
    """Answer from estimates (3,) and the ends (3,) of their intervals, in order of QUANTITIES."""
    columns = np.stack([estimate, low, high], axis=1).astype(float).tolist()
    return {name: tuple(column) for name, column in zip(QUANTITIES, columns, strict=True)}
