"""Certificates as files: who may look, and what is left of clients that were killed."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

from survey_gampen.cluster.certificates import on_disk


def name_of(first: Path, pid: int, host: str = socket.gethostname()) -> str:
    """What the folder of another client of the same run would be called."""
    prefix = first.name.partition(f"{socket.gethostname()}-")[0]
    return f"{prefix}{host}-{pid}-abcdef"


def test_they_are_the_owners_alone_and_go(tmp_path: Path) -> None:
    with on_disk(tmp_path / "shared", owner=tmp_path) as security:
        place = Path(security.tls_ca_file).parent
        assert place.stat().st_mode & 0o777 == 0o700
        assert {path.stat().st_mode & 0o777 for path in place.iterdir()} == {0o600}
    assert not place.exists()


def test_those_of_the_dead_go_and_those_of_the_living_stay(tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    with on_disk(shared, owner=tmp_path) as security:
        first = Path(security.tls_ca_file).parent
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as other:
        gone = subprocess.Popen([sys.executable, "-c", ""])
        gone.wait()
        living = shared / name_of(first, other.pid)
        dead = [
            shared / name_of(first, gone.pid),
            shared / name_of(first, other.pid, host="another-host"),
            shared / name_of(first, os.getpid()),
        ]
        stranger = shared / "tls-of-another-run"
        for folder in (living, stranger, *dead):
            folder.mkdir()
        with on_disk(shared, owner=tmp_path):
            assert living.exists()
            assert stranger.exists()
            assert not any(folder.exists() for folder in dead)
        other.kill()
    with on_disk(shared, owner=tmp_path):
        assert not living.exists()
