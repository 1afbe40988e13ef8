"""How a training is watched: nobody, a terminal, or a client far from the worker that trains."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from survey_gampen.training.history import AXIS


class Watch:
    """Is told what happens, and here does nothing with it."""

    def says(self, line: str) -> None:
        """Something worth a line of its own."""

    def begins(self, epoch: int, epochs: int, steps: int) -> None:
        """An epoch of so many steps begins."""

    def step(self, n: int = 1) -> None:
        """`n` steps are done."""

    def ended(self, found: dict[str, Any], epochs: int) -> None:
        """An epoch has ended, with these figures."""


class Display(Watch):
    """A bar on a terminal, and everywhere a line an epoch; a context manager."""

    def __init__(self) -> None:
        self._console = Console()
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        quiet = not self._console.is_terminal
        self._progress = Progress(*columns, console=self._console, disable=quiet)
        self._task = self._progress.add_task("waiting", total=None)

    def __enter__(self) -> Display:
        self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._progress.stop()

    def says(self, line: str) -> None:
        self._console.print(line, soft_wrap=True, highlight=False, markup=False)

    def begins(self, epoch: int, epochs: int, steps: int) -> None:
        self._progress.reset(self._task, total=steps, description=f"epoch {epoch}/{epochs}")

    def step(self, n: int = 1) -> None:
        self._progress.advance(self._task, n)

    def ended(self, found: dict[str, Any], epochs: int) -> None:
        told = [f"{key} {value:.4g}" for key, value in found.items() if key not in AXIS]
        self.says(f"epoch {found['epoch']}/{epochs}: {', '.join(told)}")
