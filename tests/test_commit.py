"""A file is published whole and exactly once, or not at all."""

from __future__ import annotations

import errno
import os
import pickle
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from survey_gampen import commit
from survey_gampen.errors import OutsideFault, UnreadableFile
from survey_gampen.outside import outside_fault

#: A publisher as a program: writes SIZE bytes of one letter in pieces, so that it can be killed.
PUBLISHER = """
import sys
from pathlib import Path
from survey_gampen import commit
final, staging, letter, size = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4])
def write(path):
    with path.open("wb") as stream:
        for _ in range(size // 4096):
            stream.write(letter.encode() * 4096)
            stream.flush()
def check(path):
    if path.read_bytes() != letter.encode() * size:
        raise ValueError("other bytes")
print("ready", flush=True)
sys.stdin.readline()
print(commit.publish(final, write, check, staging), flush=True)
"""


def start_publisher(final: Path, staging: Path, letter: str, size: int) -> subprocess.Popen[str]:
    """A publisher that is ready and waits for a line on its standard input."""
    process = subprocess.Popen(
        [sys.executable, "-c", PUBLISHER, str(final), str(staging), letter, str(size)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    return process


def go(process: subprocess.Popen[str]) -> None:
    assert process.stdin
    process.stdin.write("\n")
    process.stdin.flush()


def write_text(text: str) -> commit.Writer:
    return lambda path: path.write_text(text) and None


def no_check(path: Path) -> None:
    """Accepts anything."""


def left_in(staging: Path) -> list[Path]:
    return list(staging.iterdir()) if staging.exists() else []


def test_the_first_publisher_wins(tmp_path: Path) -> None:
    final, staging = tmp_path / "deep" / "down" / "leaf", tmp_path / "staging"
    assert commit.publish(final, write_text("one"), no_check, staging)
    assert not commit.publish(final, write_text("two"), no_check, staging)
    assert final.read_text() == "one"
    assert left_in(staging) == []


def test_one_that_wins_while_another_writes(tmp_path: Path) -> None:
    final, staging = tmp_path / "leaf", tmp_path / "staging"

    def slow(path: Path) -> None:
        path.write_text("slow")
        assert commit.publish(final, write_text("quick"), no_check, staging)

    assert not commit.publish(final, slow, no_check, staging)
    assert final.read_text() == "quick"
    assert left_in(staging) == []


def test_the_link_that_was_made_and_denied(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Over NFS the answer to a link may be lost and the repeated request finds the name taken."""
    real = os.link

    def link(source: Path, target: Path) -> None:
        real(source, target)
        raise FileExistsError(errno.EEXIST, "exists")

    monkeypatch.setattr(os, "link", link)
    assert commit.publish(tmp_path / "leaf", write_text("x"), no_check, tmp_path / "staging")


def test_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "no hard links here")

    monkeypatch.setattr(os, "link", link)
    final, staging = tmp_path / "leaf", tmp_path / "staging"
    assert commit.publish(final, write_text("one"), no_check, staging)
    staged = staging / "late"
    staged.write_text("two")
    assert not commit._link(staged, final)
    assert final.read_text() == "one"


def test_two_processes_race(tmp_path: Path) -> None:
    size = 1 << 20
    for turn in range(4):
        final, staging = tmp_path / f"leaf{turn}", tmp_path / "staging"
        racers = [start_publisher(final, staging, letter, size) for letter in "ab"]
        for racer in racers:
            go(racer)
        answers = [racer.communicate(timeout=30)[0].strip() for racer in racers]
        assert sorted(answers) == ["False", "True"]
        assert final.read_text() == "ab"[answers.index("True")] * size
    assert left_in(staging) == []


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """kill -9 leaves the whole file or none; the next publisher finishes."""
    size = 4 << 20
    rng = random.Random(5)
    staging = tmp_path / "staging"
    for turn in range(6):
        final = tmp_path / f"leaf{turn}"
        victim = start_publisher(final, staging, "v", size)
        go(victim)
        time.sleep(rng.uniform(0.0, 0.03))
        victim.send_signal(signal.SIGKILL)
        victim.communicate(timeout=30)
        if final.exists():
            assert final.read_text() == "v" * size
        else:
            assert commit.publish(final, write_text("next"), no_check, staging)


def test_what_does_not_read_back_is_not_published(tmp_path: Path) -> None:
    def check(path: Path) -> None:
        raise ValueError("3 rows instead of 4")

    final, staging = tmp_path / "leaf", tmp_path / "staging"
    with pytest.raises(OutsideFault, match=r"leaf: .*does not read back \(3 rows instead of 4\)"):
        commit.publish(final, write_text("x"), check, staging)
    assert not final.exists()
    assert left_in(staging) == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE])
def test_faults_of_the_machine(tmp_path: Path, code: int) -> None:
    def write(path: Path) -> None:
        path.write_text("half")
        try:
            raise OSError(code, os.strerror(code))
        except OSError as error:
            raise RuntimeError("a library's own words") from error

    for publish in (
        lambda final: commit.publish(final, write, no_check, tmp_path / "staging"),
        lambda final: commit.publish_dir(final, write, tmp_path / "staging"),
        lambda final: commit.replace(final, write, tmp_path / "staging"),
    ):
        with pytest.raises(OutsideFault, match="run the same command again") as caught:
            publish(tmp_path / "leaf")
        assert "\n" not in str(caught.value)
        assert pickle.loads(pickle.dumps(caught.value)).args == caught.value.args
    assert not (tmp_path / "leaf").exists()
    assert left_in(tmp_path / "staging") == []


def test_other_errors_stay_themselves(tmp_path: Path) -> None:
    assert outside_fault(ValueError("no")) is None
    assert outside_fault(FileNotFoundError(errno.ENOENT, "gone")) is None

    def write(path: Path) -> None:
        raise UnreadableFile("tile.fits")

    with pytest.raises(UnreadableFile):
        commit.publish(tmp_path / "leaf", write, no_check, tmp_path / "staging")
    assert left_in(tmp_path / "staging") == []


def test_a_full_disk(small_disk: Path) -> None:
    """On a real file system of 1 MiB."""

    def too_much(path: Path) -> None:
        path.write_bytes(bytes(4 << 20))

    staging = small_disk / ".staging"
    with pytest.raises(OutsideFault, match="No space left on device"):
        commit.publish(small_disk / "leaf", too_much, no_check, staging)
    assert not (small_disk / "leaf").exists()
    assert left_in(staging) == []
    assert commit.publish(small_disk / "leaf", write_text("small"), no_check, staging)


def test_a_folder_appears_whole_and_once(tmp_path: Path) -> None:
    final, staging = tmp_path / "cutouts" / "o5-p1.zarr", tmp_path / "staging"

    def write(path: Path) -> None:
        (path / "c").mkdir(parents=True)
        (path / "c" / "0").write_text("shard")
        assert not final.exists()

    assert commit.publish_dir(final, write, staging)
    assert not commit.publish_dir(final, write, staging)
    assert (final / "c" / "0").read_text() == "shard"
    assert left_in(staging) == []


def test_two_folders_of_one_name(tmp_path: Path) -> None:
    final, staging = tmp_path / "group", tmp_path / "staging"

    def quick(path: Path) -> None:
        path.mkdir()
        (path / "who").write_text("quick")

    def slow(path: Path) -> None:
        path.mkdir()
        (path / "who").write_text("slow")
        assert commit.publish_dir(final, quick, staging)

    assert not commit.publish_dir(final, slow, staging)
    assert (final / "who").read_text() == "quick"
    assert left_in(staging) == []


def test_replace_keeps_the_old_file_when_it_fails(tmp_path: Path) -> None:
    final, staging = tmp_path / "index", tmp_path / "staging"
    commit.replace(final, write_text("old"), staging)

    def broken(path: Path) -> None:
        path.write_text("half")
        raise KeyError("broken")

    with pytest.raises(KeyError):
        commit.replace(final, broken, staging)
    assert final.read_text() == "old"
    commit.replace(final, write_text("new"), staging)
    assert final.read_text() == "new"
    assert left_in(staging) == []
