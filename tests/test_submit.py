"""`submit`: what is looked at before a job is submitted, and what is left behind."""

from __future__ import annotations

from pathlib import Path

import pytest
from smallrun import Sky

from survey_gampen.cli import main


@pytest.fixture
def sbatch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A batch system that takes all; returns what it was given."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "sbatch").write_text(
        f'#!/bin/sh\ncp "$1" {tmp_path}/given\necho Submitted batch job 12\n'
    )
    (folder / "sbatch").chmod(0o755)
    monkeypatch.setenv("PATH", str(folder), prepend=":")
    return tmp_path / "given"


def submit(sky: Sky, out: Path, *more: str, cluster: str = "slurm") -> int:
    words = sky.command(out, "--cluster", f"{cluster}:interface=lo", *more)[3:]
    return main(["submit", *words[1:]])


def test_a_driver_is_submitted(
    sky: Sky, sbatch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    assert submit(sky, out) == 0
    assert "job 12 runs it" in capsys.readouterr().out
    assert sbatch.read_text() == (out / ".cluster" / "driver.sh").read_text()
    assert main(["status", str(out)]) == 0
    said = capsys.readouterr().out
    assert f"{out}: submitted" in said
    assert "job 12 submitted" in said
    assert submit(sky, out) == 0  # nothing has begun: it may be submitted again


def test_what_cannot_be_used_is_told_now_and_not_by_the_job(
    sky: Sky, sbatch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    out = tmp_path / "run"
    assert submit(sky, out, "--images", str(tmp_path / "empty")) == 2
    assert "no FITS files" in capsys.readouterr().err
    assert not sbatch.exists()
    assert not out.exists()


def test_a_batch_system_that_refuses_leaves_nothing(
    sky: Sky, sbatch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bin" / "sbatch").write_text("#!/bin/sh\necho Invalid account >&2; exit 1\n")
    out = tmp_path / "run"
    assert submit(sky, out) == 2
    assert "slurm refuses the driver (Invalid account)" in capsys.readouterr().err
    assert not out.exists()


@pytest.mark.parametrize("cluster", ["lsf", "local"])
def test_where_jobs_cannot_be_submitted(
    sky: Sky, tmp_path: Path, cluster: str, capsys: pytest.CaptureFixture[str]
) -> None:
    words = sky.command(tmp_path / "run", "--cluster", cluster)[3:]
    assert main(["submit", *words[1:]]) == 2
    said = capsys.readouterr().err
    assert "there is no bsub on this machine" in said or "a driver can't be submitted" in said
    assert not (tmp_path / "run").exists()


def test_a_path_that_no_job_script_can_name(
    sky: Sky, sbatch: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert submit(sky, tmp_path / "my run") == 2
    assert "for the space or quote in it" in capsys.readouterr().err
