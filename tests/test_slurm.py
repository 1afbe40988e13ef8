"""The cluster layer on a real Slurm."""

from __future__ import annotations

import signal
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from slurmdev import NODES, Slurm, until
from smallrun import Sky, call, environment, leaves, rows, verb

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    cluster = Slurm()
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Sky:
    """A sky of more than 400 galaxies."""
    return Sky(tmp_path_factory.mktemp("many"), n=420)


@pytest.fixture(scope="module")
def undisturbed(many: Sky, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on this machine with as many threads a worker."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    where = "local:workers=2,threads=1,dashboard_port=0"
    done = call(many.command(out, "--passes", "100", "--cluster", where, rows=10), timeout=1200)
    assert done.returncode == 0, done.stderr
    return out


class Client:
    """A run on Slurm, in a process of its own."""

    def __init__(self, slurm: Slurm, words: list[str], out: Path, name: str) -> None:
        self.slurm, self.out, self.name = slurm, out, name
        self.process = subprocess.Popen(
            words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def published(self, more: int) -> None:
        """Wait until so many partitions more are published."""
        before = len(leaves(self.out))
        until(lambda: len(leaves(self.out)) >= before + more or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()[0]


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
    slurm: Slurm, many: Sky, undisturbed: Path, tmp_path: Path
) -> None:
    """scancel, kill, walltime, a restart of slurmctld, and the client's end: the same bits."""
    out, lost = tmp_path / "run", 0
    profile, name = slurm.profile(tmp_path)
    words = many.command(out, "--passes", "100", "--cluster", str(profile), rows=10)
    client = Client(slurm, words, out, name)
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
    client.process.send_signal(signal.SIGKILL)
    told = client.process.communicate()[0]
    lost += 3
    until(lambda: not slurm.jobs(name), 180)  # workers do not outlive their client for long
    assert 0 < len(leaves(out)) < len(leaves(undisturbed))

    done = verb("resume", out)
    assert done.returncode == 0, told + done.stderr
    assert rows(out).num_rows == 420
    assert len(leaves(out)) >= 40
    assert rows(out).equals(rows(undisturbed))
    twice = sum(number - 1 for number in begun(out).values())
    print(f"{len(leaves(out))} partitions, {lost} workers lost, {twice} partitions begun again")
    assert twice <= lost
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
