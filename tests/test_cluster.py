"""Cluster profiles: what they say, and what is said when they are wrong."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from survey_gampen.cluster import MOST_THREADS, cores, load_profile
from survey_gampen.errors import InputError
from survey_gampen.paths import data_dir


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
        ("kind: local\nwokers: 3", "unknown key 'wokers'"),
        ("kind: moon", "kind 'moon' is not known"),
        ("workers: many", "workers must be a whole number of at least 1, or auto"),
        ("workers: 0", "workers must be"),
        ("memory: a lot", "own.yaml"),
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
