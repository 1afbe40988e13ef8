"""One GPU, one worker: who is given what, and who is sent away."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from survey_gampen.cluster import gpu
from survey_gampen.errors import UnfitWorker


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(gpu, "_LOCKS", tmp_path)
    monkeypatch.setattr(gpu, "_held", [])
    monkeypatch.setenv("SLURMD_NODENAME", "node1")
    return tmp_path


def test_each_worker_of_a_job_takes_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert gpu.hold_gpu(place=1, cuda=False) == "node1-5"
    assert gpu.visible() == ["5"]


@pytest.mark.parametrize("shown", ["", "0"])
def test_who_sees_none_leaves(shown: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", shown)
    with pytest.raises(UnfitWorker, match=r"promised a GPU, and sees (none|1)"):
        gpu.hold_gpu(place=1, cuda=False)


def test_two_workers_with_one_gpu(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The second is refused, and may have it once the first is gone, however it went."""
    hold = (
        "import os, sys; from pathlib import Path; from survey_gampen.cluster import gpu;"
        f"gpu._LOCKS = Path({str(locks)!r}); os.environ['CUDA_VISIBLE_DEVICES'] = '0';"
        "gpu.hold_gpu(cuda=False); print('held', flush=True); sys.stdin.read()"
    )
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-c", hold], text=True, **pipes) as other:  # type: ignore[call-overload]
        assert other.stdout.readline() == "held\n"
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
        with pytest.raises(UnfitWorker, match="another worker holds GPU node1-0"):
            gpu.hold_gpu(cuda=False)
        monkeypatch.setenv("SLURMD_NODENAME", "node2")  # another machine
        assert gpu.hold_gpu(cuda=False) == "node2-0"
        other.kill()
        other.wait()
    monkeypatch.setenv("SLURMD_NODENAME", "node1")
    assert gpu.hold_gpu(cuda=False) == "node1-0"


def test_a_strict_umask_shuts_nobody_out(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who comes next, perhaps another user, must be able to see whether it is held."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    before = os.umask(0o077)
    try:
        gpu.hold_gpu(cuda=False)
    finally:
        os.umask(before)
    (lock,) = locks.iterdir()
    assert lock.stat().st_mode & 0o777 == 0o644


def test_who_cannot_look_leaves(locks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    monkeypatch.setattr(gpu, "_LOCKS", locks / "gone")
    with pytest.raises(UnfitWorker, match="it can't see who holds GPU node1-0: .*No such file"):
        gpu.hold_gpu(cuda=False)
