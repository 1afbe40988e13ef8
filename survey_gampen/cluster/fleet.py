"""The jobs of a run: as many as wanted, replaced before they end, and told of when they don't come.

A thread looks after them. It submits, asks the batch system now and then, hears from the workers,
and keeps what has to be said or raised until the run asks for it.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from distributed import Client, Security

from survey_gampen.cluster import words
from survey_gampen.cluster.jobs import kinds, make_job
from survey_gampen.cluster.kind import Kind
from survey_gampen.cluster.posted import PATIENCE, Posted, cancel, post
from survey_gampen.cluster.present import workers_of
from survey_gampen.cluster.profile import Profile
from survey_gampen.cluster.words import State, Word
from survey_gampen.cluster.worker import LEAVING, REFUSED
from survey_gampen.errors import GampenError, InputError, OutsideFault

#: Seconds between looks at the workers, and at least between questions to the batch system.
_LOOK, _ASK = 1.0, 15.0
#: Jobs that may end, one after the other, without a worker that came, while no other is there for
#: so many seconds.
_STILLBORN, _ALONE = 2, 5.0
#: Jobs that may end, one after the other, whose workers came too late to begin a single task.
_FRUITLESS = 3
#: Seconds until a submission that failed in the midst of a run is tried again, or a job replaced of
#: which no worker came; and without any worker until that is given up.
_AGAIN, _HOPELESS = 30.0, 1800.0
#: Scheduler or batch system may be silent for so long before the user hears of it [s].
_SILENT = 120.0


class Fleet:
    """Looks after the jobs of one run.

    Parameters
    ----------
    profile : Profile
        Of a batch system.
    client : Client
        Of the scheduler that the workers join.
    security : Security
        Certificates as files.
    logs : Path
        Folder for what the jobs print.
    say : callable
        Tells the user a line.
    """

    def __init__(
        self,
        profile: Profile,
        client: Client,
        security: Security,
        logs: Path,
        say: Callable[[str], None],
    ) -> None:
        assert profile.batch is not None
        self._profile, self._batch = profile, profile.batch
        self._client, self._security, self._logs, self._say = client, security, logs, say
        self._posted: dict[str, Posted] = {}
        self._kinds = [Kind(ask, slots) for ask, slots in kinds(profile.batch)]
        self._count = self._fruitless = 0
        self._error: GampenError | None = None
        self._more_work = True
        self._asked = 0.0
        self._stop = threading.Event()
        self._heard = time.monotonic()
        self._thread = threading.Thread(target=self._look_after, name="fleet", daemon=True)
        client.subscribe_topic(LEAVING, self._hear_leaving)
        client.subscribe_topic(REFUSED, self._hear_refused)

    def begin(self) -> None:
        """Submit all jobs.

        Raises
        ------
        InputError
            If the batch system refuses them; holds its own words.
        """
        for kind in self._kinds:
            for _ in range(kind.ask.jobs):
                self._submit(kind)
        n = len(self._posted)
        ids = ", ".join(posted.id for posted in self._posted.values())
        self._say(f"{n} {self._profile.kind} job{'s' * (n > 1)} submitted: {ids}")
        self._asked = time.monotonic()
        self._thread.start()

    def check(self) -> None:
        """Raise what the fleet ended with, if it has."""
        if self._error is not None:
            raise self._error

    def more_work(self, there_is: bool) -> None:
        """Hear whether work is left to give out: without, jobs end and are not replaced."""
        self._more_work = there_is

    def states(self) -> list[str]:
        """Return a line a job: how long ago it was submitted, and what is said of it."""
        return self._states(list(self._posted.values()))

    def _states(self, jobs: Iterable[Posted]) -> list[str]:
        jobs, now = list(jobs), time.monotonic()
        with contextlib.suppress(OSError):
            found = words.of_jobs(self._profile.kind, [p.id for p in jobs if p.word is None])
            for posted in jobs:
                posted.word = posted.word or found.get(posted.id)
        silent = "the batch system does not answer"
        return [
            f"job {p.id} for {now - p.since:.0f} s: {p.word.text if p.word else silent}"
            for p in jobs
        ]

    def end(self) -> None:
        """Cancel all jobs."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=PATIENCE)
        if unsure := cancel(self._posted.values()):
            self._say(f"these jobs may still be there, look at them: {unsure}")

    def _submit(self, kind: Kind) -> Posted:
        self._count += 1
        # The shell's own number behind it: a job that is queued again must not find its name taken
        # by a worker of its first life, which may go on where its node was only thought lost.
        name = f"{self._batch.name}-{self._count}"
        job = make_job(
            self._profile,
            kind.ask,
            kind.slots,
            name=f"{name}-$$",
            scheduler=self._client.scheduler.address,
            security=self._security,
            logs=self._logs,
        )
        self._posted[name] = posted = post(name, job, kind.ask, self._profile)
        kind.last_submitted = posted.since
        return posted

    def _look_after(self) -> None:
        """Take the steps over and over; one that gets no answer now does not keep the others."""
        steps = (self._see_workers, self._ask, self._replace, self._tell)
        while not self._stop.wait(_LOOK):
            silent = ""
            for step in steps:
                try:
                    step()
                except GampenError as error:
                    self._error = error
                    return
                except OSError as error:  # timeouts too
                    silent = " ".join(f"{type(error).__name__}: {error}".split())
                except Exception as error:
                    reason = " ".join(f"{type(error).__name__}: {error}".split())
                    self._error = OutsideFault(f"the jobs can't be looked after any more: {reason}")
                    return
            now = time.monotonic()
            if not silent:
                self._heard = now
            elif now - self._heard > _SILENT:
                self._heard = now
                self._say(f"no answer for {_SILENT:.0f} s ({silent}); the jobs go on")

    def _see_workers(self) -> None:
        workers = workers_of(self._client).values()
        # One without slots was refused, or takes no more.
        here = {str(w["name"]) for w in workers if any(w["resources"].values())}
        for posted in self._posted.values():
            if not any(name.startswith(f"{posted.name}-") for name in here):
                continue
            kind, now = self._kind(posted), time.monotonic()
            kind.last_worker = now
            if posted.began is None:
                posted.began, kind.stillborn = now, 0
                kind.longest_wait = max(kind.longest_wait, now - posted.since)

    def _ask(self) -> None:
        pause = max(_ASK, words.pause(self._profile.kind, len(self._posted)))
        if time.monotonic() - self._asked < pause:
            return
        self._asked = time.monotonic()
        found = words.of_jobs(self._profile.kind, [p.id for p in self._posted.values()])
        self._asked = time.monotonic()  # a slow answer must not eat up the pause
        for name, posted in list(self._posted.items()):
            if (word := found.get(posted.id)) is None:
                continue
            if word.state is State.WAITING and posted.began is not None:
                self._say(f"job {posted.id} is queued again: {word.text}")
                posted.again()
            never = word.hopeless and not (posted.word and posted.word.hopeless)
            posted.word = word
            if never:
                self._never(posted, word)
            if word.state is State.ENDED:
                del self._posted[name]
                self._ended(posted, word)

    def _never(self, posted: Posted, word: Word) -> None:
        """What to do about a job that will not begin: others may be at work."""
        told = f"job {posted.id} will never begin: {word.text}"
        kind = self._kind(posted)
        if not all(other.word and other.word.hopeless for other in self._of_kind(kind)):
            self._say(f"{told}; the others go on")
            return
        fault = OutsideFault if kind.longest_wait else InputError  # such jobs began, or never did
        raise fault(f"{told}; put profile {self._profile.path} right")

    def _ended(self, posted: Posted, word: Word) -> None:
        files = posted.printed(self._logs)
        where = f"; what it printed: {files[-1]}" if files else ""
        self._say(f"job {posted.id} ended: {word.text}{where}")
        if posted.began is not None:
            return
        kind, now = self._kind(posted), time.monotonic()
        kind.stillborn += 1
        kind.retry = now + _AGAIN * kind.stillborn
        tail = posted.refused or posted.tail(self._logs)
        if tail:
            self._say(f"job {posted.id} said: {tail}")
        if kind.stillborn >= _STILLBORN and now - kind.last_worker > _ALONE:
            raise OutsideFault(
                f"{kind.stillborn} jobs ended and no {kind.noun} came of them; the last,"
                f" {posted.id}, {word.text}: {tail or 'it printed nothing'}"
            )

    def _replace(self) -> None:
        """Submit jobs for those that are gone or about to go."""
        for kind in self._kinds:
            if not self._more_work or time.monotonic() < kind.retry:
                continue
            # As early as jobs wait in the queue, so that one begins when the other ends.
            lead = min(kind.longest_wait, (kind.ask.walltime or 0) / 4)
            staying = [p for p in self._of_kind(kind) if not p.goes(lead)]
            for _ in range(kind.ask.jobs - len(staying)):
                if not self._submitted_again(kind):
                    break

    def _submitted_again(self, kind: Kind) -> bool:
        """Submit one job more; a refusal is borne with for a while."""
        now = time.monotonic()
        try:
            newest = self._submit(kind)
        except GampenError as error:
            # It took such a job before: more likely it is out of order than wrong.
            kind.retry = now + _AGAIN
            if now - max(kind.last_worker, kind.last_submitted) > _HOPELESS:
                raise OutsideFault(str(error)) from error
            self._say(f"{error}: tried again in {_AGAIN:.0f} s")
            return False
        self._say(f"job {newest.id} submitted in place of one that has ended or will soon")
        return True

    def _tell(self) -> None:
        """While no worker of a kind is there, say what its jobs wait for."""
        for kind in self._kinds:
            now = time.monotonic()
            if now - max(kind.last_worker, kind.told) < self._batch.patience:
                continue
            kind.told = now
            for line in self._states(self._of_kind(kind)):
                self._say(f"no {kind.noun} yet: {line}")

    def _hear_leaving(self, event: tuple[float, tuple[str, str, bool]]) -> None:
        name, why, late = event[1]
        self._fruitless = self._fruitless + 1 if late else 0
        if posted := self._of(name):
            posted.leaving = True
            self._say(f"worker {name} takes no more: {why}")
        if self._fruitless >= _FRUITLESS:
            self._error = OutsideFault(
                f"{self._fruitless} workers in a row had no time for a single task ({why}): raise"
                f" walltime in profile {self._profile.path}, or run again with another --out and"
                " fewer --partition-rows"
            )

    def _hear_refused(self, event: tuple[float, tuple[str, str]]) -> None:
        name, why = event[1]
        self._say(f"worker {name} leaves: {why}")
        if posted := self._of(name):
            posted.refused = why

    def _kind(self, posted: Posted) -> Kind:
        return next(kind for kind in self._kinds if kind.ask is posted.ask)

    def _of_kind(self, kind: Kind) -> list[Posted]:
        return [posted for posted in self._posted.values() if posted.ask is kind.ask]

    def _of(self, worker: str) -> Posted | None:
        posted = list(self._posted.values())  # another thread adds to them
        return next((p for p in posted if worker.startswith(f"{p.name}-")), None)
