"""Small coadd tiles for tests, cut from one known mosaic."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS

from survey_gampen.survey import Survey

SCALE = 0.168
PLANES = {"BAD": 0, "SAT": 1, "DETECTED": 5, "NO_DATA": 8, "BRIGHT_OBJECT": 9}
SURVEY = Survey(
    name="test",
    columns={"object_id": "object_id", "ra": "ra", "dec": "dec"},
    pixel_scale=SCALE,
    zero_point=27.0,
    bad_planes=("BAD",),
    no_data_planes=("NO_DATA",),
    saturated_planes=("SAT",),
    bright_planes=("BRIGHT_OBJECT",),
)


def sky_wcs(x0: float = 0.0, y0: float = 0.0, *, scale: float = SCALE, angle: float = 0.0) -> WCS:
    """TAN projection whose reference pixel lies far outside, as in HSC's patches.

    Pixel (0, 0) of the tile is pixel (x0, y0) of the mosaic.
    """
    wcs = WCS(naxis=2)
    wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
    wcs.wcs.crval = [150.0, 2.2]
    wcs.wcs.crpix = [2001.0 * SCALE / scale - x0, -2999.0 * SCALE / scale - y0]
    turn = np.radians(angle)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    wcs.wcs.cd = rotation @ np.diag([-scale, scale]) / 3600.0
    return wcs


def noise(shape: tuple[int, int], seed: int = 0) -> np.ndarray:
    """Sky noise of 0.05 ADU."""
    return np.random.default_rng(seed).normal(0.0, 0.05, shape).astype(np.float32)


def blob(shape: tuple[int, int], x: float, y: float, sigma: float, flux: float) -> np.ndarray:
    """A round Gaussian."""
    yy, xx = np.mgrid[: shape[0], : shape[1]]
    value = np.exp(-((xx - x) ** 2 + (yy - y) ** 2) / (2.0 * sigma**2))
    return (flux * value / (2.0 * np.pi * sigma**2)).astype(np.float32)


def write_tile(
    path: Path,
    image: np.ndarray,
    wcs: WCS,
    *,
    mask: np.ndarray | None = None,
    names: str | None = "EXTTYPE",
    planes: dict[str, int] = PLANES,
    variance: bool = False,
    primary: dict[str, object] | None = None,
    compress: bool = False,
) -> Path:
    """Write a tile as the pipelines do: an empty primary HDU, then image, mask, variance.

    `names` is the card that tells the HDUs' roles; None: no card does.
    """
    first = fits.PrimaryHDU()
    cards = {"FLUXMAG0": 10 ** (0.4 * 27.0), "FILTER": "HSC-G"} if primary is None else primary
    first.header.update(cards)
    kind = fits.CompImageHDU if compress else fits.ImageHDU
    # Noise of a float image is quantised by the compression; these tests want the same pixels.
    exact = {"compression_type": "GZIP_2", "quantize_level": 0.0} if compress else {}
    parts = [("IMAGE", image, exact)]
    if mask is not None:
        parts.append(("MASK", mask.astype(np.int32), {}))
    if variance:
        parts.append(("VARIANCE", np.full(image.shape, 0.0025, np.float32), exact))
    hdus = [first]
    for role, data, options in parts:
        hdu = kind(data, wcs.to_header(), **options)
        if names:
            hdu.header[names] = role
        if role == "MASK":
            hdu.header["BLANK"] = 2147483647
            for name, bit in planes.items():
                # Names of more than five letters make the keyword a HIERARCH card.
                card = f"MP_{name}" if len(name) <= 5 else f"HIERARCH MP_{name}"
                hdu.header[card] = bit
        hdus.append(hdu)
    path.parent.mkdir(parents=True, exist_ok=True)
    fits.HDUList(hdus).writeto(path, output_verify="silentfix")
    return path


def crop(mosaic: np.ndarray, x: int, y: int, size: int) -> np.ndarray:
    """The box of `size` pixels around pixel (x, y)."""
    return mosaic[y - size // 2 : y + size // 2 + 1, x - size // 2 : x + size // 2 + 1]


def gather(source, ra, dec, size, object_id=None):
    """All batches of a request as arrays in its order: image, status, note, replaced."""
    n = len(ra)
    image = np.full((n, size, size), np.nan, np.float32)
    replaced = np.zeros((n, size, size), bool)
    status, seen, note = np.full(n, -1), np.zeros(n, int), [None] * n
    for batch in source.cutouts(ra, dec, size, object_id):
        seen[batch.index] += 1
        image[batch.index], status[batch.index] = batch.image, batch.status
        replaced[batch.index] = batch.replaced
        for place, text in zip(batch.index, batch.note, strict=True):
            note[place] = text
    assert (seen == 1).all()
    assert np.isfinite(image).all()
    return image, status, note, replaced
