"""A line for each beginning and end of each attempt at a partition: who did what, when, how long,
and how much of it in which stage.

It is for people and for counting; nothing reads it to decide anything.
"""

from __future__ import annotations

import contextlib
import time
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from survey_gampen.errors import WorkerLeaving, WorkerLost


class Attempts:
    """Appends to a file, line by line.

    Parameters
    ----------
    path : Path
        On this machine; made where it is missing.
    copy : Path
        Where it is put at the end, if that is another place: an object store can't append.
    """

    def __init__(self, path: Path, copy: Path) -> None:
        self._path, self._copy = path, copy
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("a", buffering=1)
        self._begun: dict[str, float] = {}

    def __enter__(self) -> Attempts:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._file.close()
        if self._copy != self._path:
            with contextlib.suppress(Exception):  # nothing depends on it
                self._copy.write_bytes(self._path.read_bytes())

    def begins(self, key: str, stage: str, partition: str) -> None:
        """Note that an attempt was given out.

        Parameters
        ----------
        key : str
            Its name, no other has it.
        stage : str
            ``cut`` or ``infer``.
        partition : str
        """
        self._begun[key] = time.monotonic()
        self._write(key, stage, partition, "begins")

    def ended(self, key: str, stage: str, partition: str, outcome: Any) -> None:
        """Note how it ended: with a report or with an exception."""
        seconds = time.monotonic() - self._begun.pop(key)
        words = f"{_words(outcome)} after {seconds:.1f} s"
        if isinstance(outcome, dict) and (stages := outcome.get("stages")):
            words += ": " + ", ".join(f"{name} {spent:.3f}" for name, spent in stages.items())
        self._write(key, stage, partition, words)

    def _write(self, key: str, stage: str, partition: str, words: str) -> None:
        now = datetime.now().isoformat(sep=" ", timespec="milliseconds")
        self._file.write(f"{now} {stage} {partition} {key} {words}\n")


def _words(outcome: Any) -> str:
    if isinstance(outcome, WorkerLeaving):
        return "not begun"
    if isinstance(outcome, WorkerLost):
        return "lost"
    if isinstance(outcome, BaseException):
        return f"failed ({' '.join(f'{type(outcome).__name__}: {outcome}'.split())})"
    where = f" on {outcome['worker']}" if "worker" in outcome else ""
    return f"done{where}"
