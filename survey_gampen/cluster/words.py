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


#: States of Slurm (`man squeue`, JOB STATE CODES); all others are ends.
_SLURM_WAITING = {"PENDING", "CONFIGURING", "REQUEUED", "REQUEUE_HOLD", "RESV_DEL_HOLD"}
_SLURM_RUNNING = {"RUNNING", "COMPLETING", "STAGE_OUT", "SIGNALING", "STOPPED"}
_SLURM_RUNNING |= {"RESIZING", "SUSPENDED"}
#: Reasons of Slurm (`man squeue`, JOB REASON CODES) with which a job waits for ever, unless
#: somebody changes the job, the account or the limits.
_NEVER = re.compile(
    r"BadConstraints|PartitionTimeLimit|PartitionNodeLimit|Invalid(Account|QOS)|DependencyNever"
    r"|(Account|QOS|User|Group)NotAllowed|ReservationDeleted|Assoc(Max|Grp)?\w*PerJob\w*Limit"
    r"|QOS(Max|Min)\w*PerJob\w*Limit|MaxWall\w*PerJob|LaunchFailedRequeuedHeld"
)


def ask(kind: str, ids: Iterable[str]) -> dict[str, Word]:
    """Return what the batch system says of some jobs; those it says nothing of are left out.

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
    return {job: how.read(said) for job in wanted if (said := _call(*how.command, job)) is not None}


def _call(*command: str) -> str | None:
    """Output of a command, its complaints too; None if there is no such command."""
    try:
        ended = subprocess.run(
            command, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
    except FileNotFoundError:
        return None
    except subprocess.TimeoutExpired:
        raise TimeoutError(f"{command[0]} does not answer") from None
    return ended.stdout + ended.stderr


def _slurm(ids: list[str]) -> dict[str, Word]:
    listing = ("squeue", "--noheader", "--states=all", "--format=%A|%T|%r", "--jobs")
    found = {}
    for line in (_call(*listing, ",".join(ids)) or "").splitlines():
        job, bar, rest = line.strip().partition("|")
        if bar and job in ids:
            found[job] = _slurm_word(*rest.split("|", 1))
    for job in ids:
        if job not in found or found[job].state is State.ENDED:
            found |= _slurm_ended(job)
    return found


def _slurm_ended(job: str) -> dict[str, Word]:
    """What Slurm still knows of a job that ended: for some minutes that is a lot."""
    said = _call("scontrol", "--oneliner", "show", "job", job) or ""
    facts = dict(re.findall(r"(JobState|Reason|ExitCode)=(\S+)", said))
    if facts:
        word = _slurm_word(facts.get("JobState", ""), facts.get("Reason", ""))
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
    read: Callable[[str], Word]


def _by(waiting: str, running: str, words: str) -> Callable[[str], Word]:
    """Read a listing by three patterns: it waits, it runs, and what to tell of it."""

    def read(said: str) -> Word:
        text = "; ".join(m.group(0).strip() for m in re.finditer(words, said, re.MULTILINE))
        text = " ".join((text or said).split())[:300]
        if re.search(waiting, said, re.MULTILINE):
            return Word(State.WAITING, text)
        if re.search(running, said, re.MULTILINE):
            return Word(State.RUNNING, text)
        return Word(State.ENDED, text)

    return read


_ONE_BY_ONE = {
    # PBS Professional reference guide, "Job States"; `comment` says why a job waits.
    "pbs": _How(
        ("qstat", "-xf"),
        _by(
            r"job_state = [QHWT]",
            r"job_state = [REBS]",
            r"^\s*(job_state|comment|Exit_status) = .*",
        ),
    ),
    # `man qstat` of Grid Engine: a job without "usage" has not begun.
    "sge": _How(
        ("qstat", "-j"),
        _by(
            r"scheduling info:|error reason|cannot run|not started",
            r"^usage\s+\d+:|job_state\s+\d+:\s+r",
            r"^(scheduling info|error reason|\s+(cannot run|queue instance|not started)).*",
        ),
    ),
    # `man bjobs` of LSF.
    "lsf": _How(
        ("bjobs", "-noheader", "-o", "stat pend_reason exit_reason delimiter='|'"),
        _by(r"^(PEND|PSUSP|WAIT)", r"^(RUN|USUSP|SSUSP|UNKWN)", r"^[A-Z]+\|.*"),
    ),
    # `man condor_q`: JobStatus 1 idle, 2 running, 5 held.
    "htcondor": _How(
        ("condor_q", "-format", "JobStatus=%d ", "JobStatus", "-format", "%s", "HoldReason"),
        _by(r"JobStatus=[15]", r"JobStatus=[267]", r"JobStatus=.*"),
    ),
    # `man oarstat`.
    "oar": _How(
        ("oarstat", "-f", "-j"),
        _by(
            r"state = (Waiting|Hold|toLaunch|toAckReservation)",
            r"state = (Running|Launching|Resuming|Suspended|Finishing)",
            r"^\s*(state|message|exit_code) = .*",
        ),
    ),
    # `man checkjob` of Moab.
    "moab": _How(
        ("checkjob",),
        _by(
            r"State:\s*(Idle|Hold|Deferred|BatchHold|UserHold|SystemHold|NotQueued)",
            r"State:\s*(Running|Starting|Suspended)",
            r"^(State:|NOTE:|BLOCK MSG:|Holds:|Message).*",
        ),
    ),
}
