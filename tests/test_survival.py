"""Kills, two clients at once, signals and full disks: nothing is lost, nothing is twice."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest
from smallrun import Sky, call, environment, leaves, rows, status, wait_for

from survey_gampen.cli import main
from survey_gampen.run.conductor import Conductor


@pytest.mark.slow
def test_two_clients_and_another_partition_size(sky: Sky, calm: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = sky.command(out, rows=11)
    both = [
        subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [client.communicate(timeout=400)[1] for client in both]
    codes = [client.returncode for client in both]
    assert sorted(codes) == [0, 2], said
    refusal = said[codes.index(2)]
    assert f"pid {both[codes.index(0)].pid} on " in refusal
    assert len(leaves(out)) < len(leaves(calm))
    assert rows(out).equals(rows(calm))


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost(sky: Sky, calm: Path, tmp_path: Path) -> None:
    """Client, worker and both are killed; the same command goes on; the bits are the same."""
    out = tmp_path / "run"
    words = sky.command(out, "--keep-samples")
    moment, killed = random.Random(5), 0
    for victims in ("client", "worker", "both", "client", "both"):
        client = subprocess.Popen(words, env=environment(), stderr=subprocess.DEVNULL)
        try:
            before = len(leaves(out))
            wait_for(lambda n=before: len(leaves(out)) > n, client)
            time.sleep(moment.uniform(0, 0.2))
            if client.poll() is not None:  # a fast machine is done before all have been killed
                break
            killed += 1
            family = psutil.Process(client.pid).children(recursive=True)
            workers = [p for p in family if "spawn_main" in " ".join(p.cmdline())]
            assert workers or client.poll() is not None
            if victims != "client":
                for process in workers:
                    process.kill()
            if victims == "worker":  # the client lives, and goes on with a new one
                before = len(leaves(out))
                wait_for(lambda n=before: len(leaves(out)) > n, client)
            client.kill()
            client.wait()
            # Workers do not outlive their client for long.
            assert not psutil.wait_procs(family, timeout=60)[1]
        finally:
            client.kill()
    assert killed >= 2
    assert call(words).returncode == 0
    assert leaves(out) == leaves(calm)
    assert rows(out).equals(rows(calm))


@pytest.mark.slow
def test_a_signal_ends_the_run_in_order(sky: Sky, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = sky.command(out, "--passes", "1000")  # far from done when the first file is there
    client = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(leaves(out)) >= 1, client)
    assert status(out)["state"] == "running"
    client.send_signal(signal.SIGTERM)
    said = client.communicate(timeout=400)[1]
    assert client.returncode == 75, said
    assert "the same command goes on" in said.splitlines()[-1]  # and nothing of Python's own
    assert "leaked" not in said
    assert status(out)["state"] == "stopped"
    import hats

    assert hats.read_hats(out / "posteriors").catalog_info.total_rows == rows(out).num_rows


@pytest.mark.usefixtures("signals_of_before")
def test_a_signal_after_the_last_file_finds_nothing_to_stop(
    sky: Sky, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go = Conductor.go

    def stopped_then(self: Conductor, *arguments: object) -> int:
        go(self, *arguments)
        signal.raise_signal(signal.SIGTERM)
        raise AssertionError("not reached")

    monkeypatch.setattr(Conductor, "go", stopped_then)
    out = tmp_path / "run"
    assert main(sky.command(out)[3:]) == 0
    assert status(out)["state"] == "complete"


@pytest.fixture
def twelve_megabytes(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], check=False
    )
    if os.geteuid() != 0 or mount.returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_and_the_same_command_goes_on(
    sky: Sky, calm: Path, twelve_megabytes: Path
) -> None:
    out, ballast = twelve_megabytes / "run", twelve_megabytes / "ballast"
    words = sky.command(out, "--drop-cutouts")
    ballast.write_bytes(b"x" * 10_000_000)
    planned = call(words)
    assert planned.returncode == 75, planned.stderr
    assert "make room" in planned.stderr  # seen before the first partition
    ballast.unlink()
    client = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(leaves(out)) >= 1, client)
    fill(ballast)
    said = client.communicate(timeout=400)[1]
    assert client.returncode == 75, said
    assert "No space left on device" in said
    assert not (out / "quarantine").exists() or not list((out / "quarantine").iterdir())
    ballast.unlink()
    done = call(words)
    assert done.returncode == 0, done.stderr
    assert rows(out).equals(rows(calm))


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            return
