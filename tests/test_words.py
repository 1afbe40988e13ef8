"""What batch systems say of jobs, read from the words of their documentation."""

from __future__ import annotations

from pathlib import Path

import pytest

from survey_gampen.cluster import words
from survey_gampen.cluster.words import State


def stub(folder: Path, name: str, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A command that prints a text."""
    (folder / "text").write_text(text)
    command = folder / name
    command.write_text(f"#!/bin/sh\ncat {folder}/text\n")
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")


PBS = """Job Id: 12.server
    Job_Name = survey-gampen
    job_state = Q
    queue = workq
    comment = Not Running: Insufficient amount of resource: ngpus
"""
SAID = [
    ("pbs", "qstat", PBS, State.WAITING, "Insufficient amount of resource: ngpus"),
    ("pbs", "qstat", "    job_state = R\n", State.RUNNING, "job_state = R"),
    ("pbs", "qstat", "    job_state = F\n    Exit_status = 271\n", State.ENDED, "271"),
    (
        "lsf",
        "bjobs",
        "PEND|Job's requirements for resource reservation not satisfied|-\n",
        State.WAITING,
        "not satisfied",
    ),
    ("lsf", "bjobs", "RUN|-|-\n", State.RUNNING, "RUN"),
    ("lsf", "bjobs", "EXIT|-|TERM_RUNLIMIT\n", State.ENDED, "TERM_RUNLIMIT"),
    ("htcondor", "condor_q", "JobStatus=1 ", State.WAITING, "JobStatus=1"),
    ("htcondor", "condor_q", "JobStatus=5 Disk quota exceeded", State.WAITING, "Disk quota"),
    ("htcondor", "condor_q", "JobStatus=2 ", State.RUNNING, "JobStatus=2"),
    ("htcondor", "condor_q", "", State.ENDED, ""),
    ("oar", "oarstat", "    state = Waiting\n    message = R=4,W=2:0:0\n", State.WAITING, "R=4"),
    ("oar", "oarstat", "    state = Running\n", State.RUNNING, "Running"),
    ("oar", "oarstat", "    state = Error\n    exit_code = 256\n", State.ENDED, "256"),
    ("moab", "checkjob", "State: Idle\nNOTE:  job cannot run\n", State.WAITING, "cannot run"),
    ("moab", "checkjob", "State: Running\n", State.RUNNING, "Running"),
    ("moab", "checkjob", "State: Completed\n", State.ENDED, "Completed"),
    (
        "sge",
        "qstat",
        'scheduling info:            cannot run in PE "smp" because it only offers 0 slots\n',
        State.WAITING,
        "only offers 0 slots",
    ),
    ("sge", "qstat", "usage    1:                 cpu=00:00:11\n", State.RUNNING, "cpu=00:00:11"),
    ("sge", "qstat", "Following jobs do not exist: \n12\n", State.ENDED, "do not exist"),
]


@pytest.mark.parametrize(("kind", "command", "text", "state", "told"), SAID)
def test_states_and_reasons(
    kind: str,
    command: str,
    text: str,
    state: State,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    stub(tmp_path, command, text, monkeypatch)
    word = words.of_jobs(kind, ["12"])["12"]
    assert word.state is state
    assert told in word.text


AWAY = [
    ("pbs", "qstat", "Connection refused\nqstat: cannot connect to server pbs (errno=15010)\n"),
    ("sge", "qstat", "error: commlib error: got select error (Connection refused)\n"),
    ("lsf", "bjobs", "LSF is down. Please wait ...\n"),
    ("htcondor", "condor_q", "-- Failed to fetch ads from: <10.0.0.1:9618>\n"),
    ("oar", "oarstat", "Can't connect to the database\n"),
    ("moab", "checkjob", "ERROR:    cannot connect to server moab on port 42559\n"),
    ("slurm", "squeue", "slurm_load_jobs error: Unable to contact slurm controller\n"),
]


@pytest.mark.parametrize(("kind", "command", "text"), AWAY)
def test_where_the_server_is_away_no_job_has_ended(
    kind: str, command: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Else each of them would be submitted a second time."""
    stub(tmp_path, command, text, monkeypatch)
    stub(tmp_path, "scontrol", text, monkeypatch)
    assert words.of_jobs(kind, ["12"]) == {}


@pytest.mark.parametrize(
    ("line", "state", "hopeless"),
    [
        ("12|PENDING|Resources", State.WAITING, False),
        ("12|PENDING|Priority", State.WAITING, False),
        ("12|PENDING|PartitionTimeLimit", State.WAITING, True),
        ("12|PENDING|QOSMaxWallDurationPerJobLimit", State.WAITING, True),
        ("12|PENDING|AssocGrpCpuLimit", State.WAITING, False),
        ("12|RUNNING|None", State.RUNNING, False),
        ("12|TIMEOUT|TimeLimit", State.ENDED, False),
    ],
)
def test_reasons_of_slurm(
    line: str, state: State, hopeless: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reasons with which a job waits for ever are told from those that pass."""
    stub(tmp_path, "squeue", line + "\n", monkeypatch)
    stub(tmp_path, "scontrol", line + "\n", monkeypatch)
    word = words.of_jobs("slurm", ["12"])["12"]
    assert (word.state, word.hopeless) == (state, hopeless)


def test_a_batch_system_that_is_not_here_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for kind in ("slurm", "pbs"):
        assert words.of_jobs(kind, ["1"]) == {}
