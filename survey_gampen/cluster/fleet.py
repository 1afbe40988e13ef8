"""The jobs of a run: as many as wanted, replaced before they end, and told of when they don't come.

A thread looks after them. It submits, asks the batch system now and then, hears from the workers,
and keeps what has to be said or raised until the run asks for it.
"""

from __future__ import annotations

import asyncio
import re
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from distributed import Client, Security

from survey_gampen.cluster import words
from survey_gampen.cluster.jobqueue import Job
from survey_gampen.cluster.jobs import kinds, make_job
from survey_gampen.cluster.profile import Ask, Profile
from survey_gampen.cluster.words import State, Word
from survey_gampen.cluster.worker import LEAVING, REFUSED
from survey_gampen.errors import GampenError, InputError, OutsideFault

#: Seconds between looks at the workers, and between questions to the batch system.
_LOOK, _ASK = 1.0, 15.0
#: Limit of a submission or cancelling [s].
_PATIENCE = 60.0
#: Jobs that may end, one after the other, without a worker that came, while no other is there for
#: so many seconds.
_STILLBORN, _ALONE = 2, 5.0
#: Seconds until a submission that failed in the midst of a run is tried again, or a job replaced of
#: which no worker came; and without any worker until that is given up.
_AGAIN, _HOPELESS = 30.0, 1800.0
#: What submission commands say while the batch system itself is down.
_AWAY = re.compile(
    r"[Uu]nable to contact|[Cc]onnection (refused|timed out)|[Cc]annot connect|timed out"
)
_TAIL = 1500


@dataclass
class Posted:
    """A job that was submitted."""

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
        self._count = 0
        self._stillborn = 0
        self._longest_wait = 0.0
        self._error: GampenError | None = None
        self._more_work = True
        self._retry = 0.0
        self._stop = threading.Event()
        self._last_worker = self._last_submitted = self._told = time.monotonic()
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
        for ask, slots in kinds(self._batch):
            for _ in range(ask.jobs):
                self._submit(ask, slots)
        n = len(self._posted)
        ids = ", ".join(posted.id for posted in self._posted.values())
        self._say(f"{n} {self._profile.kind} job{'s' * (n > 1)} submitted: {ids}")
        self._thread.start()

    def check(self) -> None:
        """Raise what the fleet ended with, if it has."""
        if self._error is not None:
            raise self._error

    def more_work(self, there_is: bool) -> None:
        """Hear whether work is left to give out: without, jobs end and are not replaced."""
        self._more_work = there_is

    def end(self) -> None:
        """Cancel all jobs."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout=_PATIENCE)
        asyncio.run(self._cancel())

    async def _cancel(self) -> None:
        closing = (asyncio.wait_for(p.job.close(), _PATIENCE) for p in self._posted.values())
        await asyncio.gather(*closing, return_exceptions=True)

    def _submit(self, ask: Ask, slots: dict[str, int]) -> Posted:
        self._count += 1
        # The shell's own number behind it: a job that is queued again must not find its name taken
        # by a worker of its first life, which may go on where its node was only thought lost.
        name = f"{self._batch.name}-{self._count}"
        job = make_job(
            self._profile,
            ask,
            slots,
            name=f"{name}-$$",
            scheduler=self._client.scheduler.address,
            security=self._security,
            logs=self._logs,
        )
        try:
            asyncio.run(_start(job))
        except (RuntimeError, ValueError) as error:
            if _AWAY.search(str(error)):
                raise OutsideFault(f"{self._profile.kind} is away ({said_by(error)})") from error
            raise InputError(
                f"{self._profile.kind} refuses the job ({said_by(error)}): put profile"
                f" {self._profile.path} right, see `survey-gampen cluster show`"
            ) from error
        except (OSError, TimeoutError) as error:
            raise OutsideFault(
                f"a job could not be submitted ({type(error).__name__}: {said_by(error)}): is"
                f" {job.submit_command.split()[0]} on this machine?"
            ) from error
        self._posted[name] = posted = Posted(name, job, ask)
        self._last_submitted = posted.since
        return posted

    def _look_after(self) -> None:
        asked = time.monotonic()
        while not self._stop.wait(_LOOK):
            try:
                self._see_workers()
                if time.monotonic() - asked > _ASK:
                    asked = time.monotonic()
                    self._ask()
                self._replace()
                self._tell()
            except GampenError as error:
                self._error = error
                return
            except OSError:  # timeouts too: the scheduler or the batch system does not answer now
                continue
            except Exception as error:
                words = " ".join(f"{type(error).__name__}: {error}".split())
                self._error = OutsideFault(f"the jobs can't be looked after any more ({words})")
                return

    def _see_workers(self) -> None:
        workers = self._client.scheduler_info(n_workers=-1)["workers"].values()
        # One without slots was refused, or takes no more.
        here = {str(worker["name"]) for worker in workers if any(worker["resources"].values())}
        if here:
            self._last_worker = time.monotonic()
        for posted in self._posted.values():
            if posted.began is None and any(n.startswith(f"{posted.name}-") for n in here):
                posted.began, self._stillborn = time.monotonic(), 0
                self._longest_wait = max(self._longest_wait, posted.began - posted.since)

    def _ask(self) -> None:
        found = words.ask(self._profile.kind, [p.id for p in self._posted.values()])
        for name, posted in list(self._posted.items()):
            posted.word = found.get(posted.id, posted.word)
            if posted.word is None:
                continue
            if posted.word.hopeless:
                raise InputError(
                    f"job {posted.id} will never begin: {posted.word.text}; put profile"
                    f" {self._profile.path} right"
                )
            if posted.word.state is State.ENDED:
                del self._posted[name]
                self._ended(posted, posted.word)

    def _ended(self, posted: Posted, word: Word) -> None:
        files = self._printed(posted)
        where = f"; what it printed: {files[-1]}" if files else ""
        self._say(f"job {posted.id} ended: {word.text}{where}")
        if posted.began is not None:
            return
        self._stillborn += 1
        now = time.monotonic()
        self._retry = now + _AGAIN * self._stillborn
        tail = posted.refused or self._tail(posted)
        if tail:
            self._say(f"job {posted.id} said: {tail}")
        if self._stillborn >= _STILLBORN and now - self._last_worker > _ALONE:
            raise OutsideFault(
                f"{self._stillborn} jobs ended and no worker came of them; the last, {posted.id},"
                f" {word.text}: {tail or 'it printed nothing'}"
            )

    def _printed(self, posted: Posted) -> list[Path]:
        """Files of what a job printed, the latest last."""
        name = re.compile(rf"(?<!\d){re.escape(posted.id)}(?!\d)")  # 12 is not 112
        files = (path for path in self._logs.iterdir() if name.search(path.name))
        return sorted(files, key=lambda path: path.stat().st_mtime)

    def _tail(self, posted: Posted) -> str:
        """The end of what a job printed."""
        texts = (
            path.read_text(errors="replace")[-_TAIL:].strip() for path in self._printed(posted)
        )
        lines = [line for text in texts for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-3:])

    def _replace(self) -> None:
        """Submit jobs for those that are gone or about to go."""
        now = time.monotonic()
        if not self._more_work or now < self._retry:
            return
        for ask, slots in kinds(self._batch):
            # As early as jobs wait in the queue, so that one begins when the other ends.
            lead = min(self._longest_wait, (ask.walltime or 0) / 4)
            staying = [p for p in self._posted.values() if p.ask is ask and not p.goes(lead)]
            for _ in range(ask.jobs - len(staying)):
                try:
                    newest = self._submit(ask, slots)
                except GampenError as error:
                    # It took such a job before: more likely it is out of order than wrong.
                    self._retry = now + _AGAIN
                    if now - max(self._last_worker, self._last_submitted) > _HOPELESS:
                        raise OutsideFault(str(error)) from error
                    self._say(f"{error}: tried again in {_AGAIN:.0f} s")
                    return
                self._say(f"job {newest.id} submitted in place of one that has ended or will soon")

    def _tell(self) -> None:
        """While no worker is there, say what the jobs wait for."""
        now = time.monotonic()
        if now - max(self._last_worker, self._told) < self._batch.patience:
            return
        self._told = now
        for posted in self._posted.values():
            said = posted.word.text if posted.word else "the batch system has not answered yet"
            waited = time.monotonic() - posted.since
            self._say(f"no worker yet: job {posted.id} for {waited:.0f} s: {said}")

    def _hear_leaving(self, event: tuple[float, tuple[str, str]]) -> None:
        name, why = event[1]
        if posted := self._of(name):
            posted.leaving = True
            self._say(f"worker {name} takes no more: {why}")

    def _hear_refused(self, event: tuple[float, tuple[str, str]]) -> None:
        name, why = event[1]
        self._say(f"worker {name} leaves: {why}")
        if posted := self._of(name):
            posted.refused = why

    def _of(self, worker: str) -> Posted | None:
        posted = list(self._posted.values())  # another thread adds to them
        return next((p for p in posted if worker.startswith(f"{p.name}-")), None)


async def _start(job: Job) -> None:
    await asyncio.wait_for(job.start(), _PATIENCE)


def said_by(error: BaseException) -> str:
    """What the batch system said, out of dask-jobqueue's message."""
    text = str(error)
    _, found, stderr = text.partition("stderr:")
    _, _, stdout = text.partition("stdout:")
    said: Any = (stderr.strip() or stdout.partition("stderr:")[0].strip()) if found else text
    return " ".join(said.split())
