"""Noise of simulated images: white, smoothed, or with the correlations of a real sky.

Coadds are sums of exposures resampled onto a common grid, and the kernel of that resampling makes
neighbouring pixels alike (Fruchter & Hook 2002, PASP 114, 144, section 7; Bosch et al. 2018,
PASJ 70, S5, section 3.3). A field of unit variance says how the noise of a pixel goes with that of
the next; :func:`add_noise` scales it pixel by pixel, so the noise of the light is correlated as the
sky's is: both went through the same resampling.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import correlate1d

#: Draws a field of unit variance of a shape (y, x).
Field = Callable[[tuple[int, int], np.random.Generator], NDArray[np.float32]]


def white(shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
    """A field without correlation."""
    return rng.standard_normal(shape, dtype=np.float32)


def kernel(deviation: float) -> NDArray[np.float32]:
    """Weights (2r + 1,) under which white noise is smoothed by a Gaussian; squares add up to 1.

    Along each axis pixels d apart then correlate as ``exp(-d^2 / (4 deviation^2))``, as in noise
    under a Gaussian kernel of that standard deviation [px]. Sampled, a kernel narrower than a
    pixel would correlate them less: the weights are the root of that correlation instead.
    """
    reach = int(np.ceil(4 * deviation)) + 2
    n = 8 * reach  # periodic, and far longer than the correlation
    distance = np.minimum(np.arange(n), n - np.arange(n))
    power = fft.rfft(np.exp(-((distance / (2 * deviation)) ** 2))).real
    weight = fft.irfft(np.sqrt(np.maximum(power, 0)), n)[np.abs(np.arange(-reach, reach + 1))]
    return (weight / np.sqrt((weight**2).sum())).astype(np.float32)


def smoothed(
    shape: tuple[int, int], rng: np.random.Generator, deviation: float
) -> NDArray[np.float32]:
    """White noise under a Gaussian kernel of a standard deviation [px], of unit variance."""
    weight = kernel(deviation)
    reach = len(weight) // 2
    # Drawn wider than asked for: every pixel is the sum of equally many.
    field = white((shape[0] + 2 * reach, shape[1] + 2 * reach), rng)
    for axis in (0, 1):
        field = correlate1d(field, weight, axis=axis, mode="constant")
    return field[reach : reach + shape[0], reach : reach + shape[1]]


def field_of(deviation: float) -> Field:
    """White for 0, else smoothed."""
    return partial(smoothed, deviation=deviation) if deviation else white


@dataclass(frozen=True, eq=False)
class Correlated:
    """Gaussian fields with a given correlation of pixels.

    Attributes
    ----------
    correlation : ndarray, (2 L + 1, 2 L + 1)
        Of two pixels, by their distance in y and x; 1 in the middle, next to nothing at the rim.
    """

    correlation: NDArray[np.float64]

    def __call__(self, shape: tuple[int, int], rng: np.random.Generator) -> NDArray[np.float32]:
        """One field: white noise whose Fourier transform takes the root of the power spectrum."""
        lag = len(self.correlation) // 2
        # Transforms are periodic: with this margin opposite borders know nothing of each other.
        wide = tuple(fft.next_fast_len(n + 2 * lag, real=True) for n in shape)
        wrapped = np.zeros(wide)
        wrapped[: 2 * lag + 1, : 2 * lag + 1] = self.correlation
        power = fft.rfft2(np.roll(wrapped, (-lag, -lag), axis=(0, 1))).real
        # A measured correlation may ask for a little less than no power at some wavelengths.
        power = np.maximum(power, 0)
        field = fft.irfft2(fft.rfft2(white(wide, rng)) * np.sqrt(power).astype(np.float32), s=wide)
        # Cutting those off added variance.
        variance = fft.irfft2(power, s=wide)[0, 0]
        return (field[: shape[0], : shape[1]] / np.sqrt(variance)).astype(np.float32)


def add_noise(
    image: NDArray[np.float32],
    sky_sigma: float,
    sky_level: float,
    rng: np.random.Generator,
    field: Field = white,
) -> NDArray[np.float32]:
    """Sky noise and the Poisson noise of the light, in its Gaussian limit.

    Parameters
    ----------
    image : ndarray
        Expected counts above the sky [ADU].
    sky_sigma : float
        Noise of an empty pixel [ADU].
    sky_level : float
        Sky brightness a pixel [ADU]: variance = sky_sigma^2 (1 + image / sky_level).
    rng : numpy.random.Generator
    field : callable
        How the noise of one pixel goes with that of the next.
    """
    sigma = sky_sigma * np.sqrt(1 + np.maximum(image, 0) / sky_level)
    height, width = image.shape
    return (image + sigma * field((height, width), rng)).astype(np.float32)
