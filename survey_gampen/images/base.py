"""What every source of pixels offers, whatever its files look like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from survey_gampen.errors import InputError

#: Galaxies in one batch of :meth:`ImageSource.cutouts`, at most. Bounds the memory of a reader:
#: 64 boxes of 239 pixels are 15 MB.
BATCH = 64


class NoSuchBand(InputError):
    """There are images, and none in the band that is asked for.

    Parameters
    ----------
    where : str
        The images.
    band : str
    there : sequence of str
        Bands that there are.
    """

    def __init__(self, where: object, band: str | None, there: Sequence[str]) -> None:
        self.lack = f"{where}: no image in band {band}; there is {', '.join(there)}"
        super().__init__(f"{self.lack}: choose with --band")


@dataclass
class Cutouts:
    """A batch of cutouts, cut from one tile.

    Attributes
    ----------
    index : ndarray of int64, shape (n,)
        Positions in the request.
    image : ndarray of float32, shape (n, size, size), or (n, bands, size, size) of several bands
        nJy a pixel; always finite. The galaxy's pixel has the index ``size // 2`` on both axes.
        All zero where there is no image.
    status : ndarray of int32, shape (n,)
        Bits of :class:`~survey_gampen.images.status.Status`.
    note : list of (str or None), length n
        Why a cutout is unusable (BAD_CUTOUT), else None.
    replaced : ndarray of bool, shape (n, size, size)
        Pixels that do not come from an image: padded, without data, or bad.
    sky_level, sky_sigma : ndarray of float32, shape (n,), or (n, bands)
        Local sky and its noise a pixel of the image they were cut from, nJy; NaN where unknown.
    variance : ndarray of float32, shape (n, size, size), optional
        nJy^2; NaN where unknown. None unless it was asked for.
    facts : dict
        Facts of the tile: ``tile``, ``band``, ``zero_point`` (AB magnitude of one unit of the
        file), ``zero_point_from`` (the header card or "survey"), ``pixel_scale`` (arcsec, of the
        file), ``psf_fwhm`` (arcsec or None), ``sky_sigma`` (median of the batch, nJy). Of several
        bands arrays (n, bands).
    """

    index: NDArray[np.int64]
    image: NDArray[np.float32]
    status: NDArray[np.int32]
    note: list[str | None]
    replaced: NDArray[np.bool_]
    sky_level: NDArray[np.float32]
    sky_sigma: NDArray[np.float32]
    variance: NDArray[np.float32] | None = None
    facts: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def empty(cls, index: NDArray[np.int64], size: int, variance: bool = False) -> Cutouts:
        """A batch without pixels and without flags, to be filled."""
        n = len(index)
        return cls(
            index=index,
            image=np.zeros((n, size, size), np.float32),
            status=np.zeros(n, np.int32),
            note=[None] * n,
            replaced=np.ones((n, size, size), bool),
            sky_level=np.full(n, np.nan, np.float32),
            sky_sigma=np.full(n, np.nan, np.float32),
            variance=np.full((n, size, size), np.nan, np.float32) if variance else None,
        )

    def __len__(self) -> int:
        return len(self.index)


@runtime_checkable
class ImageSource(Protocol):
    """Where pixels come from.

    A source never raises for the trouble of one galaxy: it flags the row.
    """

    #: Arcsec a pixel of the cutouts (the model's).
    pixel_scale: float
    #: Lines to show to the user once: files that could not be used.
    warnings: list[str]

    def inventory(self) -> str:
        """SHA-256 over names, sizes and times of the files, for the run's fingerprint."""
        ...

    def describe(self) -> str:
        """One line: what there is."""
        ...

    def footprints(self) -> pa.Table:
        """Images and where they lie: columns tile, ra, dec (deg), radius (deg)."""
        ...

    def cutouts(
        self, ra: ArrayLike, dec: ArrayLike, size: int, object_id: Sequence[Any] | None = None
    ) -> Iterator[Cutouts]:
        """Cut out galaxies; every position of the request comes exactly once, in any order.

        Parameters
        ----------
        ra, dec : array_like, shape (n,)
            Degrees, ICRS.
        size : int
            Pixels a side, of the model's pixel scale; odd.
        object_id : sequence, optional
            Names of the galaxies, for sources that hold one file a galaxy.

        Raises
        ------
        UnreadableFile
            A file exists and cannot be read.
        OutsideFault
            The file system fails.
        """
        ...

    def close(self) -> None:
        """Close all files; they open again when needed."""
        ...
