"""How long a remote service is waited for, and how often it is asked again."""

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
    """A failure that may be over when the service is asked again.

    Parameters
    ----------
    why : str
        A few words.
    after : float, optional
        Seconds that the service wants to be left alone.
    progress : bool
        Whether something was got before it failed: the waiting begins anew.
    """

    def __init__(self, why: str, after: float | None = None, progress: bool = False) -> None:
        super().__init__(why)
        self.after, self.progress = after, progress


class CutOff(Transient):
    """An answer that ended before all of it was there."""


@dataclass(frozen=True)
class Patience:
    """Waiting that doubles from failure to failure.

    Attributes
    ----------
    seconds : float
        How long a service may fail in a row before it counts as down. A partition waits as long,
        and is then tried twice more.
    first, most : float
        The first pause and the longest, seconds; half to one and a half of it is taken by chance,
        so that many workers don't come back at once.
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
            The service failed for too long, or wants to be left alone for longer.
        """
        begun, failures = time.monotonic(), 0
        while True:
            try:
                return attempt()
            except Transient as error:
                if error.progress:
                    begun, failures = time.monotonic(), 0
                pause = min(self.first * 2.0**failures, self.most) * random.uniform(0.5, 1.5)
                if error.after is not None:
                    pause = max(error.after, 0.0) + 0.1 * pause
                waited = time.monotonic() - begun
                if waited + pause > self.seconds:
                    raise OutsideFault(
                        f"{what}: {error} (for {waited:.0f} s); when the service is back, run the "
                        "same command again"
                    ) from None
            failures += 1
            time.sleep(pause)


def retry_after(value: str | None) -> float | None:
    """Seconds of a header ``Retry-After``: a number, or a date (RFC 9110, section 10.2.3)."""
    if not value:
        return None
    try:
        return float(value)
    except ValueError:
        pass
    try:
        then = parsedate_to_datetime(value)
    except ValueError:
        return None
    then = then if then.tzinfo else then.replace(tzinfo=UTC)
    return (then - datetime.now(UTC)).total_seconds()
