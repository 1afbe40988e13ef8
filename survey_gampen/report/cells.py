"""Where the galaxies of a stream lie: the HEALPix cells they occupy, in bounded memory.

A set of such cells is what the Virtual Observatory calls a MOC (IVOA Recommendation "MOC:
Multi-Order Coverage map", 2.0).
"""

from __future__ import annotations

import math
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from survey_gampen.catalog.hats_out import FINEST, Pixel

Integers = NDArray[np.int64]

#: Cells that are kept, 24 bytes each; when there are more, all become one order coarser.
MOST = 1 << 20
#: Nothing is kept finer than this: 26 arcsec.
_START = 13
#: Galaxies in an occupied cell, on average, from which on hardly a cell inside the survey is empty
#: by chance (exp(-8) for galaxies at random).
ROWS_A_CELL = 8
#: Degrees^2 of the whole sky.
_SKY = 4 * math.pi * math.degrees(1) ** 2


class Images(IntEnum):
    """Whether the galaxies of a cell lie on images."""

    ALL = 0
    SOME = 1
    NONE = 2
    UNKNOWN = 3


class Cells:
    """Occupied cells of a stream of galaxies.

    Parameters
    ----------
    most : int
        Cells that are kept.
    """

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._order = _START
        self._index = np.empty(0, np.int64)
        self._counts = np.empty((0, 2), np.int64)
        self._waiting: list[tuple[Integers, NDArray[np.bool_]]] = []
        self._waiting_rows = 0

    def add(self, healpix_29: Integers, located: NDArray[np.bool_]) -> None:
        """Take in galaxies, (n,) each: their order-29 pixels, and whether they lie on an image."""
        self._waiting.append((healpix_29, located))
        self._waiting_rows += len(healpix_29)
        if self._waiting_rows >= self._most:  # sorting all cells for each few rows would be slow
            self._settle()

    def _settle(self) -> None:
        shift = 2 * (FINEST - self._order)
        for healpix_29, located in self._waiting:
            counts = np.stack([np.ones(len(located), np.int64), located.astype(np.int64)], axis=1)
            self._index = np.concatenate([self._index, healpix_29 >> shift])
            self._counts = np.concatenate([self._counts, counts])
        self._waiting, self._waiting_rows = [], 0
        self._index, self._counts = _together(self._index, self._counts)
        while len(self._index) > self._most:
            self._order -= 1
            self._index, self._counts = _together(self._index >> 2, self._counts)

    def at(self, order: int) -> tuple[Integers, Integers]:
        """Occupied cells of an order, at most the finest that is kept.

        Returns
        -------
        index : ndarray, (cells,)
            Nested.
        counts : ndarray, (cells, 2)
            Galaxies, and those of them that lie on an image.
        """
        self._settle()
        return _together(self._index >> 2 * (self._order - order), self._counts)

    @property
    def order(self) -> int:
        """The finest order whose occupied cells hold eight galaxies on average."""
        self._settle()
        rows = self._counts[:, 0].sum()
        for order in range(self._order, 0, -1):
            if rows >= ROWS_A_CELL * len(self.at(order)[0]):
                return order
        return 0

    @property
    def area(self) -> float:
        """Degrees^2 of the occupied cells of that order."""
        order = self.order
        return len(self.at(order)[0]) * cell_area(order)


def cell_area(order: int) -> float:
    """Degrees^2 of a cell."""
    return _SKY / (12 * 4**order)


def cell_side(order: int) -> float:
    """Degrees of a square as large as a cell."""
    return math.sqrt(cell_area(order))


def patches(cells: Cells, known: bool, most: int) -> dict[Pixel, Images]:
    """Occupied cells as few pixels: four of one kind that make up a larger one become that.

    Parameters
    ----------
    cells : Cells
    known : bool
        Whether anybody knows which galaxies lie on images.
    most : int
        Where there would be more pixels, coarser cells are taken.
    """
    for order in range(cells.order, -1, -1):
        index, counts = cells.at(order)
        kinds = np.full(len(index), Images.UNKNOWN, np.int64)
        if known:
            kinds = np.where(counts[:, 1] == counts[:, 0], Images.ALL, Images.SOME)
            kinds[counts[:, 1] == 0] = Images.NONE
        merged = _merged(index, kinds, order)
        if len(merged) <= most:
            break
    return merged


def _merged(index: Integers, kinds: Integers, order: int) -> dict[Pixel, Images]:
    out: dict[Pixel, Images] = {}
    while True:
        parents, first, members = np.unique(index >> 2, return_index=True, return_counts=True)
        full = members == 4
        full &= np.minimum.reduceat(kinds, first) == np.maximum.reduceat(kinds, first)
        stays = ~np.repeat(full, members) if order else np.ones(len(index), bool)
        for npix, kind in zip(index[stays].tolist(), kinds[stays].tolist(), strict=True):
            out[Pixel(order, npix)] = Images(kind)
        if stays.all():
            return out
        index, kinds, order = parents[full], kinds[first[full]], order - 1


def _together(index: Integers, counts: Integers) -> tuple[Integers, Integers]:
    """Cells that stand there several times become one."""
    unique, inverse = np.unique(index, return_inverse=True)
    total = np.zeros((len(unique), 2), np.int64)
    np.add.at(total, inverse, counts)
    return unique, total


def corners(pixels: dict[Pixel, Images]) -> list[tuple[Images, int, list[int]]]:
    """Pixels of each kind and order: (kind, order, their numbers)."""
    groups: dict[tuple[Images, int], list[int]] = {}
    for pixel, kind in pixels.items():
        groups.setdefault((kind, pixel.norder), []).append(pixel.npix)
    return [(kind, order, numbers) for (kind, order), numbers in sorted(groups.items())]
