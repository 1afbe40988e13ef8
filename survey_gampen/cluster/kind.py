"""One kind of job of a run, and how it fares."""

from __future__ import annotations

import time
from dataclasses import dataclass, field

from survey_gampen.cluster.profile import Ask


@dataclass
class Kind:
    """Those that do all, or those that infer, or those that cut.

    Attributes
    ----------
    ask, slots
        Of each job, and of each of its workers.
    stillborn : int
        Jobs that ended without a worker since the last worker came.
    longest_wait : float
        From submission to the first worker [s].
    retry : float
        Nothing is submitted before.
    last_worker, last_submitted, told : float
        When a worker was last here, a job last submitted, and the lack of workers last told of.
    """

    ask: Ask
    slots: dict[str, int]
    stillborn: int = 0
    longest_wait: float = 0.0
    retry: float = 0.0
    last_worker: float = field(default_factory=time.monotonic)
    last_submitted: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    @property
    def noun(self) -> str:
        """What its workers are called."""
        if len(self.slots) > 1:
            return "worker"
        return "cutting worker" if "CPU" in self.slots else "inferring worker"
