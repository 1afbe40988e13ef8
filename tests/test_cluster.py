"""Cluster profiles: what they say, and what is said when they are wrong."""

from __future__ import annotations

import os
import re
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path

import distributed
import pytest

from survey_gampen.cluster.crew import DaskCrew
from survey_gampen.cluster.load import MOST_THREADS, cores, load_profile
from survey_gampen.cluster.start import start
from survey_gampen.errors import InputError, OutsideFault, UnreadableFile, WorkerLost
from survey_gampen.paths import data_dir
from survey_gampen.pool import one_a_core


def test_the_cores_are_used_once() -> None:
    profile = load_profile("local")
    assert profile.workers * profile.threads <= cores()
    assert profile.threads <= MOST_THREADS
    assert profile.window >= 2
    assert profile.memory > 0


@pytest.mark.parametrize(
    ("text", "workers", "threads"),
    [("workers: 3\nthreads: 2", 3, 2), ("threads: 1", cores(), 1), ("workers: 100", 100, 1)],
)
def test_numbers_can_be_given(tmp_path: Path, text: str, workers: int, threads: int) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(f"kind: local\n{text}\nmemory: 2 GB\n")
    profile = load_profile(path)
    assert (profile.workers, profile.threads, profile.memory) == (workers, threads, 2 * 10**9)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("kind: local\nwokers: 3", "unknown key 'wokers'; did you mean 'workers'?"),
        ("kind: moon", "kind 'moon' is not known"),
        ("workers: many", "workers must be a whole number of at least 1, or auto"),
        ("workers: 0", "workers must be"),
        ("memory: a lot", "own.yaml"),
        ("scratch: /no/such/place", "scratch /no/such/place is no folder"),
        ("- a\n- b", "must be keys and values"),
        ("a: [", "no readable YAML"),
    ],
)
def test_mistakes_are_named_in_one_line(tmp_path: Path, text: str, named: str) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(text)
    with pytest.raises(InputError, match=re.escape(named)) as refusal:
        load_profile(path)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("spec", ["mars", "/nowhere/mars.yaml"])
def test_a_profile_that_is_not_there(spec: str) -> None:
    with pytest.raises(InputError, match="no cluster profile"):
        load_profile(spec)


@pytest.mark.parametrize("path", sorted(data_dir("cluster").glob("*.yaml")), ids=lambda p: p.name)
def test_every_key_has_a_comment(path: Path) -> None:
    lines = path.read_text().splitlines()
    for number, line in enumerate(lines):
        if re.match(r"\w+:", line):
            assert lines[number - 1].startswith("#"), f"{path.name}: {line} has no comment"
    load_profile(path)


def tell_pid(*_: object, tick: object) -> int:
    tick(3)
    return os.getpid()


def die(*_: object, tick: object) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def fail(*_: object, tick: object) -> None:
    raise UnreadableFile("a.fits is broken")


@pytest.mark.slow
def test_what_happens_to_tasks_is_told(tmp_path: Path) -> None:
    """Results, errors and deaths reach the conductor; a dead worker is followed by a new one."""
    (tmp_path / "own.yaml").write_text("workers: 1\nthreads: 1\ndashboard_port: 0\n")

    def outcome(crew: DaskCrew, key: str, function: Callable) -> object:
        crew.submit(key, "infer", function)
        while not (told := crew.finished(0.5)):
            pass
        assert told[0][0] == key
        return told[0][1]

    with start(load_profile(tmp_path / "own.yaml")) as cluster:
        crew = DaskCrew(cluster)
        first = outcome(crew, "a", tell_pid)
        error = outcome(crew, "b", fail)
        assert isinstance(error, UnreadableFile)
        assert str(error) == "a.fits is broken"
        assert any("in fail" in line for line in traceback.format_exception(error))
        assert isinstance(outcome(crew, "c", die), WorkerLost)
        second = outcome(crew, "d", tell_pid)  # begun when no worker was there
        assert first != second
        assert all(line.find("127.0.0.1") > 0 for line in cluster.dashboard_lines())


def test_tasks_get_no_cutters_and_jobs_not_one_a_core(tmp_path: Path) -> None:
    own = tmp_path / "own.yaml"
    own.write_text("kind: slurm\ncutters: {workers: 2}\n")
    profile = one_a_core(str(own))
    assert profile.batch is not None
    assert profile.batch.cutters is None
    assert profile.workers == 1  # auto: one job's, whatever the login node has
    assert one_a_core(str(own), workers=3).workers == 3
    assert one_a_core("local").workers == cores()


@pytest.mark.parametrize("listening", [True, False])
def test_workers_that_are_refused_are_told_of_and_end_the_wait(
    listening: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that torch can't use, say: the reason is said, and nobody waits for a minute.

    Nor if the worker has gone before anybody listens.
    """
    if not listening:
        monkeypatch.setattr(distributed.Client, "subscribe_topic", lambda *_: None)
    own = tmp_path / "own.yaml"
    own.write_text("kind: local\ngpus: 1\nworkers: 1\nmemory: 0\ndashboard_port: 0\n")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    said: list[str] = []
    with start(load_profile(own), say=said.append) as cluster:

        def looks_until_none_is_left() -> None:
            for _ in range(400):
                cluster.check()
                time.sleep(0.1)

        with pytest.raises(OutsideFault, match="no worker can be used: .*torch can't use it"):
            looks_until_none_is_left()
    assert any("leaves" in line and "torch can't use it" in line for line in said)
