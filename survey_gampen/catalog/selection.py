"""What a compiled selection does to the rows of a scan: which it keeps, and what each cut loses."""

from __future__ import annotations

from dataclasses import dataclass, field

import pyarrow as pa
import pyarrow.compute as pc


@dataclass
class Tally:
    """What became of the rows of a scan.

    Attributes
    ----------
    read : int
        Rows looked at: all, or those up to the last one that a limit lets through.
    lost : dict of str to int
        Rows that each cut lost, of those that the cuts before it had left. A condition that is
        null, for it has no value to look at, is not met.
    """

    read: int = 0
    lost: dict[str, int] = field(default_factory=dict)

    def words(self) -> str:
        """For example ``"@no_edge lost 12, mag < 20 lost 0"``."""
        return ", ".join(f"{name} lost {count}" for name, count in self.lost.items())


@dataclass(frozen=True)
class Selection:
    """A compiled selection.

    Attributes
    ----------
    text : str
        The whole expression, with the names of cuts written out.
    names : tuple of str
        What to call each condition, in the order in which they are applied.
    expressions : tuple of pyarrow.compute.Expression
        The conditions: a row is kept where all are true.
    columns : tuple of str
        Columns that they need.
    """

    text: str
    names: tuple[str, ...]
    expressions: tuple[pc.Expression, ...]
    columns: tuple[str, ...]

    def keep(
        self, batch: pa.RecordBatch, tally: Tally, at_most: int | None = None
    ) -> pa.RecordBatch:
        """The rows that pass, the first `at_most` of them, and the tally brought up to date."""
        steps = self._steps(batch)
        if at_most is not None and steps[-1].num_rows >= at_most:
            # Rows behind the last one that is let through count nowhere.
            numbered = batch.append_column("", pa.array(range(batch.num_rows)))
            last = self._steps(numbered)[-1].column(batch.num_columns)[at_most - 1].as_py()
            batch = batch.slice(0, last + 1)
            steps = self._steps(batch)
        tally.read += batch.num_rows
        for name, before, after in zip(self.names, [batch, *steps], steps, strict=False):
            tally.lost[name] = tally.lost.get(name, 0) + before.num_rows - after.num_rows
        return steps[-1]

    def _steps(self, batch: pa.RecordBatch) -> list[pa.RecordBatch]:
        """What is left behind each cut."""
        steps = []
        for expression in self.expressions:
            batch = batch.filter(expression)
            steps.append(batch)
        return steps
