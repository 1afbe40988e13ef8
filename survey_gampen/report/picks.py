"""Which galaxies are shown one by one: over all magnitudes, some with each flag, by no one's taste.

The choice depends on the object_ids and posteriors alone, not on the order of the files.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from survey_gampen.images.status import Status
from survey_gampen.report.tally import Floats, Smallest

#: Galaxies that are shown, and how many of them with a flag while there are enough without.
SHOWN, FLAGGED = 20, 6
Row = dict[str, Any]


class Picks:
    """Candidates from a stream of rows.

    Parameters
    ----------
    magnitudes : ndarray
        Edges of the cells that galaxies are chosen evenly from.
    """

    def __init__(self, magnitudes: Floats) -> None:
        self._edges = magnitudes
        # One more cell for posteriors without a magnitude (a draw of the flux was not positive).
        self._clean: dict[int, Smallest] = {}
        self._flagged: dict[Status, Smallest] = {}

    def add(
        self,
        keys: NDArray[np.uint64],
        rows: pa.Table,
        magnitude: Floats,
        given: NDArray[np.bool_],
        status: NDArray[np.int32],
    ) -> None:
        """Look at some rows.

        Parameters
        ----------
        keys : ndarray, (n,) uint64
        rows : pyarrow.Table, n rows
        magnitude : ndarray, (n,)
            NaN where there is none.
        given : ndarray, (n,) bool
            Rows with a posterior.
        status : ndarray, (n,)
        """
        clean = given & (status == 0)
        cell = np.searchsorted(self._edges, np.nan_to_num(magnitude, nan=np.inf))
        for number in np.unique(cell[clean]).tolist():
            best = self._clean.setdefault(number, Smallest(SHOWN))
            best.offer(keys, rows, clean & (cell == number))
        for bit in Status:
            some = (status & int(bit)) != 0
            if some.any():
                self._flagged.setdefault(bit, Smallest(SHOWN)).offer(keys, rows, some)

    def chosen(self) -> list[Row]:
        """The galaxies to show: those without a flag by magnitude, then those with one.

        Returns
        -------
        list of dict
            At most ``SHOWN`` rows.
        """
        clean = [_rows(self._clean[cell]) for cell in sorted(self._clean)]
        # Flags by turns, rarest first, so that none crowds out the others.
        rarest = sorted(self._flagged, key=lambda bit: (self._flagged[bit].offered, bit))
        flagged = [_rows(self._flagged[bit]) for bit in rarest]
        of_flags = _unlike(_by_turns(flagged))
        of_clean = _evenly(clean, SHOWN - min(FLAGGED, len(of_flags)))
        of_flags = of_flags[: SHOWN - len(of_clean)]
        return [*sorted(of_clean, key=_brightness), *sorted(of_flags, key=_brightness)]


def _rows(best: Smallest) -> list[Row]:
    table = best.table()
    return table.to_pylist() if table is not None else []


def _evenly(cells: list[list[Row]], count: int) -> list[Row]:
    """So many rows, spread over the cells; from each its first."""
    if len(cells) > count:
        return [cells[i][0] for i in np.linspace(0, len(cells) - 1, count).round().astype(int)]
    return _by_turns(cells)[:count]


def _by_turns(groups: list[list[Row]]) -> list[Row]:
    longest = max(map(len, groups), default=0)
    return [group[turn] for turn in range(longest) for group in groups if turn < len(group)]


def _unlike(rows: list[Row]) -> list[Row]:
    """Each galaxy once: it may carry several flags."""
    return list({row["object_id"]: row for row in rows}.values())


def _brightness(row: Row) -> tuple[float, str]:
    magnitude = row["mag_p50"]
    return (magnitude if magnitude is not None else np.inf, str(row["object_id"]))
