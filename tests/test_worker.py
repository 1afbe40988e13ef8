"""A worker knows when its job ends; the page and Prometheus show what it tells."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from survey_gampen.cluster import page
from survey_gampen.cluster import worker as at_worker
from survey_gampen.cluster.allocation import is_client
from survey_gampen.errors import InputError


@pytest.fixture(autouse=True)
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(at_worker, "_longest", {})


def test_the_heartbeat_tells_when_the_job_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURVEY_GAMPEN_BEGAN", f"{time.time() - 100:.0f}")
    monkeypatch.setenv("SURVEY_GAMPEN_WALLTIME", "600")
    assert 495 < at_worker.metrics()["job_seconds_left"] < 505
    monkeypatch.setenv("SURVEY_GAMPEN_WALLTIME", "")
    assert "job_seconds_left" not in at_worker.metrics()


def test_a_task_begins_only_where_it_can_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURVEY_GAMPEN_BEGAN", "1000")
    monkeypatch.setenv("SURVEY_GAMPEN_WALLTIME", "600")
    assert at_worker.job_ends() == 1600
    assert at_worker.enough_time("infer", now=1589)
    assert not at_worker.enough_time("infer", now=1591)  # whatever it is, it takes some seconds
    at_worker.took("infer", 100)
    at_worker.took("infer", 20)
    assert at_worker.enough_time("infer", now=1400)
    assert not at_worker.enough_time("infer", now=1500)  # one and a half times the longest
    assert at_worker.enough_time("cut", now=1500)


def test_what_is_too_long_for_every_job_is_begun_in_a_fresh_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Else jobs would come and go, and none would ever do anything."""
    monkeypatch.setenv("SURVEY_GAMPEN_BEGAN", "1000")
    monkeypatch.setenv("SURVEY_GAMPEN_WALLTIME", "600")
    at_worker.took("infer", 500)
    assert at_worker.enough_time("infer", now=1060)
    assert not at_worker.enough_time("infer", now=1200)


def test_without_a_walltime_there_is_always_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURVEY_GAMPEN_BEGAN", "1000")
    monkeypatch.setenv("SURVEY_GAMPEN_WALLTIME", "")
    at_worker.took("infer", 1e6)
    assert at_worker.job_ends() is None
    assert at_worker.enough_time("infer")


@pytest.mark.parametrize(
    ("rank", "size", "step", "told"),
    [
        (None, None, None, "in the tasks of a step of Slurm: type srun"),
        ("0", "6", None, "in the tasks of a step of Slurm: type srun"),  # a batch script
        ("0", "2", "0", "3 or more"),
    ],
)
def test_an_allocation_that_is_none(
    rank: str | None,
    size: str | None,
    step: str | None,
    told: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = {"SLURM_PROCID": rank, "SLURM_NTASKS": size, "SLURM_STEP_ID": step}
    for key, value in given.items():
        if value is None:
            monkeypatch.delenv(key, raising=False)
        else:
            monkeypatch.setenv(key, value)
    with pytest.raises(InputError, match=told):
        is_client()


def test_one_of_the_ranks_is_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "4")
    monkeypatch.setenv("SLURM_STEP_ID", "0")
    found = []
    for rank in range(4):
        monkeypatch.setenv("SLURM_PROCID", str(rank))
        found.append(is_client())
    assert found == [False, True, False, False]


@pytest.fixture
def scheduler() -> Any:
    """What the page reads of a scheduler."""
    state = {
        "galaxies_planned": 400,
        "galaxies_done": 100,
        "galaxies_per_second": 2.5,
        "partitions": {"waiting": 29, "inferring": 1, "published": 9, "quarantined": 1},
    }
    gpu = {"gpu_memory_used_bytes": 2.0**30, "gpu_memory_total_bytes": 80 * 2.0**30}
    told = {"galaxies_total": 60.0, "galaxies_per_second": 1.5, "job_seconds_left": 600.0, **gpu}
    workers = {
        "tls://1": SimpleNamespace(name='a"<b>', metrics={"survey_gampen": told}),
        "tls://2": SimpleNamespace(name="new", metrics={}),
    }
    return SimpleNamespace(get_events=lambda topic: ((0.0, state),), workers=workers)


def test_prometheus_can_read_it(scheduler: Any) -> None:
    text = page.prometheus(page.numbers(scheduler))
    assert "survey_gampen_galaxies_done 100\n" in text
    assert 'survey_gampen_partitions{state="published"} 9\n' in text
    assert 'survey_gampen_worker_galaxies_total{worker="a\\"<b>"} 60\n' in text
    assert "# TYPE survey_gampen_worker_galaxies_total counter\n" in text
    line = re.compile(r'# (HELP|TYPE) \w+ .+|\w+(\{\w+="(\\.|[^"\\])*"\})? \S+')
    assert all(line.fullmatch(each) for each in text.splitlines())
    heads = [each.split()[2] for each in text.splitlines() if each.startswith("# TYPE")]
    assert len(heads) == len(set(heads))


def test_the_page_shows_it(scheduler: Any) -> None:
    text = page.html(page.numbers(scheduler))
    assert "100 of 400 galaxies, 2.5 galaxies/s, 2 min left" in text
    assert "<td>published<td>9" in text
    assert "a&quot;&lt;b&gt;" in text
    assert "1.0 of 80.0 GiB" in text
    assert "<td>10 min" in text


def test_before_anything_is_known() -> None:
    empty = SimpleNamespace(get_events=lambda topic: (), workers={})
    assert "has not told anything yet" in page.html(page.numbers(empty))
    assert page.prometheus(page.numbers(empty)) == "\n"


LOCKS = """
import multiprocessing, os, signal, sys
import numcodecs, numpy
from survey_gampen.cluster.worker import leave_no_names

def work():
    if sys.argv[1] == "worker":
        leave_no_names()
    numcodecs.Blosc().encode(numpy.zeros(100))  # makes a lock
    os.kill(os.getpid(), signal.SIGKILL)

if __name__ == "__main__":
    process = multiprocessing.get_context("spawn").Process(target=work)
    process.start()
    process.join()
"""


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["worker", "other"])
def test_a_worker_that_is_killed_leaves_no_lock(kind: str, tmp_path: Path) -> None:
    script = tmp_path / "locks.py"
    script.write_text(LOCKS)
    words = [sys.executable, str(script), kind]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    assert ("leaked semaphore" in done.stderr) == (kind == "other")
