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


@pytest.fixture(autouse=True)
def nothing_is_known_of_histories(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "_forgetful", set())


PBS = """Job Id: 12.server
    Job_Name = survey-gampen
    job_state = Q
    queue = workq
    comment = Not Running: Insufficient amount of resource: ngpus
"""
SGE_RUNS = """==============================================================
job_number:                 6228
exec_file:                  job_scripts/6228
submission_time:            Thu Apr 29 14:31:12 2021
owner:                      foo
sge_o_host:                 login1
account:                    sge
hard resource_list:         h_rt=3600,gpu=1
notify:                     FALSE
job_name:                   survey-gampen
jobshare:                   0
script_file:                /tmp/tmp1.sh
parallel environment:  smp range: 4
binding:                    NONE
job_type:                   NONE
usage    1:                 cpu=00:00:11, mem=6.4 GBs, io=0.1, vmem=N/A, maxvmem=N/A
binding    1:               NONE
scheduling info:            (Collecting of scheduler job information is turned off)
"""
SGE_WAITS = "".join(
    line
    for line in SGE_RUNS.splitlines(keepends=True)
    if not line.startswith(("usage", "binding "))
)
SGE_FAILED = SGE_WAITS.replace(
    "scheduling info", "error reason    1:          can't chdir to /gone\nscheduling info"
)
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
    ("sge", "qstat", SGE_RUNS, State.RUNNING, "cpu=00:00:11"),
    ("sge", "qstat", SGE_WAITS, State.WAITING, "Collecting of scheduler job information"),
    ("sge", "qstat", SGE_FAILED, State.WAITING, "can't chdir to /gone"),
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


NO_HISTORY = "echo 'qstat: PBS is not configured to maintain job history' >&2; exit 153"


@pytest.mark.parametrize(
    ("answer", "state"),
    [
        ("echo '    job_state = Q'", State.WAITING),
        ("echo '    job_state = R'", State.RUNNING),
        ("echo 'qstat: Unknown Job Id 12.server' >&2; exit 153", State.ENDED),
        (
            "echo 'qstat: 12.server Job has finished, use -x or -H to obtain historical job"
            " information' >&2; exit 35",
            State.ENDED,
        ),
        ("echo 'qstat: cannot connect to server pbs (errno=15010)' >&2; exit 1", None),
    ],
)
def test_pbs_may_keep_no_history(
    answer: str, state: State | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for it once, and from then on without."""
    asked = tmp_path / "asked"
    command = tmp_path / "qstat"
    command.write_text(
        f'#!/bin/sh\necho "$1" >> {asked}\nif [ "$1" = -xf ]; then {NO_HISTORY}; fi\n{answer}\n'
    )
    command.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    for _ in range(2):
        found = words.of_jobs("pbs", ["12.server", "13.server"])
        said = [] if state is None else [state] * 2
        assert [word.state for word in found.values()] == said
    assert asked.read_text().split() == ["-xf"] + ["-f"] * 4


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


@pytest.mark.parametrize(
    "reason",
    """
    QOSMaxGRESPerJob QOSMaxGRESPerNode QOSMaxGRESMinutesPerJob QOSMaxMemoryPerJob
    QOSMaxMemoryPerNode QOSMaxMemoryMinutesPerJob QOSMaxCpuPerJobLimit QOSMaxCpuPerNode
    QOSMaxCpuMinutesPerJobLimit QOSMaxNodePerJobLimit QOSMaxNodeMinutesPerJob
    QOSMaxBillingMinutesPerJob QOSMaxWallDurationPerJobLimit QOSMinGRES QOSMinMemory QOSMinNode
    QOSMinCpuNotSatisfied AssocMaxGRESPerJob AssocMaxGRESMinutesPerJob AssocMaxMemPerJob
    AssocMaxCpuPerJobLimit AssocMaxNodePerJobLimit AssocMaxWallDurationPerJobLimit
    """.split(),
)
def test_limits_of_a_job_never_pass(reason: str) -> None:
    assert words._slurm_word("PENDING", reason).hopeless


@pytest.mark.parametrize(
    "reason",
    """
    QOSMaxGRESPerUser QOSMaxGRESPerAccount QOSMaxMemoryPerUser QOSMaxCpuPerUserLimit
    QOSMaxNodePerUserLimit QOSMaxJobsPerUserLimit QOSMaxSubmitJobPerUserLimit QOSGrpGRES
    QOSGrpGRESMinutes QOSGrpCpuLimit QOSGrpNodeLimit QOSGrpWallLimit QOSGrpMemoryRunMinutes
    AssocGrpGRES AssocGrpGRESRunMinutes AssocGrpCPUMinutesLimit AssocGrpNodeLimit
    AssocGrpJobsLimit AssocGrpMemLimit AssocMaxJobsLimit AssocMaxSubmitJobLimit MaxGRESPerAccount
    QOSUsageThreshold QOSResourceLimit JobArrayTaskLimit
    """.split(),
)
def test_limits_of_users_and_groups_pass(reason: str) -> None:
    assert not words._slurm_word("PENDING", reason).hopeless


@pytest.mark.parametrize(
    ("restarts", "state"),
    [("0", State.ENDED), ("1", State.RUNNING)],
)
def test_a_job_that_completes_has_ended_unless_it_may_be_queued_again(
    restarts: str, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text("#!/bin/sh\necho '12|COMPLETING|None'\n")
    squeue.chmod(0o755)
    facts = f"JobState=COMPLETING Reason=None Dependency=(null) Requeue=1 Restarts={restarts}"
    stub(tmp_path, "scontrol", f"JobId=12 {facts} ExitCode=0:0 RunTime=00:00:03\n", monkeypatch)
    word = words.of_jobs("slurm", ["12"])["12"]
    assert word.state is state
    assert word.text.startswith("COMPLETING")


def test_servers_asked_job_by_job_are_left_alone_for_longer() -> None:
    assert words.pause("slurm", 200) == 0
    assert words.pause("pbs", 200) == 200


def test_a_batch_system_that_is_not_here_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    for kind in ("slurm", "pbs"):
        assert words.of_jobs(kind, ["1"]) == {}
