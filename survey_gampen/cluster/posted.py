"""One job of a batch system: handed over, found again by what it printed, cancelled."""

from __future__ import annotations

import asyncio
import contextlib
import re
import shlex
import time
from collections.abc import Awaitable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from survey_gampen.cluster.jobqueue import Job
from survey_gampen.cluster.profile import Ask, Profile
from survey_gampen.cluster.words import Word
from survey_gampen.errors import InputError, OutsideFault

#: Limit of a submission or cancelling [s]. A job whose submission was given up may begin in spite
#: of that, so it is long.
PATIENCE = 180.0
#: What submission commands say while the batch system itself is down.
_AWAY = re.compile(
    r"[Uu]nable to contact|[Cc]onnection (refused|timed out)|[Cc]annot connect|timed out"
)
#: Jobs of one cancelling: a command line has an end.
_AT_ONCE = 100
_TAIL = 1500

T = TypeVar("T")


@dataclass
class Posted:
    """A job that was submitted.

    Attributes
    ----------
    name : str
        First part of its workers' names.
    job : Job
    ask : Ask
    since : float
        When it was submitted, on the monotonic clock.
    began : float or None
        When its first worker came.
    leaving : bool
        Whether its workers take no more tasks.
    word : Word or None
        What the batch system last said of it.
    refused : str
        Why a worker of it was turned away.
    """

    name: str
    job: Job
    ask: Ask
    since: float = field(default_factory=time.monotonic)
    began: float | None = None
    leaving: bool = False
    word: Word | None = None
    refused: str = ""

    @property
    def id(self) -> str:
        """As the batch system knows it."""
        return str(self.job.job_id)

    def goes(self, lead: float) -> bool:
        """Whether it ends within `lead` seconds, or its workers already take no more tasks."""
        if self.began is None or self.ask.walltime is None:
            return self.leaving
        return self.leaving or time.monotonic() > self.began + self.ask.walltime - lead

    def again(self) -> None:
        """Begin its life anew: the batch system has put it back into the queue."""
        self.since, self.began, self.leaving = time.monotonic(), None, False

    def printed(self, logs: Path) -> list[Path]:
        """Return the files of what it printed, the latest last."""
        name = re.compile(rf"(?<!\d){re.escape(self.id)}(?!\d)")  # 12 is not 112
        with contextlib.suppress(OSError):
            files = [path for path in logs.iterdir() if name.search(path.name)]
            return sorted(files, key=lambda path: path.stat().st_mtime)
        return []

    def tail(self, logs: Path) -> str:
        """Return the end of what it printed, in one line."""
        lines: list[str] = []
        for path in self.printed(logs):
            with contextlib.suppress(OSError):
                text = path.read_text(errors="replace")[-_TAIL:].strip()
                lines += [line.strip() for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-3:])


def post(name: str, job: Job, ask: Ask, profile: Profile) -> Posted:
    """Submit a job.

    Raises
    ------
    InputError
        If the batch system refuses it; holds its own words.
    OutsideFault
        If the batch system can't be reached now.
    """
    hand_over(job, "the job", job.start(), profile)
    return Posted(name, job, ask)


def hand_over(job: Job, what: str, submission: Awaitable[T], profile: Profile) -> T:
    """Wait for a submission of a job, or of `what` goes by its rules; its failure in words.

    Raises
    ------
    InputError, OutsideFault
        As `post`.
    """
    try:
        return asyncio.run(within(PATIENCE, submission))
    except (RuntimeError, ValueError) as error:
        if _AWAY.search(str(error)):
            raise OutsideFault(f"{profile.kind} is away ({said_by(error)})") from error
        raise InputError(
            f"{profile.kind} refuses {what} ({said_by(error)}): set other keys behind the profile's"
            f" name, such as --cluster {profile.kind}:threads=1,memory=2GiB, or in a copy of"
            f" {profile.path}; see `survey-gampen cluster show`"
        ) from error
    except FileNotFoundError as error:
        raise InputError(
            f"there is no {shlex.split(job.submit_command)[0]} on this machine: type it where jobs"
            " are submitted, or choose another --cluster"
        ) from error
    except (OSError, TimeoutError) as error:
        raise OutsideFault(
            f"{what} could not be submitted ({type(error).__name__}: {said_by(error)})"
        ) from error


def cancel(jobs: Iterable[Posted]) -> str:
    """Cancel jobs; those that have ended by themselves are left alone.

    Returns
    -------
    str
        Those of which it is not known, as the batch system did not answer, and why; mostly empty.
    """
    left, unsure = list(jobs), []
    while left:
        some, left = left[:_AT_ONCE], left[_AT_ONCE:]
        job = some[0].job
        words = [*shlex.split(job.cancel_command), *(each.id for each in some)]
        # The commands complain of jobs that are gone, and cancel the others.
        try:
            asyncio.run(within(PATIENCE, job._call(words)))
        except RuntimeError:
            continue
        except OSError as error:  # timeouts too
            ids = ", ".join(each.id for each in some)
            unsure.append(f"{ids} ({type(error).__name__}: {said_by(error)})")
    return "; ".join(unsure)


async def within(seconds: float, task: Awaitable[T]) -> T:
    """Wait for a task, but not for ever."""
    return await asyncio.wait_for(task, seconds)


def said_by(error: BaseException) -> str:
    """What the batch system said, out of dask-jobqueue's message."""
    text = str(error)
    _, found, stderr = text.partition("stderr:")
    _, _, stdout = text.partition("stdout:")
    said: Any = (stderr.strip() or stdout.partition("stderr:")[0].strip()) if found else text
    return " ".join(said.split())
