"""What the HDUs of a FITS file are: image, mask, variance; units; mask planes by name."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from astropy import units as u
from astropy.io import fits

#: AB zero point of 1 nJy (Oke & Gunn 1983; 8.90 for 1 Jy).
NJY_ZERO_POINT = 31.4
#: AB zero point of one nanomaggy, and its spellings (SDSS, Legacy Surveys).
_NANOMAGGY = {"nmgy", "nanomaggy", "nanomaggies"}
_NANOMAGGY_ZERO_POINT = 22.5
#: Cards that hold an AB zero point in magnitudes, the first found counts.
_MAGNITUDE_CARDS = ("MAGZERO", "MAGZP", "MAGZPT", "ZEROPNT", "ZPT", "ZP", "PHOTZP", "ABZP")

#: More planes than this are no bands.
_MOST_BANDS = 16

_ROLES = {
    "IMAGE": "image", "SCI": "image", "SCIENCE": "image",
    "MASK": "mask", "MSK": "mask",
    "VARIANCE": "variance", "VAR": "variance",
    "INVVAR": "invvar", "IVAR": "invvar",
}  # fmt: skip


@dataclass(frozen=True)
class PlaneGroup:
    """Numbers of the HDUs that belong together, and the band where the file tells it."""

    image: int
    shape: tuple[int, int]
    mask: int | None = None
    variance: int | None = None
    invvar: int | None = None
    band: str | None = None
    #: Which image of a cube of several bands.
    plane: int | None = None


def find_groups(hdus: Iterable[fits.hdu.base._BaseHDU], name: str = "") -> list[PlaneGroup]:
    """Sort the HDUs of a file into images with their masks and variances.

    HDUs are known by EXTTYPE, EXTNAME or IMAGETYP; a mask also by its ``MP_`` cards. HSC's files
    may carry EXTTYPE and no EXTNAME, or no name at all: then the order image, mask, variance
    counts. Of unnamed images only the first of a file is one, unless it has no pixels. Each plane
    of a cube is an image of its own.

    Parameters
    ----------
    hdus : iterable of HDUs
        Read one by one, and no further than the tables that follow a whole group.
    name : str
        The file's name, from which the band is taken if no header has it.
    """
    groups: list[dict[str, Any]] = []
    primary: fits.Header | None = None
    for number, hdu in enumerate(hdus):
        header = hdu.header
        primary = header if primary is None else primary
        shape = _plane_shape(hdu)
        if shape is None and not groups and (cube := _cube_shape(hdu)):
            bands = bands_of_cube(header, cube[0])
            return [
                PlaneGroup(number, cube[1:], band=band, plane=plane)
                for plane, band in enumerate(bands)
            ]
        if shape is None:
            tail = isinstance(hdu, fits.BinTableHDU) and not isinstance(hdu, fits.CompImageHDU)
            if tail and groups and groups[-1]["mask"] and groups[-1]["variance"]:
                break
            continue
        role = _role(header)
        last = groups[-1] if groups else None
        if role is None:
            role = _guess_role(header, shape, last)
        if role == "image":
            band = band_of(header, primary, name)
            others = dict.fromkeys(("mask", "variance", "invvar"))
            groups.append({"image": number, "shape": shape, "band": band, **others})
        elif role and last and last["shape"] == shape and last[role] is None:
            last[role] = number
    return [PlaneGroup(**group) for group in groups]


def _plane_shape(hdu: fits.hdu.base._BaseHDU) -> tuple[int, int] | None:
    """(ny, nx) of a 2-D image, also of a cube of one plane."""
    if not hdu.is_image or not hdu.shape:
        return None
    long = [n for n in hdu.shape if n != 1] if len(hdu.shape) > 2 else list(hdu.shape)
    return (long[0], long[1]) if len(long) == 2 and min(long) > 0 else None


def _cube_shape(hdu: fits.hdu.base._BaseHDU) -> tuple[int, int, int] | None:
    """(n, ny, nx) of a cube with a plane a band; a spectrograph's has more planes."""
    if not hdu.is_image or not hdu.shape:
        return None
    long = [n for n in hdu.shape if n != 1]
    if len(long) != 3 or long[0] > _MOST_BANDS:
        return None
    return long[0], long[1], long[2]


def bands_of_cube(header: fits.Header, planes: int) -> list[str | None]:
    """The band of each plane, where the header tells it as the Legacy Surveys' viewer does: all in
    one word BANDS, or in cards BAND0, BAND1 ..."""
    cards = [header.get(f"BAND{plane}") for plane in range(planes)]
    if all(isinstance(card, str) and card.strip() for card in cards):
        return [short_band(str(card)) for card in cards]
    word = header.get("BANDS")
    if isinstance(word, str) and len(word.strip()) == planes:
        return list(word.strip())
    return [None] * planes


def _role(header: fits.Header) -> str | None:
    for card in ("EXTTYPE", "EXTNAME", "IMAGETYP"):
        role = _ROLES.get(str(header.get(card, "")).strip().upper())
        if role:
            return role
    return None


def _guess_role(
    header: fits.Header, shape: tuple[int, int], last: dict[str, Any] | None
) -> str | None:
    if mask_planes(header):
        return "mask"
    if last is None:
        return "image"
    after_mask = last["mask"] is not None and last["variance"] is None and last["shape"] == shape
    return "variance" if after_mask and header.get("BITPIX", 0) < 0 else None


def mask_planes(header: fits.Header) -> dict[str, int]:
    """Bit numbers by name of mask plane, without the prefix ``MP_``.

    Long names stand as HIERARCH cards, whose keywords astropy gives without that word and in
    capitals or not, as they were written.
    """
    planes = {}
    for card in header:
        keyword = card.upper().removeprefix("HIERARCH ").strip()
        if keyword.startswith("MP_") and isinstance(header[card], int):
            planes[keyword.removeprefix("MP_")] = int(header[card])
    return planes


def plane_bits(planes: dict[str, int], names: Iterable[str]) -> int:
    """The bits of some planes as one integer; names that a file does not have do nothing."""
    bits = 0
    for name in names:
        if name.upper() in planes:
            bits |= 1 << planes[name.upper()]
    return bits


def band_of(header: fits.Header, primary: fits.Header, name: str = "") -> str | None:
    """The band an image was taken in, as one short word ("HSC-R2" -> "r"), or None."""
    for source in (header, primary):
        for card in ("FILTER", "BAND", "FILTNAM", "FILTER1"):
            value = source.get(card)
            if isinstance(value, str) and value.strip():
                return short_band(value)
    match = re.search(r"HSC-([GRIZY])\d?(?![A-Za-z])", name)
    return match.group(1).lower() if match else None


def short_band(band: str) -> str:
    """One spelling for a broad band: "HSC-G", "g", "G" -> "g"; "r2", "HSC-I2" -> "r", "i".

    HSC replaced its r and i filters in 2016 and 2018; coadds of either are called r2 and i2.
    Narrow bands ("NB0387") keep their digits.
    """
    word = next(iter(band.lower().split()), "")
    word = word.removeprefix("hsc-").removeprefix("lsst_").removeprefix("lsst-")
    return word[0] if re.fullmatch(r"[ugrizy]\d?(_\d+)?|[ugrizy]\.\w+", word) else word


def unit_of(
    header: fits.Header, primary: fits.Header, pixel_arcsec2: float | None = None
) -> tuple[float, str] | None:
    """AB zero point of one unit of the image, and the card it comes from.

    Looked up in the image's header, then in the primary one: FLUXMAG0 (flux of magnitude 0), a
    card with a zero point in magnitudes, BUNIT where it names a flux density (nJy, uJy, nmgy,
    MJy/sr, ...).

    Returns
    -------
    (zero_point, card) or None
        None where the headers tell nothing.
    """
    for source in (header, primary):
        flux = _number(source.get("FLUXMAG0"))
        if flux is not None and flux > 0:
            return 2.5 * math.log10(flux), "FLUXMAG0"
    for source in (header, primary):
        for card in _MAGNITUDE_CARDS:
            value = _number(source.get(card))
            # 0 stands for "not known" in some headers; no survey's unit is 3631 Jy a count.
            if value:
                return value, card
    for source in (header, primary):
        zero_point = _from_unit(source.get("BUNIT"), pixel_arcsec2)
        if zero_point is not None:
            return zero_point, "BUNIT"
    return None


def njy_per_unit(zero_point: float) -> float:
    """nJy of one image unit; 57.544 for HSC's zero point of 27.0."""
    return float(10.0 ** (0.4 * (NJY_ZERO_POINT - zero_point)))


def psf_fwhm(header: fits.Header, primary: fits.Header) -> float | None:
    """FWHM of the PSF in arcsec where a header tells it without doubt about its unit."""
    for source in (header, primary):
        for card in ("PSF_FWHM", "PSFFWHM"):
            value = _number(source.get(card))
            if value is not None and 0.01 < value < 30.0:
                return value
    return None


def _from_unit(text: object, pixel_arcsec2: float | None) -> float | None:
    if not isinstance(text, str) or not text.strip():
        return None
    if text.strip().lower() in _NANOMAGGY:
        return _NANOMAGGY_ZERO_POINT
    try:
        unit = u.Unit(text.strip())
        if unit.is_equivalent(u.nJy):
            njy = unit.to(u.nJy)
        elif unit.is_equivalent(u.nJy / u.sr) and pixel_arcsec2:
            njy = unit.to(u.nJy / u.arcsec**2) * pixel_arcsec2
        else:
            return None
    except (ValueError, TypeError):
        return None
    return float(NJY_ZERO_POINT - 2.5 * np.log10(njy))


def _number(value: object) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    return float(value) if math.isfinite(value) else None
