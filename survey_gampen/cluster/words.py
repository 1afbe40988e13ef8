"""What a batch system says of jobs: which wait, which run, and why.

Each is asked by its own command, the same that a user would type, with a limit on the time it may
take; what it answers is told word by word.
"""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum

#: A batch system that does not answer is asked again later [s].
PATIENCE = 30.0


class State(Enum):
    """What a job does."""

    WAITING = "waiting"
    RUNNING = "running"
    ENDED = "ended"


@dataclass(frozen=True)
class Word:
    """What is said of a job.

    Attributes
    ----------
    state : State
    text : str
        The batch system's own words.
    hopeless : bool
        Whether the job will never begin as it is.
    """

    state: State
    text: str
    hopeless: bool = False


#: States of Slurm (`man squeue`, JOB STATE CODES); all others are ends. COMPLETING is one: its
#: processes are gone or being killed, and a node that never gets done with that must not keep a
#: replacement away. No row is published twice, should one of them live on for a while.
_SLURM_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD"}
_SLURM_RUNNING = {"RUNNING", "STAGE_OUT", "SIGNALING", "STOPPED", "RESIZING", "SUSPENDED"}
#: Reasons of Slurm (`man squeue`, JOB REASON CODES) with which a job waits for ever, unless
#: somebody changes the job, the account or the limits. Limits of a job and of its nodes are such;
#: those of a user, an account or a group (`PerUser`, `PerAccount`, `Grp`) pass when others end.
_NEVER = re.compile(
    r"BadConstraints|PartitionTimeLimit|PartitionNodeLimit|Invalid(Account|QOS)|DependencyNever"
    r"|(Account|QOS|User|Group)NotAllowed|ReservationDeleted|LaunchFailedRequeuedHeld"
    r"|(Assoc|QOS)Max\w*Per(Job|Node)|QOSMin(BB|Billing|Cpu|Energy|GRES|License|Memory|Node)"
)

#: What PBS says to `qstat -x` where it forgets jobs as they end, as it does unless told otherwise.
_NO_HISTORY = "not configured to maintain job history"
#: Batch systems that have said so to this process: they are not asked in vain again.
_forgetful: set[str] = set()


def pause(kind: str, jobs: int) -> float:
    """Return for how long a batch system should be left alone after a question about its jobs [s].

    Most are asked about one job at a time, and their servers have other users too.

    Parameters
    ----------
    kind : str
        Batch system.
    jobs : int
        How many it is asked about.
    """
    return 0.0 if kind == "slurm" else float(jobs)


def of_jobs(kind: str, ids: Iterable[str]) -> dict[str, Word]:
    """Return what the batch system says of some jobs.

    Those it says nothing of are left out, and those of which it says what is not understood: where
    its server is away a job has not ended, and must not be submitted a second time.

    Parameters
    ----------
    kind : str
        Batch system.
    ids : iterable of str
        Job ids.

    Raises
    ------
    TimeoutError
        If it does not answer in time.
    """
    wanted = list(ids)
    if not wanted:
        return {}
    if kind == "slurm":
        return _slurm(wanted)
    how = _ONE_BY_ONE[kind]
    found = ((job, how.read(_said(kind, how, job))) for job in wanted)
    return {job: word for job, word in found if word is not None}


def _said(kind: str, how: _How, job: str) -> str:
    """What a batch system says of one job, from its history if it keeps one."""
    if kind not in _forgetful:
        said = _call(*how.command, job)
        if _NO_HISTORY not in said or not how.without_history:
            return said
        _forgetful.add(kind)
    return _call(*how.without_history, job)


def _call(*command: str) -> str:
    """Output of a command, its complaints too; nothing if there is no such command."""
    try:
        ended = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            check=False,
        )
    except FileNotFoundError:
        return "no such command"
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{command[0]} does not answer") from None
    return ended.stdout + ended.stderr


def _slurm(ids: list[str]) -> dict[str, Word]:
    listing = ("squeue", "--noheader", "--states=all", "--format=%A|%T|%r", "--jobs")
    found = {}
    for line in _call(*listing, ",".join(ids)).splitlines():
        job, bar, rest = line.strip().partition("|")
        if bar and job in ids:
            found[job] = _slurm_word(*rest.split("|", 1))
    for job in ids:
        if job not in found or found[job].state is State.ENDED:
            found |= _slurm_ended(job)
    return found


def _slurm_ended(job: str) -> dict[str, Word]:
    """What Slurm still knows of a job that ended: for some minutes that is a lot."""
    said = _call("scontrol", "--oneliner", "show", "job", job)
    facts = dict(re.findall(r"\b(JobState|Reason|ExitCode|Restarts)=(\S+)", said))
    if "JobState" in facts:
        word = _slurm_word(facts["JobState"], facts.get("Reason", ""))
        if facts["JobState"] == "COMPLETING" and facts.get("Restarts", "0") != "0":
            # Slurm says so too of a job that it puts back into the queue, and counts that as a
            # restart. It is not given up: it would begin once more beside its replacement, and
            # nobody would cancel it.
            return {job: Word(State.RUNNING, word.text)}
        if word.state is State.ENDED:
            word = Word(State.ENDED, f"{word.text}, exit code {facts.get('ExitCode', '?')}")
        return {job: word}
    return {job: Word(State.ENDED, "Slurm has forgotten it")} if "Invalid job id" in said else {}


def _slurm_word(state: str, reason: str) -> Word:
    text = f"{state} ({reason})" if reason and reason != "None" else state
    if state in _SLURM_WAITING:
        return Word(State.WAITING, text, bool(_NEVER.search(reason)))
    return Word(State.RUNNING if state in _SLURM_RUNNING else State.ENDED, text)


@dataclass(frozen=True)
class _How:
    """How one batch system is asked about one job."""

    command: tuple[str, ...]
    read: Callable[[str], Word | None]
    without_history: tuple[str, ...] = ()


def _by(
    *, waits: str, runs: str, ended: str, words: str, runs_first: bool = False
) -> Callable[[str], Word | None]:
    """Read a listing by patterns: it waits, it runs, it has ended, and what to tell of it.

    The first that is found counts.
    """
    patterns = [(State.WAITING, waits), (State.RUNNING, runs), (State.ENDED, ended)]
    if runs_first:
        patterns = [patterns[1], patterns[0], patterns[2]]

    def read(said: str) -> Word | None:
        text = "; ".join(m.group(0).strip() for m in re.finditer(words, said, re.MULTILINE))
        text = " ".join((text or said).split())[:300]
        for state, pattern in patterns:
            if re.search(pattern, said, re.MULTILINE):
                return Word(state, text or "gone from the queue")
        return None

    return read


_ONE_BY_ONE = {
    # PBS Professional reference guide, "Job States"; `comment` says why a job waits. Where it keeps
    # no history, a job that it does not know has ended: it had one when it was submitted.
    "pbs": _How(
        ("qstat", "-xf"),
        _by(
            waits=r"job_state = [QHWT]",
            runs=r"job_state = [REBSU]",
            ended=r"job_state = [FXMC]|Unknown Job I[dD]|Job has finished",
            words=r"^\s*(job_state|comment|Exit_status) = .*",
        ),
        without_history=("qstat", "-f"),
    ),
    # `man qstat` of Grid Engine: a job without "usage" has not begun. "scheduling info" is printed
    # of those that run too, be it only to say that none is collected.
    "sge": _How(
        ("qstat", "-j"),
        _by(
            waits=r"scheduling info:|error reason|cannot run|not started",
            runs=r"^usage\s+\d+:|job_state\s+\d+:\s+r",
            ended=r"do not exist",
            words=r"^(usage|scheduling info|error reason"
            r"|\s+(cannot run|queue instance|not started)).*",
            runs_first=True,
        ),
    ),
    # `man bjobs` of LSF.
    "lsf": _How(
        ("bjobs", "-noheader", "-o", "stat pend_reason exit_reason delimiter='|'"),
        _by(
            waits=r"^(PEND|PSUSP|WAIT|PROV)\b",
            runs=r"^(RUN|USUSP|SSUSP|UNKWN)\b",
            ended=r"^(DONE|EXIT|ZOMBI)\b|is not found",
            words=r"^[A-Z]+\|.*",
        ),
    ),
    # `man condor_q`: JobStatus 1 idle, 2 running, 3 removed, 4 completed, 5 held. What has left the
    # queue is not listed at all.
    "htcondor": _How(
        ("condor_q", "-format", "JobStatus=%d ", "JobStatus", "-format", "%s", "HoldReason"),
        _by(
            waits=r"JobStatus=[15]",
            runs=r"JobStatus=[267]",
            ended=r"JobStatus=[34]|\A\s*\Z",
            words=r"JobStatus=.*",
        ),
    ),
    # `man oarstat`.
    "oar": _How(
        ("oarstat", "-f", "-j"),
        _by(
            waits=r"state = (Waiting|Hold|toLaunch|toAckReservation)",
            runs=r"state = (Running|Launching|Resuming|Suspended|Finishing)",
            ended=r"state = (Terminated|Error|toError)",
            words=r"^\s*(state|message|exit_code) = .*",
        ),
    ),
    # `man checkjob` of Moab.
    "moab": _How(
        ("checkjob",),
        _by(
            waits=r"State:\s*(Idle|Hold|Deferred|BatchHold|UserHold|SystemHold|NotQueued)",
            runs=r"State:\s*(Running|Starting|Suspended)",
            ended=r"State:\s*(Completed|Removed|Vacated)|cannot locate job|invalid job",
            words=r"^(State:|NOTE:|BLOCK MSG:|Holds:|Message).*",
        ),
    ),
}
