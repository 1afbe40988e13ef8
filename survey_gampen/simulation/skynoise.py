"""Noise of a survey's own empty sky, measured on its images for ``simulate --sky``.

No sky is cut out and pasted: deep images have no empty square as large as a cutout, and a patch
whose sources were filled in is no noise. Instead each piece of an image (about 256 px on a side)
tells the noise of its empty pixels and how they correlate with those up to 16 px away, over all
pairs of empty pixels; a simulation then draws Gaussian fields with just that noise and correlation,
of any size, never the same twice. What is lost is what is not Gaussian: a tail of cosmic rays, the
faintest sources one by one (their power is kept). Directions are kept: coadds of a survey are
resampled along the axes of their pixels.

A pixel is empty that is finite and carries none of the mask planes :data:`TAKEN`; where the file
has no DETECTED plane, one farther than 5 px from any source (3 sigma in the image smoothed by
1.5 px). Of these, those more than 5 sigma from the sky's median are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from astropy.wcs import WCS
from astropy.wcs.utils import proj_plane_pixel_scales
from numpy.typing import NDArray
from scipy import fft
from scipy.ndimage import binary_dilation, distance_transform_edt, gaussian_filter

from survey_gampen.errors import InputError
from survey_gampen.images.pixels.planes import find_groups, mask_planes, plane_bits, unit_of
from survey_gampen.simulation.noise import Correlated

#: Planes of an HSC or LSST mask whose pixels hold a source or are no plain sky.
TAKEN = (
    "BAD SAT INTRP CR EDGE DETECTED DETECTED_NEGATIVE SUSPECT NO_DATA BRIGHT_OBJECT CROSSTALK"
    " UNMASKEDNAN CLIPPED REJECTED INEXACT_PSF SENSOR_EDGE STREAK"
).split()
#: Side of a piece, and the greatest distance at which pixels are compared [px].
PIECE, LAG = 256, 16
#: Empty pixels without which a piece tells nothing: then a correlation errs by 0.015.
_ENOUGH = 4096
_SIGMA_OF_MAD = 1.4826


@dataclass(frozen=True, eq=False)
class SkyPiece:
    """What a piece of sky tells.

    Attributes
    ----------
    file : str
    y, x : int
        Its first pixel, from 0.
    sigma : float
        Noise of an empty pixel [ADU of the population].
    field : Correlated
    """

    file: str
    y: int
    x: int
    sigma: float
    field: Correlated


def measure_sky(files: Iterable[Path], zero_point: float, pixel_scale: float) -> list[SkyPiece]:
    """The pieces of images that have enough empty sky, in order.

    Parameters
    ----------
    files : iterable of Path
        FITS images in the layout of HSC's coadds (planes known by EXTNAME or EXTTYPE), or plain.
    zero_point : float
        AB magnitude of 1 ADU of the population; also that of a file which does not tell its own.
    pixel_scale : float
        Of the population [arcsec/px].

    Raises
    ------
    InputError
        If a file cannot be read, holds no image, has other pixels or too little empty sky.
    """
    pieces: list[SkyPiece] = []
    for path in files:
        image, empty, own_zero_point = _read(path, pixel_scale)
        unit = 1.0 if own_zero_point is None else 10 ** (0.4 * (zero_point - own_zero_point))
        found = []
        for y, x in _pieces(image.shape):
            told = correlate(image[y, x], empty[y, x])
            if told is not None:
                sigma, field = told[0] * unit, Correlated(told[1])
                found.append(SkyPiece(str(path), y.start, x.start, sigma, field))
        if not found:
            raise InputError(
                f"sky {path}: no piece of {PIECE} px has {_ENOUGH} empty pixels: leave it out"
            )
        pieces += found
    return pieces


def correlate(
    image: NDArray[np.float64], empty: NDArray[np.bool_]
) -> tuple[float, NDArray[np.float64]] | None:
    """Noise of the empty pixels, and their correlation (2 LAG + 1, 2 LAG + 1).

    The correlation at a distance is the mean product over all pairs of empty pixels that far
    apart, tapered to nothing at :data:`LAG` (Blackman & Tukey 1958): slow gradients of the sky
    are no noise.

    Returns
    -------
    sigma, correlation or None
        None where too few pixels are empty.
    """
    values = image[empty]
    if values.size < _ENOUGH:
        return None
    level = np.median(values)
    spread = _SIGMA_OF_MAD * np.median(np.abs(values - level))
    used = empty & (np.abs(image - level) <= 5 * spread)
    if not spread > 0 or used.sum() < _ENOUGH:
        return None
    sky = np.where(used, image - image[used].mean(), 0.0)
    wide = tuple(fft.next_fast_len(n + LAG, real=True) for n in image.shape)
    products, pairs = (
        fft.irfft2(np.abs(fft.rfft2(plane, s=wide)) ** 2, s=wide)
        for plane in (sky, used.astype(np.float64))
    )
    lags = np.arange(-LAG, LAG + 1)
    at = np.ix_(lags, lags)  # negative ones count from the end, as the periodic transform has them
    covariance = products[at] / np.maximum(np.round(pairs[at]), 1)
    variance = covariance[LAG, LAG]
    distance = np.hypot(*np.meshgrid(lags, lags)) / (LAG + 1)
    taper = np.where(distance < 1, 0.5 * (1 + np.cos(np.pi * distance)), 0)
    return float(np.sqrt(variance)), covariance / variance * taper


def write_sky(path: Path, pieces: Sequence[SkyPiece]) -> None:
    """Keep what was measured, one row a piece."""
    table = {
        "file": [p.file for p in pieces],
        "y": [p.y for p in pieces],
        "x": [p.x for p in pieces],
        "sigma": [p.sigma for p in pieces],
        "correlation": [p.field.correlation.ravel() for p in pieces],
    }
    pq.write_table(pa.table(table), path)


def read_sky(path: Path) -> list[SkyPiece]:
    """What :func:`write_sky` kept."""
    side = 2 * LAG + 1
    return [
        SkyPiece(
            row["file"],
            row["y"],
            row["x"],
            row["sigma"],
            Correlated(np.reshape(row["correlation"], (side, side))),
        )
        for row in pq.read_table(path).to_pylist()
    ]


def _pieces(shape: tuple[int, ...]) -> list[tuple[slice, slice]]:
    """An image cut evenly into pieces of about :data:`PIECE` on a side."""
    cuts = [np.linspace(0, n, max(1, round(n / PIECE)) + 1).astype(int).tolist() for n in shape]
    rows, columns = ([slice(*ends) for ends in pairwise(c)] for c in cuts)
    return [(y, x) for y in rows for x in columns]


def _read(
    path: Path, pixel_scale: float
) -> tuple[NDArray[np.float64], NDArray[np.bool_], float | None]:
    """Image, where it is empty, and the zero point if the file has one."""
    try:
        with fits.open(path) as hdus:
            groups = find_groups(hdus, path.name)
            if not groups:
                raise InputError(f"{path} holds no image: give FITS images to --sky")
            group = groups[0]
            image = _plane(hdus, group.image, group.shape)
            header, primary = hdus[group.image].header, hdus[0].header
            empty, known = np.isfinite(image), {}
            if group.mask is not None:
                known = mask_planes(hdus[group.mask].header)
                mask = hdus[group.mask].data.reshape(group.shape).astype(np.int64)
                empty &= (mask & plane_bits(known, TAKEN)) == 0
            wcs = WCS(header) if "CRVAL1" in header else None
    except (OSError, TypeError, ValueError) as error:
        raise InputError(f"sky {path} cannot be read as a FITS image: {error}") from None
    if wcs is not None and wcs.has_celestial:
        scale = float(proj_plane_pixel_scales(wcs.celestial).mean()) * 3600
        if abs(scale / pixel_scale - 1) > 0.02:
            raise InputError(
                f"sky {path} has pixels of {scale:.4g} arcsec, the population of {pixel_scale:.4g}:"
                " correlations count pixels, give images of the same scale"
            )
    if "DETECTED" not in known:
        empty &= ~_sources(image, empty)
    told = unit_of(header, primary)
    return np.where(empty, image, 0.0), empty, told and told[0]


def _plane(hdus: fits.HDUList, number: int, shape: tuple[int, int]) -> NDArray[np.float64]:
    data: Any = hdus[number].data
    return np.asarray(data, np.float64).reshape(shape)


def _sources(image: NDArray[np.float64], valid: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Where sources are, with 5 px around them."""
    if not valid.any():
        return ~valid
    plain = np.where(valid, image, np.median(image[valid]))
    smooth = gaussian_filter(plain, 1.5)
    sky = valid
    for _ in range(3):  # sources raise the level that they are measured against
        level = np.median(smooth[sky]) if sky.any() else 0.0
        spread = _SIGMA_OF_MAD * np.median(np.abs(smooth[sky] - level)) if sky.any() else 0.0
        bright = smooth > level + 3 * spread
        sky = valid & ~binary_dilation(bright, iterations=2)
    return np.asarray(distance_transform_edt(~bright) <= 5)
