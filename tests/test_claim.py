"""One client a run: refused while the first lives, taken over once when it is gone."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from survey_gampen.errors import InputError, Interrupted
from survey_gampen.run.claim import Claim, holder_of
from survey_gampen.run.claimfile import myself
from survey_gampen.run.layout import RunDir


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    return RunDir(tmp_path)


def left_behind(run: RunDir, **changes: object) -> Path:
    """The claim of a client that did not say goodbye."""
    run.claims.mkdir(exist_ok=True)
    path = run.claims / "000001.json"
    path.write_text(json.dumps(asdict(replace(myself(), **changes))))
    return path


def test_a_second_client_is_refused_and_told_who_is_first(run: RunDir) -> None:
    with Claim(run), pytest.raises(InputError, match=f"pid {os.getpid()} on ") as refusal:
        Claim(run).__enter__()
    assert refusal.value.exit_code == 2


def test_after_the_end_the_next_begins(run: RunDir) -> None:
    for number in range(1, 6):
        with Claim(run) as claim:
            assert claim.token == f"{number:06d}"
    assert holder_of(run) is None
    assert len(list(run.claims.iterdir())) == 2  # old ones do not pile up


def test_a_dead_process_is_followed(run: RunDir) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    left_behind(run, pid=gone.pid, started="1")
    assert holder_of(run) is None
    with Claim(run) as claim:
        assert claim.token == "000002"


def test_a_pid_given_again_is_another_process(run: RunDir) -> None:
    left_behind(run, started="1")  # this pid lives, but did not start then
    with Claim(run):
        pass


@pytest.mark.parametrize(("age", "taken"), [(30, False), (90, True)])
def test_elsewhere_the_heartbeat_decides(run: RunDir, age: int, taken: bool) -> None:
    path = left_behind(run, host="node7", job="4711")
    now = path.stat().st_mtime
    os.utime(path, (now - age, now - age))
    if taken:
        with Claim(run):
            pass
    else:
        with pytest.raises(InputError, match="on node7, job 4711"):
            Claim(run).__enter__()


def test_of_many_who_take_over_one_wins(run: RunDir) -> None:
    left_behind(run, started="1")
    won, refused = [], []
    start = threading.Barrier(8)

    def take() -> None:
        start.wait()
        claim = Claim(run)
        try:
            won.append(claim.__enter__())
        except InputError:
            refused.append(claim)

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (len(won), len(refused)) == (1, 7)
    won[0].__exit__(None, None, None)


def test_who_slept_too_long_finds_out_and_leaves_the_follower_alone(run: RunDir) -> None:
    with Claim(run, beat=0.02) as claim:
        claim.check()
        follower = json.dumps(asdict(replace(myself(), host="node7")))
        (run.claims / "000002.json").write_text(follower)
        assert claim.lost.wait(5)
        with pytest.raises(Interrupted, match="taken over"):
            claim.check()
    assert (run.claims / "000002.json").read_text() == follower
    assert holder_of(run) is not None


def test_a_worker_of_a_dead_client_can_stage_nothing(run: RunDir) -> None:
    with Claim(run) as first:
        corner = run.staging(first.token)
        (corner / "half-written").mkdir()
    corner.mkdir(exist_ok=True)  # as a worker of the first client would
    (corner / "half-written").mkdir(exist_ok=True)
    with Claim(run) as second:
        assert corner.is_file()
        with pytest.raises(OSError, match="Not a directory|File exists"):
            (corner / "half-written").mkdir(parents=True, exist_ok=True)
        assert run.staging(second.token).is_dir()
