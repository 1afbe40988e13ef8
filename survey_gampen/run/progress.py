"""How far the run is: a bar on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator
from types import TracebackType

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TextColumn,
)
from rich.text import Text

LINE_SECONDS = 30.0


class Meter:
    """Shows galaxies done, galaxies a second, time left and quarantined partitions.

    Parameters
    ----------
    total : int
        Galaxies of the run.
    done : int
        Galaxies published before.
    console : rich.console.Console, optional
        Where it shows; standard error by default, so that the output stays free for results.
    every : float
        Seconds between two plain lines.
    """

    def __init__(
        self, total: int, done: int, console: Console | None = None, every: float = LINE_SECONDS
    ) -> None:
        self._total = total
        self._before = done
        self._done = done
        self._extra = 0
        self._quarantined = 0
        self._every = every
        self._start = time.monotonic()
        self._last_line = self._start
        self._console = console or Console(file=sys.stderr)
        self._bar: Progress | None = None
        if self._console.is_terminal:
            self._bar = Progress(
                SpinnerColumn(),
                TextColumn("galaxies"),
                BarColumn(),
                MofNCompleteColumn(),
                _Words(self),
                console=self._console,
                transient=False,
            )
            self._task = self._bar.add_task("galaxies", total=total, completed=done)

    def __enter__(self) -> Meter:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()
        else:
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    def say(self, text: str) -> None:
        """Print a line of its own."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def show(self, done: int, extra: int, quarantined: int) -> None:
        """Bring the numbers up to date.

        Parameters
        ----------
        done : int
            Galaxies published.
        extra : int
            Galaxies of partitions in the works that have been through the network.
        quarantined : int
            Partitions given up.
        """
        self._done, self._extra, self._quarantined = done, extra, quarantined
        now = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, completed=done + extra)
        elif now - self._last_line >= self._every:
            self._last_line = now
            self._console.print(self._line(), highlight=False, soft_wrap=True)

    def state(self) -> dict[str, float]:
        """The same numbers for programs."""
        return {
            "galaxies_planned": self._total,
            "galaxies_done": self._done + self._extra,
            "galaxies_per_second": self.rate,
        }

    @property
    def rate(self) -> float:
        """Galaxies a second since this client began."""
        seconds = max(time.monotonic() - self._start, 1e-9)
        return (self._done + self._extra - self._before) / seconds

    def words(self) -> str:
        """Rate, time left and quarantined partitions, in words."""
        left = self._total - self._done - self._extra
        parts = [f"{self.rate:.3g} galaxies/s"]
        if self.rate > 0 and left > 0:
            parts.append(f"{duration(left / self.rate)} left")
        parts.append(f"{self._quarantined} quarantined")
        return ", ".join(parts)

    def _line(self) -> str:
        return f"{self._done + self._extra} of {self._total} galaxies, {self.words()}"


class _Words(ProgressColumn):
    """The meter's own words at the end of the bar."""

    def __init__(self, meter: Meter) -> None:
        super().__init__()
        self._meter = meter

    def render(self, task: Task) -> Text:
        return Text(self._meter.words())


def duration(seconds: float) -> str:
    """Return a time as people say it: 40 s, 12 min, 3.5 h, 2.1 d."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h" if seconds < 36 * 3600 else f"{seconds / 86400:.1f} d"


def size(count: float) -> str:
    """Return bytes as people say them: 512 kB, 1.8 TB."""
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if count < 1000:
            return f"{count:.3g} {unit}"
        count /= 1000
    return f"{count:.3g} PB"


@contextlib.contextmanager
def counting(doing: str, what: str) -> Iterator[Callable[[int], None]]:
    """Show on a terminal how far something is that takes long: call what is given with a number."""
    console = Console(stderr=True)
    with console.status(doing) as status:
        yield lambda count: status.update(f"{doing}: {count} {what}")
