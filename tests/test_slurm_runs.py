"""Runs on a real Slurm: whatever befalls them, the bits are the same."""

from __future__ import annotations

import subprocess
import time
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from slurmdev import Client, Slurm, until
from smallrun import SLOWER, Sky, call, leaves, rows, verb

from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.posterior.engine import Engine

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Sky:
    """A sky of more than 400 galaxies."""
    return Sky(tmp_path_factory.mktemp("many"), 420, SLOWER)


@pytest.fixture(scope="module")
def passes(many: Sky) -> str:
    """So many that a run takes one core five minutes: time enough to disturb it.

    Slurm alone needs up to two minutes to notice that a job's time is up.
    """
    trial = 50
    settings = {"passes": trial, "seed": 0, "precision": "fp32", "batch": 32}
    engine = Engine(load_checkpoint(many.model), **settings)
    images, keys = np.zeros((32, 239, 239), np.float32), np.arange(32, dtype=np.uint64)
    engine.draws(images, keys)
    start = time.perf_counter()
    engine.draws(images, keys)
    # Each of some 48 partitions is padded to one batch.
    seconds = 48 * (time.perf_counter() - start)
    return str(max(100, round(300 / seconds * trial)))


@pytest.fixture(scope="module")
def undisturbed(many: Sky, passes: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on this machine with as many threads a worker."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    where = "local:workers=2,threads=1,dashboard_port=0"
    done = call(many.command(out, "--passes", passes, "--cluster", where, rows=20), timeout=1200)
    assert done.returncode == 0, done.stderr
    return out


def begun(out: Path) -> Counter[str]:
    """How often each partition was begun to be inferred, by the lines of its attempts."""
    lines = [line.split() for line in (out / "attempts.log").read_text().splitlines()]
    idle = {words[4] for words in lines if words[5:7] == ["not", "begun"]}
    return Counter(
        words[3]
        for words in lines
        if words[2] == "infer" and words[5] == "begins" and words[4] not in idle
    )


def test_a_run_survives_all_that_a_cluster_does(
    slurm: Slurm, many: Sky, passes: str, undisturbed: Path, tmp_path: Path
) -> None:
    """scancel, kill, walltime, a restart of slurmctld, and the client's end: the same bits."""
    out, lost = tmp_path / "run", 0
    profile, name = slurm.profile(tmp_path)
    words = many.command(out, "--passes", passes, "--cluster", str(profile), rows=20)
    client = Client(slurm, words, out, name)
    try:
        until(lambda: len(slurm.jobs(name, "RUNNING")) == 3)
        client.published(2)
        first, second, third = slurm.jobs(name, "RUNNING")
        slurm.ask("scancel", first)
        lost += 1
        client.published(2)
        for process in slurm.processes(second):
            process.kill()
        lost += 1
        client.published(2)
        # Shorter than the worker knows: Slurm ends it in the middle of its work.
        slurm.ask("scontrol", "update", f"JobId={third}", "TimeLimit=1")
        until(lambda: third not in slurm.jobs(name, "RUNNING") or client.process.poll() is not None)
        lost += 1
        daemon = int((Path(slurm.settings["GAMPEN_SLURM"]) / "run" / "slurmctld.pid").read_text())
        subprocess.run(["kill", str(daemon)], check=True)
        client.published(1)
        slurm.up()
        client.published(2)
        until(lambda: len(slurm.jobs(name, "RUNNING")) == 3)  # those lost were replaced
        assert client.process.poll() is None, client.process.communicate()[0]
    finally:
        client.process.kill()
        slurm.up()
    told = client.process.communicate()[0]
    lost += 3
    until(lambda: not slurm.jobs(name), 180)  # workers do not outlive their client for long
    assert 0 < len(leaves(out)) < len(leaves(undisturbed))

    done = verb("resume", out)
    assert done.returncode == 0, told + done.stderr
    assert rows(out).num_rows == 420
    assert len(leaves(out)) >= 40
    assert leaves(out) == leaves(undisturbed)
    twice = sum(number - 1 for number in begun(out).values())
    print(f"{len(leaves(out))} partitions, {lost} workers lost, {twice} partitions begun again")
    assert twice <= lost
    assert not slurm.jobs(name)


def test_a_node_that_was_only_thought_lost(
    slurm: Slurm, many: Sky, passes: str, undisturbed: Path, tmp_path: Path
) -> None:
    """Its slurmd is killed; its job begins anew elsewhere while its worker goes on."""
    out = tmp_path / "run"
    profile, name = slurm.profile(tmp_path)
    words = many.command(out, "--passes", passes, "--cluster", str(profile), rows=20)
    client = Client(slurm, words, out, name)
    try:
        client.published(2)
        job = slurm.jobs(name, "RUNNING")[0]
        node = slurm.ask("squeue", "-h", "-j", job, "-o", "%N").strip()
        orphans = slurm.processes(job)
        assert orphans
        pid = (Path(slurm.settings["GAMPEN_SLURM"]) / "run" / f"{node}.pid").read_text()
        subprocess.run(["kill", "-9", pid.strip()], check=True)
        client.published(5)
        assert any(process.is_running() for process in orphans)
        told = client.process.communicate(timeout=900)[0]
    finally:
        client.process.kill()
        slurm.up()
    assert client.process.returncode == 0, told
    assert leaves(out) == leaves(undisturbed)
    assert rows(out)["object_id"].to_pylist() == sorted(set(rows(out)["object_id"].to_pylist()))


def test_submit_goes_on_until_it_is_done(
    slurm: Slurm, many: Sky, passes: str, undisturbed: Path, tmp_path: Path
) -> None:
    """The driver's walltime is shorter than the run."""
    out = tmp_path / "run"
    driver = '{walltime: "00:02:00", memory: 1 GiB}'
    profile, _ = slurm.profile(tmp_path, workers=1, driver=driver)
    words = many.command(out, "--passes", passes, "--cluster", str(profile), rows=20)
    words[words.index("run")] = "submit"
    done = call(words)
    assert done.returncode == 0, done.stderr
    chain = out / ".cluster" / "driver.log"
    until(lambda: "is done, exit code 0" in (chain.read_text() if chain.exists() else ""), 1200)
    lines = chain.read_text().splitlines()
    print("\n".join(lines))
    begun_jobs = [line.split()[3] for line in lines if "begins on" in line]
    assert len(set(begun_jobs)) == len(begun_jobs) > 1
    assert sum("goes on in another job: Submitted batch job" in line for line in lines) == (
        len(begun_jobs) - 1
    )
    assert leaves(out) == leaves(undisturbed)
    assert f"driver: {lines[-1]}" in verb("status", out).stdout
