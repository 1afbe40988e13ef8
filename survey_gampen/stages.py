"""Where the time of a task goes."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
_END = object()


class Stages:
    """Adds up the time spent in each stage of a task, a stage being what a ``with`` holds. One
    must not lie in another: its time would count twice::

        stages = Stages()
        with stages("reading"):
            ...

    Attributes
    ----------
    seconds : dict of str to float
        By stage, in the order of their first beginning [s].
    """

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._begun = time.perf_counter()

    @contextlib.contextmanager
    def __call__(self, stage: str) -> Iterator[None]:
        """Time of what is inside belongs to `stage`."""
        begun = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begun
            self.seconds[stage] = self.seconds.get(stage, 0.0) + spent

    def each(self, stage: str, items: Iterable[T]) -> Iterator[T]:
        """Pass items on; the time it takes to get them belongs to `stage`."""
        iterator = iter(items)
        while True:
            with self(stage):
                item = next(iterator, _END)
            if item is _END:
                return
            yield item  # type: ignore[misc]

    def report(self, rest: str) -> dict[str, float]:
        """Return the seconds of all stages, and as `rest` what belongs to none."""
        whole = time.perf_counter() - self._begun
        return self.seconds | {rest: max(0.0, whole - sum(self.seconds.values()))}
