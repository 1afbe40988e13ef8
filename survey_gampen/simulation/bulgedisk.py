"""Bulge and disk of a galaxy image: the decomposition of Simard et al. (2011) on a small stamp.

A de Vaucouleurs bulge (n = 4) and an exponential disk (n = 1) with one centre, each with its own
size, axis ratio and angle, convolved with the image's PSF (Simard et al. 2011, ApJS 196, 11,
section 3.1). Unlike there the bulge may not be larger than the disk: on small stamps it else
becomes the halo around a compact disk, and B/T the share of that halo. The model is made in Fourier
space, where the cusp of the bulge needs no oversampling, and the two fluxes, which enter linearly,
are solved for at each step.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy import fft
from scipy.optimize import least_squares
from scipy.special import gamma, gammaincinv

from survey_gampen.simulation.population import light_within

#: Sersic indices of disk and bulge.
INDICES = (1.0, 4.0)
#: Smallest half-light radius of the disk [px], ratio of bulge radius to it, and axis ratio.
_SMALLEST, _LEAST_RATIO, _THINNEST = 0.3, 0.03, 0.1
#: At the start: disk radius as a share of that of the image, bulge radius as a share of the disk's.
_STARTS = ((1.2, 0.3), (1.0, 0.9))

Array = NDArray[np.float64]


@dataclass(frozen=True)
class Decomposition:
    """What the fit found; lengths in px, angles in degrees from x to y.

    Attributes
    ----------
    x, y : float
        Centre, from the centre of the stamp.
    flux, bt : float
        Of the whole model, out to infinity.
    radius, axis_ratio, angle : tuple of float
        Of disk and bulge; the radius is the half-light radius of the circularised profile.
    r_e : float
        Radius of the circle that holds half the light of the stamp, freed of the PSF.
    signal_to_noise : float
        Of the light in that circle.
    chi2 : float
        A pixel.
    """

    x: float
    y: float
    flux: float
    bt: float
    radius: tuple[float, float]
    axis_ratio: tuple[float, float]
    angle: tuple[float, float]
    r_e: float
    signal_to_noise: float
    chi2: float


def decompose(image: Array, psf: Array, sigma: float) -> Decomposition:
    """Fit bulge and disk, and measure the half-light radius.

    The half-light radius is residual-corrected (Szomoru et al. 2010, ApJ 714, L244): the light in
    a circle is that of the model before the PSF plus what the model with PSF leaves of the image.
    Where the model fits, that is its own half-light radius, as
    :func:`survey_gampen.simulation.population.half_light_radius` has it; where it does not (arms,
    clumps), the image counts. Half is half of the stamp's light: what lies beyond the stamp is
    not seen, and not rendered either.

    Parameters
    ----------
    image : ndarray
        Stamp (y, x) around the galaxy, sky subtracted.
    psf : ndarray
        Odd or even sides, centred on the middle of the array; response of the pixel included.
    sigma : float
        Noise of a pixel.

    Raises
    ------
    ValueError
        If the stamp holds no light to fit.
    """
    model = _Model(image.shape, psf)
    y, x = (c - (n - 1) / 2 for c, n in zip(np.indices(image.shape), image.shape, strict=True))
    light = np.where(image > 2 * sigma, image, 0.0)
    if not light.sum() > 0:
        raise ValueError("the stamp holds no light")
    x0, y0 = (float((light * c).sum() / light.sum()) for c in (x, y))
    nearest = np.argsort(np.hypot(x - x0, y - y0), axis=None)
    share = np.cumsum(light.ravel()[nearest]) / light.sum()
    size = max(np.sqrt(np.searchsorted(share, 0.5) / np.pi), 1.0)
    u, v = x - x0, y - y0
    angle = 0.5 * np.arctan2(2 * (light * u * v).sum(), (light * (u**2 - v**2)).sum())

    def fluxes_and_planes(p: Array) -> tuple[Array, Array]:
        planes = model.components(p)
        return _positive(planes, image), planes

    def residual(p: Array) -> Array:
        fluxes, planes = fluxes_and_planes(p)
        return np.asarray((image - np.tensordot(fluxes, planes, 1)).ravel() / sigma)

    half = max(image.shape) / 2
    low = [-half, -half, *np.log([_SMALLEST, _LEAST_RATIO]), _THINNEST, _THINNEST, -np.inf, -np.inf]
    high = [half, half, np.log(half), 0.0, 1.0, 1.0, np.inf, np.inf]
    fits = []
    for disk, ratio in _STARTS:
        radius = np.clip(size * disk, 1.01 * _SMALLEST, 0.9 * half)
        start = [x0, y0, np.log(radius), np.log(ratio), 0.7, 0.8, angle, angle]
        fits.append(least_squares(residual, start, bounds=(low, high), max_nfev=40, ftol=1e-5))
    best = min(fits, key=lambda fit: float(fit.cost)).x
    fluxes, planes = fluxes_and_planes(best)
    if not fluxes.sum() > 0 or not image.sum() > 0:
        raise ValueError("the stamp holds no light")
    radius, axis_ratio = np.exp(np.cumsum(best[2:4])), best[4:6]
    left = image - np.tensordot(fluxes, planes, 1)
    distance = np.hypot(x - best[0], y - best[1])
    r_e = _half_light(fluxes, radius, axis_ratio, left, distance, float(image.sum()))
    inside = image[distance <= max(r_e, 1.0)]
    return Decomposition(
        x=float(best[0]),
        y=float(best[1]),
        flux=float(fluxes.sum()),
        bt=float(fluxes[1] / fluxes.sum()),
        radius=(float(radius[0]), float(radius[1])),
        axis_ratio=(float(axis_ratio[0]), float(axis_ratio[1])),
        angle=(float(np.degrees(best[6]) % 180), float(np.degrees(best[7]) % 180)),
        r_e=r_e,
        signal_to_noise=float(inside.sum() / (sigma * np.sqrt(inside.size))),
        chi2=float((residual(best) ** 2).mean()),
    )


class _Model:
    """Images of the two components of unit flux, convolved with the PSF."""

    def __init__(self, shape: tuple[int, ...], psf: Array) -> None:
        self._shape = shape
        # Periodic: a margin of the stamp's own size keeps the wings out of it.
        self._wide = tuple(
            fft.next_fast_len(2 * max(n, m), real=True)
            for n, m in zip(shape, psf.shape, strict=True)
        )
        self._ky = 2 * np.pi * fft.fftfreq(self._wide[0])[:, None]
        self._kx = 2 * np.pi * fft.rfftfreq(self._wide[1])[None, :]
        middle = [(n - 1) / 2 for n in psf.shape]
        centred = self._shift(*middle[::-1]).conj()
        self._psf = fft.rfft2(psf / psf.sum(), s=self._wide) * centred

    def _shift(self, x: float, y: float) -> NDArray[np.complex128]:
        """Transform of a point at (x, y) from the first pixel."""
        return np.asarray(np.exp(-1j * (self._kx * x + self._ky * y)))

    def components(self, p: Array) -> Array:
        """Disk and bulge, (2, y, x).

        `p` is x, y, ln of the disk's radius, ln of the bulge's by the disk's, two axis ratios, two
        angles [rad].
        """
        height, width = self._shape
        place = self._psf * self._shift(p[0] + (width - 1) / 2, p[1] + (height - 1) / 2)
        planes = []
        for k, index in enumerate(INDICES):
            radius, q, angle = np.exp(p[2 : 3 + k].sum()), p[4 + k], p[6 + k]
            along = self._kx * np.cos(angle) + self._ky * np.sin(angle)
            across = self._ky * np.cos(angle) - self._kx * np.sin(angle)
            # Long in the image is short in its transform; circularised, the area is kept.
            reach = radius * np.sqrt(along**2 / q + across**2 * q)
            planes.append(fft.irfft2(place * _transform(index, reach), s=self._wide))
        return np.stack([plane[:height, :width] for plane in planes])


def _transform(sersic_n: float, k: Array) -> Array:
    """Fourier transform of a round Sersic profile of unit flux and half-light radius."""
    log_k, value = _table(sersic_n)
    # Below 1e-3 it is 1 to five digits, and the table is not to be trusted near its ends.
    return np.where(k > 1e-3, np.interp(np.log(np.maximum(k, 1e-3)), log_k, value), 1.0)


@lru_cache
def _table(sersic_n: float) -> tuple[Array, Array]:
    """Hankel transform of a Sersic profile on a logarithmic grid (Hamilton 2000, FFTLog)."""
    r = np.geomspace(1e-8, 1e6, 4096)
    b = gammaincinv(2 * sersic_n, 0.5)
    total = 2 * np.pi * sersic_n * gamma(2 * sersic_n) / b ** (2 * sersic_n)
    k = 1 / r[::-1]
    bright = r * np.exp(-b * r ** (1 / sersic_n))
    return np.log(k), 2 * np.pi * fft.fht(bright, np.log(r[1] / r[0]), 0) / k / total


def _positive(planes: Array, image: Array) -> Array:
    """The two fluxes, neither negative, that fit an image best."""
    a, b = (plane.ravel() for plane in planes)
    aa, ab, bb = a @ a, a @ b, b @ b
    fa, fb = a @ image.ravel(), b @ image.ravel()
    determinant = aa * bb - ab**2
    if determinant > 1e-12 * aa * bb:
        both = np.array([fa * bb - fb * ab, fb * aa - fa * ab]) / determinant
        if (both >= 0).all():
            return both
    # One of them alone: the one that explains more.
    alone = np.maximum([fa / aa, fb / bb], 0)
    return np.where([fa * alone[0] >= fb * alone[1], fa * alone[0] < fb * alone[1]], alone, 0.0)


def _half_light(
    fluxes: Array, radius: Array, axis_ratio: Array, left: Array, distance: Array, total: float
) -> float:
    """Radius [px] of the circle with half of `total`, by bisection."""
    within = light_within(INDICES, radius, axis_ratio)
    low, high = 0.0, float(distance.max())
    for _ in range(40):
        middle = 0.5 * (low + high)
        # A pixel on the circle counts with the share of it inside.
        inside = np.clip(middle - distance + 0.5, 0, 1)
        if fluxes @ within(middle) + (left * inside).sum() < 0.5 * total:
            low = middle
        else:
            high = middle
    return 0.5 * (low + high)
