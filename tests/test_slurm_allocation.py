"""Inside one allocation of a real Slurm."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest
from slurmdev import Slurm
from smallrun import N, Sky, call, environment, leaves, rows, verb, wait_for

from survey_gampen.run.claim import holder_of
from survey_gampen.run.layout import RunDir

pytestmark = pytest.mark.slurm


def test_inside_one_allocation(slurm: Slurm, sky: Sky, calm: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = sky.command(out, "--cluster", "allocation:interface=lo,dashboard_port=0,memory=1 GiB")
    step = ["srun", "-n", "4", "--overcommit", "--cpus-per-task=1", "--mem=4G", "-N", "2"]
    done = call([*step, *words], timeout=900)
    assert done.returncode == 0, done.stderr
    assert rows(out).num_rows == rows(calm).num_rows
    assert done.stderr.count("galaxies are in") + done.stdout.count("galaxies are in") == 1
    assert not list((out / ".cluster").glob("allocation-*"))


def step(sky: Sky, out: Path, *more: str) -> list[str]:
    """A run as the tasks of one srun."""
    where = "allocation:interface=lo,dashboard_port=0,memory=1 GiB"
    srun = ["srun", "-n", "3", "--overcommit", "--cpus-per-task=1", "--mem=4G", "-N", "1"]
    return [*srun, *sky.command(out, "--cluster", where, *more)]


def test_a_step_ends_where_its_client_can_do_nothing(
    slurm: Slurm, sky: Sky, tmp_path: Path
) -> None:
    (tmp_path / "empty").mkdir()
    words = step(sky, tmp_path / "run", "--images", str(tmp_path / "empty"))
    begun = time.monotonic()
    done = call(words)
    assert done.returncode == 2
    assert done.stderr.count("survey-gampen: error:") == 1
    assert time.monotonic() - begun < 90
    assert not (tmp_path / "run" / "run.toml").exists()


def test_a_step_ends_where_its_client_was_killed(slurm: Slurm, sky: Sky, tmp_path: Path) -> None:
    """Slurm waits for all tasks of a step: those that are left must see it, and end."""
    out = tmp_path / "run"
    words = step(sky, out, "--passes", "1000")
    with subprocess.Popen(words, env=environment(), stderr=subprocess.DEVNULL) as srun:
        wait_for(lambda: len(leaves(out)) > 0, srun)
        client = holder_of(RunDir(out))
        assert client
        os.kill(client[0].pid, signal.SIGKILL)
        srun.wait(timeout=240)
    places = list((out / ".cluster").glob("*allocation-*"))
    done = verb("resume", out, "--cluster", "local:dashboard_port=0")
    assert done.returncode == 0, done.stderr
    assert rows(out).num_rows == N
    assert not places
