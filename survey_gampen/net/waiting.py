"""How long whoever does not answer is waited for, and how often asked again."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TypeVar

from survey_gampen.errors import OutsideFault

T = TypeVar("T")


class Transient(Exception):
    """A failure that may be over when one asks again.

    Parameters
    ----------
    why : str
        A few words.
    after : float
        Seconds that the server wants to be left alone.
    progress : bool
        Whether something was got before it failed: the waiting begins anew.
    """

    def __init__(self, why: str, after: float = 0.0, progress: bool = False) -> None:
        super().__init__(why)
        self.after, self.progress = after, progress


class CutOff(Transient):
    """An answer that ended before all of it was there; what came before is good."""


@dataclass(frozen=True)
class Patience:
    """Waiting that doubles from failure to failure.

    Attributes
    ----------
    seconds : float
        How long a server may fail in a row before it counts as down. A partition waits as long,
        and is then tried twice more.
    first, most : float
        The first pause and the longest, seconds; a random part of it, up to a half, is left out,
        so that workers which failed together don't come back together.
    """

    seconds: float = 300.0
    first: float = 1.0
    most: float = 60.0

    def __call__(self, what: str, attempt: Callable[[], T]) -> T:
        """Return what `attempt` returns, calling it again while it raises :class:`Transient`.

        Parameters
        ----------
        what : str
            What is asked for, for the error.
        attempt : callable

        Raises
        ------
        OutsideFault
            The server failed for too long, or wants to be left alone for longer.
        """
        backoff = Backoff(self, what)
        while True:
            try:
                return attempt()
            except Transient as error:
                trouble = error
            backoff.wait(trouble)


class Backoff:
    """Counts failures since the last progress, and waits.

    Parameters
    ----------
    patience : Patience
    what : str
        What is asked for, or who, for the error.
    """

    def __init__(self, patience: Patience, what: str) -> None:
        self._patience, self._what = patience, what
        self.progress()

    def progress(self) -> None:
        """Something good came."""
        self._failures, self._since = 0, time.monotonic()

    def wait(self, trouble: Transient) -> None:
        """Wait before asking again.

        Raises
        ------
        OutsideFault
            Patience is at its end, or would be after what the server asks for.
        """
        if trouble.progress:
            self.progress()
        patience = self._patience
        pause = min(patience.first * 2.0**self._failures, patience.most) * random.uniform(0.5, 1.0)
        if trouble.after > 0:  # and not all at once then
            pause = max(pause, trouble.after + 0.1 * pause)
        self._failures += 1
        gone = time.monotonic() - self._since
        if gone + pause > patience.seconds:
            raise OutsideFault(
                f"{self._what}: {trouble} (for {gone:.0f} s); when the server is well again, run"
                " the same command again"
            )
        time.sleep(pause)


def retry_after(value: str | None) -> float:
    """Seconds of a header ``Retry-After``: a number, or a date (RFC 9110, section 10.2.3)."""
    if not value:
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return 0.0
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return max(0.0, (then - datetime.now(UTC)).total_seconds())
