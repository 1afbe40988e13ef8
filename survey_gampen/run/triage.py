"""What a failure means and what follows from it, decided in one place and without Dask.

==============  ==========================================  ====================================
kind            meaning                                     what follows
==============  ==========================================  ====================================
``UNREADABLE``  a file exists and can't be read             quarantine
``UNEXPECTED``  an error nobody thought of                  again; quarantine after 3 attempts
``MEMORY``      the batch was too large for the device      again with half the batch
``LOST``        the worker died under it                    again; quarantine after 5 losses
``OUTSIDE``     disk, mount, device                         again, 3 times; then the run stops
``UNFIT``       this worker can't work as the run needs     again, elsewhere
==============  ==========================================  ====================================

Five partitions in a row that fail for the same cause have met something that is not in their
data: the run stops and quarantines none of them. That is why a partition that used up its
attempts is only a *suspect* until another one is published. Ten workers in a row that are unfit
would be followed by others of the kind: the run stops as well.
"""

from __future__ import annotations

import re
import traceback
from dataclasses import dataclass, field
from enum import Enum

from survey_gampen.errors import (
    GampenError,
    OutsideFault,
    UnfitWorker,
    UnreadableFile,
    WorkerLost,
)
from survey_gampen.outside import outside_fault

SAME_CAUSE = 5
UNFIT_IN_A_ROW = 10


class TooLarge(GampenError):
    """The batch did not fit into the memory of the device."""


class Kind(Enum):
    """What a failure means; the values are the words that `status` prints."""

    UNREADABLE = "unreadable file"
    UNEXPECTED = "unexpected error"
    MEMORY = "out of memory"
    LOST = "worker lost"
    OUTSIDE = "fault outside the data"
    UNFIT = "unfit worker"


#: How often a partition is tried before it counts as failed.
ATTEMPTS = {Kind.UNREADABLE: 1, Kind.UNEXPECTED: 3, Kind.LOST: 5, Kind.OUTSIDE: 3, Kind.MEMORY: 3}


class Action(Enum):
    """What to do with a partition that failed."""

    AGAIN = "it is tried again"
    SMALLER = "it is tried again with half the batch"
    QUARANTINE = "it is quarantined"
    HOLD = "it is set aside until another one is published"
    STOP = "the run stops"


@dataclass
class Failure:
    """All failures of one partition that was not published since.

    Attributes
    ----------
    stage : str
        ``cut`` or ``infer``.
    kind : Kind
        Of the last failure.
    cause : str
        One line.
    trace : str
        Traceback of the last failure.
    attempts : int
        How often it was tried.
    """

    stage: str
    kind: Kind
    cause: str
    trace: str
    attempts: int = 0


@dataclass
class Triage:
    """Counts failures of the partitions in the works; forgets those that are published.

    Attributes
    ----------
    failures : dict
        Partition's index to its failures.
    suspects : set of int
        Partitions that used up their attempts and wait for a verdict.
    stop : str
        Why the run must stop; empty while it need not.
    """

    failures: dict[int, Failure] = field(default_factory=dict)
    suspects: set[int] = field(default_factory=set)
    stop: str = ""
    _row: set[int] = field(default_factory=set)
    _row_cause: str = ""
    _unfit: int = 0

    def failed(self, index: int, stage: str, error: BaseException, batch: int = 1) -> Action:
        """Take note of a failure and say what follows.

        Parameters
        ----------
        index : int
            The partition.
        stage : str
            ``cut`` or ``infer``.
        error : BaseException
            What was raised, or stands for the lost worker.
        batch : int
            Batch it was tried with.
        """
        kind = classify(error)
        before = self.failures.get(index)
        attempts = (before.attempts if before and before.kind is kind else 0) + 1
        trace = "".join(traceback.format_exception(error))
        self.failures[index] = Failure(stage, kind, one_line(error), trace, attempts)
        if kind is Kind.UNFIT:
            self._unfit += 1
            if self._unfit < UNFIT_IN_A_ROW:
                return Action.AGAIN
            self.stop = f"{UNFIT_IN_A_ROW} workers in a row can't do it: {one_line(error)}"
            return Action.STOP
        if kind is Kind.MEMORY and batch > 1:
            return Action.SMALLER
        spent = attempts >= ATTEMPTS[kind]
        if kind is Kind.UNREADABLE:
            return Action.QUARANTINE
        if (kind is not Kind.LOST or spent) and self._five_in_a_row(index, error):
            return Action.STOP
        if not spent:
            return Action.AGAIN
        self.suspects.add(index)
        return Action.HOLD

    def published(self, index: int) -> list[int]:
        """Take note of a success; return the suspects that it proves guilty."""
        self.failures.pop(index, None)
        self._row.clear()
        self._unfit = 0
        guilty = sorted(i for i in self.suspects if self.failures[i].kind is not Kind.OUTSIDE)
        self.suspects.difference_update(guilty)
        return guilty

    def at_the_end(self) -> list[int]:
        """Return the suspects to quarantine when nothing else is left to do.

        Where one failed for a cause outside the data, the run is to be stopped: see `stop`.
        """
        guilty = sorted(i for i in self.suspects if self.failures[i].kind is not Kind.OUTSIDE)
        outside = [self.failures[i].cause for i in self.suspects - set(guilty)]
        if outside:
            self.stop = outside[0]
        self.suspects.clear()
        return guilty

    def _five_in_a_row(self, index: int, error: BaseException) -> bool:
        cause = same_cause(error)
        if cause != self._row_cause:
            self._row, self._row_cause = set(), cause
        self._row.add(index)
        if len(self._row) < SAME_CAUSE:
            return False
        self.stop = f"{SAME_CAUSE} partitions in a row failed for one cause: {one_line(error)}"
        return True


def classify(error: BaseException) -> Kind:
    """Return what an error means."""
    if isinstance(error, UnfitWorker):
        return Kind.UNFIT
    if isinstance(error, MemoryError | TooLarge):
        return Kind.MEMORY
    if isinstance(error, WorkerLost):
        return Kind.LOST
    if isinstance(error, OutsideFault):
        return Kind.OUTSIDE
    if isinstance(error, UnreadableFile):
        return Kind.UNREADABLE
    return Kind.OUTSIDE if outside_fault(error) is not None else Kind.UNEXPECTED


def is_out_of_memory(error: BaseException) -> bool:
    """Tell whether a library's error says that memory ran out."""
    words = str(error).lower()
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or "out of memory" in words
        or "can't allocate memory" in words
    )


def one_line(error: BaseException) -> str:
    """Return an error as one line."""
    words = " ".join(str(error).split())
    if isinstance(error, GampenError) and words:
        return words
    return f"{type(error).__name__}: {words}" if words else type(error).__name__


def same_cause(error: BaseException) -> str:
    """Return what is equal for two partitions that failed for one cause.

    Numbers and the names of single files differ from partition to partition and are left out.
    """
    if classify(error) is Kind.LOST:
        return Kind.LOST.value
    words = re.sub(r"\S*/\S*", "PATH", one_line(error))
    return re.sub(r"[0-9a-f]{8,}|\d+", "N", words)
