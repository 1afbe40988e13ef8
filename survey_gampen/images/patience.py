"""How patient we are with a service, and how we wait."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from survey_gampen.errors import GampenError, OutsideFault


@dataclass(frozen=True)
class Manners:
    """How a service is treated.

    Attributes
    ----------
    connections : int
        At once, of all workers of a run. Four is what HSC's own client opens.
    patience : float
        Seconds without any progress until the run stops; it can go on later.
    first_wait, longest_wait : float
        Seconds before the first and the latest repetition; doubled in between, less a random part,
        so that workers which failed together don't come back together.
    connect, silence : float
        Seconds until a connection must stand, and until the next bytes must have come. A cutout
        service may think for minutes before it sends the first.
    tries : int
        How often a galaxy is asked for whose answer is wrong.
    """

    connections: int = 4
    patience: float = 900.0
    first_wait: float = 2.0
    longest_wait: float = 60.0
    connect: float = 20.0
    silence: float = 600.0
    tries: int = 3


class CutOffError(GampenError):
    """An answer that ended too early; what came before is good."""


class Backoff:
    """Counts failures since the last progress, and waits.

    Parameters
    ----------
    manners : Manners
    where : str
        The service's host, for the error.
    """

    def __init__(self, manners: Manners, where: str) -> None:
        self._manners, self._where = manners, where
        self._failures, self._since = 0, time.monotonic()

    def progress(self) -> None:
        """Something good came."""
        self._failures, self._since = 0, time.monotonic()

    def wait(self, reason: str, at_least: float = 0.0) -> None:
        """Wait before asking again.

        Raises
        ------
        OutsideFault
            Patience is at its end, or would be after what the server asks for.
        """
        doubled = self._manners.first_wait * 2.0**self._failures
        pause = min(doubled, self._manners.longest_wait) * random.uniform(0.5, 1.0)
        pause = max(pause, at_least)
        self._failures += 1
        gone = time.monotonic() - self._since
        if gone + pause > self._manners.patience:
            raise OutsideFault(
                f"{self._where}: {reason}, {self._failures} times in {gone:.0f} s; wait until the"
                " service is well, then run the same command again"
            )
        time.sleep(pause)
