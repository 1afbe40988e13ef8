"""One open image with its mask and variance: boxes of pixels in nJy."""

from __future__ import annotations

import io
import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from survey_gampen.errors import GampenError, OutsideFault, UnreadableFile
from survey_gampen.images.pixels.grid import quiet
from survey_gampen.images.pixels.planes import PlaneGroup, mask_planes, njy_per_unit, plane_bits
from survey_gampen.outside import outside_fault
from survey_gampen.survey import Survey

# Bits of Box.flags, the same for every file, whatever numbers its mask planes have.
OUTSIDE = 1  # beyond the border of the image
NO_DATA = 2  # never observed, or not finite
BAD = 4  # a bad plane of the survey profile
SATURATED = 8
BRIGHT = 16
DETECTED = 32
#: A pixel with one of these holds nothing of the sky.
MISSING = OUTSIDE | NO_DATA

#: The pipelines' plane of pixels that belong to a detected source; keeps them out of the sky.
_DETECTED_PLANES = ("DETECTED",)
#: Boxes to read from a compressed plane before it is decompressed whole. Blocks are mostly single
#: rows, so that a box of 239 rows of an HSC patch costs a 17th of the patch.
_SECTIONS = 12


@dataclass
class Box:
    """A rectangle of pixels of one image.

    Attributes
    ----------
    image : ndarray of float32, shape (ny, nx)
        nJy; 0 where MISSING is set.
    flags : ndarray of uint8, shape (ny, nx)
        Bits OUTSIDE, NO_DATA, BAD, SATURATED, BRIGHT, DETECTED.
    variance : ndarray of float32, shape (ny, nx), optional
        nJy^2; NaN where unknown.
    """

    image: NDArray[np.float32]
    flags: NDArray[np.uint8]
    variance: NDArray[np.float32] | None = None


@contextmanager
def reading(path: Path | str, root: Path | str | None = None) -> Iterator[None]:
    """Turn any failure to read `path` into one of the project's errors.

    FITS readers fail on a broken file with a dozen classes of exception, so all count.

    Parameters
    ----------
    path : Path or str
        The file, for the error: where it lies, not where a copy of it is.
    root : Path or str, optional
        The folder of all images, for the error.

    Raises
    ------
    UnreadableFile
        The file is broken, or may not be read.
    OutsideFault
        The file system fails, or the file, which was there at planning, is gone: a mount point
        outlives its mount, and then all files are.
    """
    try:
        with quiet():
            yield
    except (GampenError, MemoryError):
        raise
    except Exception as error:
        fault = outside_fault(error, path)
        if fault is not None:
            raise fault from error
        if isinstance(error, FileNotFoundError):
            raise OutsideFault(
                f"{path} is gone: put it back, or mount {root or Path(path).parent} again, and run "
                "the same command again"
            ) from error
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UnreadableFile(
            f"{path}: cannot be read ({reason}); replace the file, then resume the run"
        ) from error


class Tile:
    """An open image.

    Uncompressed files are memory-mapped, unless their pixels are scaled integers. Of compressed
    ones (.fz) only the needed blocks are decompressed for the first boxes, then the whole plane,
    once, as for a .gz file.

    Parameters
    ----------
    path : Path
        FITS file.
    group : PlaneGroup
        Its HDUs.
    survey : Survey
        Says which mask planes are what.
    zero_point : float
        AB magnitude of one image unit.
    variance : bool
        Whether :meth:`box` gives variances.
    root : Path or str, optional
        Folder of all images, see :func:`reading`.
    called : str, optional
        What to call the file in errors, where `path` is a copy of it.
    content : bytes, optional
        The file itself, where it is no file of its own; `path` is then only its name.

    Raises
    ------
    UnreadableFile
        Here or in :meth:`box`.
    """

    def __init__(
        self,
        path: Path,
        group: PlaneGroup,
        survey: Survey,
        zero_point: float,
        *,
        variance: bool = False,
        root: Path | str | None = None,
        called: str | None = None,
        content: bytes | None = None,
    ) -> None:
        self.path, self.root, self._content = path, root, content
        self._called = called or path
        self.ny, self.nx = group.shape
        self._njy = njy_per_unit(zero_point)
        self._open: list[fits.HDUList] = []
        try:
            with reading(self._called, root):
                number = group.variance if group.variance is not None else group.invvar
                used = [group.image, *([number] if variance and number is not None else [])]
                science = self._open_file()
                if any(_is_scaled(science[each].header) for each in used):
                    science = self._open_file(memmap=False)  # astropy scales no mapped pixels
                self._image = _plane(science[group.image], group.shape, plane=group.plane)
                self._mask: Callable[[slice, slice], NDArray[Any]] | None = None
                if group.mask is not None:
                    # Raw integers: a BLANK card would make astropy turn them into floats.
                    raw = self._open_file(do_not_scale_image_data=True)[group.mask]
                    self._mask = _plane(raw, group.shape, zero=int(raw.header.get("BZERO", 0)))
                    self._planes = _plane_table(raw.header, survey)
                self._invert = group.variance is None
                self._variance = None
                if variance and number is not None:
                    self._variance = _plane(science[number], group.shape)
        except BaseException:
            self.close()
            raise

    def _open_file(self, memmap: bool = True, **options: bool) -> fits.HDUList:
        if self._content is None:
            hdus = fits.open(self.path, mode="readonly", memmap=memmap, **options)
        else:
            hdus = fits.open(io.BytesIO(self._content), memmap=False, **options)
        self._open.append(hdus)
        return hdus

    def box(self, x0: int, y0: int, nx: int, ny: int) -> Box:
        """Read the box whose first pixel is (x0, y0); it may reach beyond the image."""
        image = np.zeros((ny, nx), np.float32)
        flags = np.full((ny, nx), OUTSIDE, np.uint8)
        variance = None if self._variance is None else np.full((ny, nx), np.nan, np.float32)
        left, right = max(x0, 0), min(x0 + nx, self.nx)
        low, high = max(y0, 0), min(y0 + ny, self.ny)
        if left >= right or low >= high:
            return Box(image, flags, variance)
        there = slice(low, high), slice(left, right)
        here = slice(low - y0, high - y0), slice(left - x0, right - x0)
        with reading(self._called, self.root), np.errstate(all="ignore"):
            raw = self._image(*there)
            pixels = np.empty(raw.shape, np.float32)
            np.multiply(raw, self._njy, out=pixels, dtype=np.float64, casting="same_kind")
            found = np.zeros(pixels.shape, np.uint8)
            if self._mask is not None:
                mask = self._mask(*there)
                mask = mask.astype(mask.dtype.newbyteorder("="))
                if mask.dtype.kind == "i":  # the highest plane is the sign
                    mask = mask.view(f"u{mask.itemsize}")
                seen = int(np.bitwise_or.reduce(mask, axis=None))
                for bit, planes in self._planes:
                    if there_are := seen & planes:
                        found |= ((mask & there_are) != 0) * np.uint8(bit)
            if variance is not None and self._variance is not None:
                values = self._variance(*there).astype(np.float64)
                values = 1.0 / values if self._invert else values
                values = (values * self._njy**2).astype(np.float32)
                variance[here] = np.where(np.isfinite(values) & (values > 0), values, np.nan)
        found |= ~np.isfinite(pixels) * np.uint8(NO_DATA)
        pixels[(found & NO_DATA) != 0] = 0.0
        image[here], flags[here] = pixels, found
        return Box(image, flags, variance)

    def close(self) -> None:
        """Close the file; memory maps go when the last array does."""
        for hdus in self._open:
            hdus.close()
        self._open.clear()


def _is_scaled(header: fits.Header) -> bool:
    """Tell whether pixels are stored as other numbers than they mean."""
    return header.get("BSCALE", 1) != 1 or header.get("BZERO", 0) != 0 or "BLANK" in header


def _plane(
    hdu: fits.hdu.base._BaseHDU, shape: tuple[int, int], zero: int = 0, plane: int | None = None
) -> Callable[[slice, slice], NDArray[Any]]:
    """A reader of rectangles of one HDU, or of one plane of a cube."""
    if isinstance(hdu, fits.CompImageHDU) and len(hdu.shape) == 2:
        few_then_all = itertools.chain(itertools.repeat(True, _SECTIONS), itertools.repeat(False))
        return lambda rows, columns: _with_zero(
            (hdu.section if next(few_then_all) else hdu.data)[rows, columns], zero
        )
    # For a file that is shorter than its header says this raises; better now than in the middle.
    data = hdu.data.reshape(shape if plane is None else (-1, *shape))
    data = data if plane is None else data[plane]
    return lambda rows, columns: _with_zero(data[rows, columns], zero)


def _with_zero(values: NDArray[Any], zero: int) -> NDArray[Any]:
    """Raw integers of an unsigned type are stored shifted by BZERO."""
    return values.astype(np.int64) + zero if zero else np.asarray(values)


def _plane_table(header: fits.Header, survey: Survey) -> list[tuple[int, int]]:
    """Our bit and the file's planes for it, of the planes that the file has."""
    planes = mask_planes(header)
    wanted = [
        (NO_DATA, survey.no_data_planes),
        (BAD, survey.bad_planes),
        (SATURATED, survey.saturated_planes),
        (BRIGHT, survey.bright_planes),
        (DETECTED, _DETECTED_PLANES),
    ]
    table = [(bit, plane_bits(planes, names)) for bit, names in wanted]
    return [(bit, planes) for bit, planes in table if planes]
