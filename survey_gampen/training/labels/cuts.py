"""Named cuts: each row that is dropped is counted once, at the first cut that it fails."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True)
class Cut:
    """A reason to drop rows.

    Attributes
    ----------
    name : str
    reason : str
        What is wrong with the rows, for the printed table.
    drops : ndarray of bool, (n,), or None
        The rows that fail. None: cannot be judged, for the column that tells is not there.
    """

    name: str
    reason: str
    drops: NDArray[np.bool_] | None


@dataclass(frozen=True)
class Tally:
    """What a sequence of cuts left.

    Attributes
    ----------
    cuts : tuple of Cut
    dropped : dict of str to (int or None)
        Rows that each cut was the first to drop; None where it was not applied.
    kept : ndarray of bool, (n,)
    """

    cuts: tuple[Cut, ...]
    dropped: dict[str, int | None]
    kept: NDArray[np.bool_]

    @property
    def n_kept(self) -> int:
        return int(self.kept.sum())

    def print(self, title: str) -> None:
        """Print the table of counts; they add up to the number of rows."""
        table = Table("cut", "dropped", "reason", title=title)
        table.columns[1].justify = "right"
        for cut in self.cuts:
            count = self.dropped[cut.name]
            reason = cut.reason + (" (not applied: no such column)" if count is None else "")
            table.add_row(cut.name, "-" if count is None else str(count), reason)
        table.add_section()
        table.add_row("kept", str(self.n_kept), f"of {len(self.kept)} rows")
        # A file has no width: as wide as the table needs.
        Console(width=None if Console().is_terminal else 150).print(table)


def apply_cuts(n: int, cuts: Sequence[Cut]) -> Tally:
    """Apply cuts in their order to `n` rows."""
    kept = np.ones(n, bool)
    dropped: dict[str, int | None] = {}
    for cut in cuts:
        dropped[cut.name] = None if cut.drops is None else int((kept & cut.drops).sum())
        if cut.drops is not None:
            kept &= ~cut.drops
    return Tally(tuple(cuts), dropped, kept)
