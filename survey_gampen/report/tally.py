"""What is kept of a stream of rows: counts in cells, and the rows of the smallest keys."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from survey_gampen.catalog.ids import id_key

Floats = NDArray[np.float64]


class Counts:
    """Counts in cells of one quantity; what lies beyond goes to the cells at the ends.

    Parameters
    ----------
    edges : array_like, (n + 1,)
        Increasing.
    """

    def __init__(self, edges: ArrayLike) -> None:
        self.edges: Floats = np.asarray(edges, float)
        self.counts = np.zeros(len(self.edges) - 1, np.int64)

    def add(self, values: Floats) -> None:
        """Count values; those that are not finite are left out."""
        self.counts += np.bincount(_cells(values, self.edges), minlength=len(self.counts))

    def occupied(self) -> tuple[int, int] | None:
        """The first cell that holds something, and one past the last."""
        some = np.flatnonzero(self.counts)
        return (int(some[0]), int(some[-1]) + 1) if some.size else None


class Trend:
    """Counts of one quantity for each cell of another, to ask for quantiles along it.

    Parameters
    ----------
    x_edges, y_edges : array_like
        Increasing.
    """

    def __init__(self, x_edges: ArrayLike, y_edges: ArrayLike) -> None:
        self.x_edges: Floats = np.asarray(x_edges, float)
        self.y_edges: Floats = np.asarray(y_edges, float)
        self.counts = np.zeros((len(self.x_edges) - 1, len(self.y_edges) - 1), np.int64)

    def add(self, x: Floats, y: Floats) -> None:
        """Count pairs; those that are not finite are left out."""
        both = np.isfinite(x) & np.isfinite(y)
        cells = _cells(x[both], self.x_edges), _cells(y[both], self.y_edges)
        np.add.at(self.counts, cells, 1)

    def quantiles(self, shares: ArrayLike, least: int) -> tuple[Floats, Floats]:
        """Quantiles of y in each cell of x that holds at least `least` pairs.

        Returns
        -------
        x : ndarray, (cells,)
            Middles of the cells.
        y : ndarray, (shares, cells)
            Interpolated within the cells of y.
        """
        wanted = np.asarray(shares, float)
        rows = np.flatnonzero(self.counts.sum(axis=1) >= least)
        out = np.empty((len(wanted), len(rows)))
        for k, row in enumerate(rows):
            sums = np.concatenate([[0], np.cumsum(self.counts[row])])
            out[:, k] = np.interp(wanted * sums[-1], sums, self.y_edges)
        return (self.x_edges[rows] + self.x_edges[rows + 1]) / 2, out


class Smallest:
    """The rows of the smallest keys: a fair sample that no order of reading changes.

    Parameters
    ----------
    size : int
        Most rows that are kept.
    """

    def __init__(self, size: int) -> None:
        self._size = size
        self._keys = np.empty(0, np.uint64)
        self._rows: pa.Table | None = None
        self.offered = 0

    def offer(self, keys: NDArray[np.uint64], rows: pa.Table, which: NDArray[np.bool_]) -> None:
        """Look at some rows.

        Parameters
        ----------
        keys : ndarray, (n,) uint64
        rows : pyarrow.Table, n rows
        which : ndarray, (n,) bool
            The rows that are on offer.
        """
        self.offered += int(np.count_nonzero(which))
        if len(self._keys) == self._size:
            which = which & (keys < self._keys[-1])
        places = np.flatnonzero(which)
        if not places.size:
            return
        places = places[np.argsort(keys[places], kind="stable")][: self._size]
        new = rows.take(pa.array(places))
        whole = pa.concat_tables([self._rows, new]) if self._rows is not None else new
        every = np.concatenate([self._keys, keys[places]])
        order = np.argsort(every, kind="stable")[: self._size]
        self._keys = every[order]
        self._rows = whole.take(pa.array(order)).combine_chunks()

    def __len__(self) -> int:
        """Rows that are kept."""
        return len(self._keys)

    def table(self) -> pa.Table | None:
        """The rows, smallest key first; None where there was none."""
        return self._rows


def shuffled_keys(object_id: pa.Array | pa.ChunkedArray) -> NDArray[np.uint64]:
    """A key for each object_id that has nothing to do with its value or its place.

    Steele et al. 2014's SplitMix64 of the 64 bits of :func:`id_key`: one to one, so different
    integers never tie.

    Returns
    -------
    ndarray, (n,) uint64
    """
    z = id_key(object_id) + np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return z ^ (z >> np.uint64(31))


def _cells(values: Floats, edges: Floats) -> NDArray[np.int64]:
    values = values[np.isfinite(values)]
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, len(edges) - 2)
