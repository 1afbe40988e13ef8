"""What a user is told by a real Slurm: what it refuses, what jobs wait for, why they fail."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from slurmdev import NODES, Slurm, until
from smallrun import Sky, call, environment, verb

pytestmark = pytest.mark.slurm


def test_check_tells_what_a_worker_is(slurm: Slurm, tmp_path: Path) -> None:
    profile, name = slurm.profile(tmp_path)
    done = verb("cluster", "check", profile)
    assert done.returncode == 0, done.stderr
    for words in (socket.gethostname(), "usable", "the same as here", "after submission"):
        assert words in done.stdout
    assert not slurm.jobs(name)


def test_check_takes_its_job_down_when_it_is_told_to_end(slurm: Slurm, tmp_path: Path) -> None:
    """A batch system's SIGTERM, sent twice, is no reason to leave a job behind."""
    profile, name = slurm.profile(tmp_path, prologue='["sleep 60"]')
    words = [sys.executable, "-m", "survey_gampen.cli", "cluster", "check", str(profile)]
    with subprocess.Popen(words, env=environment(), cwd=tmp_path, stderr=subprocess.PIPE) as check:
        until(lambda: slurm.jobs(name), 60)
        for _ in range(2):
            check.terminate()
            time.sleep(0.3)
        assert check.wait(timeout=60) == 75
    assert not slurm.jobs(name)


def test_check_tells_the_state_of_a_job_that_does_not_come(slurm: Slurm, tmp_path: Path) -> None:
    profile, name = slurm.profile(tmp_path, prologue='["sleep 60"]')
    done = verb("cluster", "check", profile, "--patience", "5", cwd=tmp_path)
    assert done.returncode == 75
    assert re.search(r"no worker came within 5 s; job \d+ for \d s: RUNNING", done.stderr)
    assert not slurm.jobs(name)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"queue": "moon"}, "invalid partition specified: moon"),
        ({"memory": "64 TiB"}, "Memory specification can not be satisfied"),
        ({"gpus": 1, "gpu_request": '"--gres=gpu:9"'}, "Requested node configuration"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(
    slurm: Slurm, sky: Sky, tmp_path: Path, keys: dict[str, object], words: str
) -> None:
    profile, name = slurm.profile(tmp_path, **keys)
    begun = time.monotonic()
    done = call(sky.command(tmp_path / "run", "--cluster", str(profile)))
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") <= 2
    assert time.monotonic() - begun < 60
    assert not slurm.jobs(name)
    assert not (tmp_path / "run").exists()


def test_jobs_that_fail_at_once_are_told_of(slurm: Slurm, sky: Sky, tmp_path: Path) -> None:
    keys = {"prologue": '["echo no module named gampen >&2; exit 7"]', "workers": 1}
    profile, name = slurm.profile(tmp_path, **keys)
    done = call(sky.command(tmp_path / "run", "--cluster", str(profile)))
    assert done.returncode == 75
    assert "no module named gampen" in done.stderr
    assert "exit code 7:0" in done.stderr
    assert not slurm.jobs(name)


def test_jobs_that_wait_are_told_of(slurm: Slurm, sky: Sky, tmp_path: Path) -> None:
    """A job that can't begin now is no failure; what it waits for is told again and again."""
    full = [slurm.ask("sbatch", "--parsable", "--exclusive", "--wrap", "sleep 600").strip()]
    full += [slurm.ask("sbatch", "--parsable", "--exclusive", "--wrap", "sleep 600").strip()]
    full += [slurm.ask("sbatch", "--parsable", "--exclusive", "--wrap", "sleep 600").strip()]
    assert len(full) == NODES
    until(lambda: len(slurm.jobs("wrap", "RUNNING")) == NODES)
    profile, name = slurm.profile(tmp_path, workers=1, patience=2)
    words = sky.command(tmp_path / "run", "--cluster", str(profile))
    with (tmp_path / "said").open("w") as said:
        client = subprocess.Popen(words, env=environment(), stderr=said, stdout=said)
    try:
        until(lambda: "PENDING (" in (tmp_path / "said").read_text(), 120)
        slurm.ask("scancel", *full)
        assert client.wait(timeout=400) == 0
    finally:
        client.kill()
        slurm.ask("scancel", *full)
    assert not slurm.jobs(name)


def test_an_account_that_slurm_does_not_know(sky: Sky, tmp_path: Path) -> None:
    """Without accounting the real one takes any account: a stub says what sbatch says then."""
    stub = tmp_path / "bin" / "sbatch"
    stub.parent.mkdir()
    stub.write_text(
        "#!/bin/sh\n"
        "echo 'sbatch: error: Batch job submission failed: Invalid account or"
        " account/partition combination specified' >&2\nexit 1\n"
    )
    stub.chmod(0o755)
    words = sky.command(tmp_path / "run", "--cluster", "slurm:account=moon,interface=lo")
    path = f"{stub.parent}:{environment()['PATH']}"
    done = subprocess.run(
        words, env={**environment(), "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Invalid account or account/partition combination specified" in done.stderr
