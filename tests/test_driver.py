"""The driver's job script in a real shell; client and batch system are stubs."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

from survey_gampen.cluster import driver
from survey_gampen.cluster.load import load_profile
from survey_gampen.run.layout import RunDir

#: Says what it is asked, and ends with the code that stands in a file of its own.
CLIENT = """#!/bin/bash
echo begun >> {0}/client.log
trap 'echo asked >> {0}/client.log; sleep 1; exit 75' TERM
for i in $(seq $(cat {0}/lasts)); do sleep 0.1 & wait $!; done
exit $(cat {0}/code)
"""


class Driver:
    """A driver's job in a folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, walltime: str) -> None:
        self.folder, self.run = folder, RunDir(folder / "run")
        self.run.job_logs.mkdir(parents=True)
        self.stub("python", CLIENT.format(folder))
        self.stub("sbatch", "#!/bin/sh\necho Submitted batch job 8\n")
        monkeypatch.setattr(driver, "_PAUSE", 1)
        monkeypatch.setattr(driver, "STALE_SECONDS", -9)
        profile = load_profile(f"slurm:walltime={walltime},python={folder / 'python'}")
        text = driver.script(profile, ["catalog.parquet"], self.run)[1]
        self.run.driver_script.write_text(text)

    def stub(self, name: str, text: str) -> None:
        """Put a command into the driver's path."""
        (self.folder / name).write_text(text)
        (self.folder / name).chmod(0o755)

    def begin(self, code: int = 0, lasts: int = 0) -> subprocess.Popen[bytes]:
        """Begin with a client that lasts so many tenths of a second."""
        (self.folder / "code").write_text(str(code))
        (self.folder / "lasts").write_text(str(lasts))
        path = f"{self.folder}:{os.environ['PATH']}"
        environment = {**os.environ, "PATH": path, "SLURM_JOB_ID": "7"}
        return subprocess.Popen(["bash", self.run.driver_script], env=environment)

    def ends(self, code: int = 0, lasts: int = 0) -> int:
        """Run it to its end; return its exit code."""
        return self.begin(code, lasts).wait(timeout=60)

    def asked(self, number: signal.Signals, times: int = 1) -> int:
        """Send it a signal while its client works; return its exit code."""
        job = self.begin(lasts=300)
        end = time.monotonic() + 30
        while not (self.folder / "client.log").exists():
            assert time.monotonic() < end
            time.sleep(0.05)
        time.sleep(0.3)
        for _ in range(times):
            job.send_signal(number)
            time.sleep(0.2)
        return job.wait(timeout=60)

    @property
    def client(self) -> list[str]:
        """What the clients noted."""
        return (self.folder / "client.log").read_text().split()

    @property
    def log(self) -> str:
        """What the drivers noted."""
        return self.run.drivers.read_text()


@pytest.fixture
def job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Driver:
    return Driver(tmp_path, monkeypatch, "01:00:00")


@pytest.mark.parametrize("code", [0, 3])
def test_what_is_done_is_not_submitted_again(job: Driver, code: int) -> None:
    assert job.ends(code) == code
    assert f"job 7 is done, exit code {code}" in job.log
    assert "another job" not in job.log


def test_a_warning_lets_it_go_on_in_another_job(job: Driver) -> None:
    assert job.asked(signal.SIGUSR1, times=3) == 75
    assert "job 7 goes on in another job: Submitted batch job 8" in job.log
    assert job.client == ["begun", "asked"]  # once: asked again, it would drop all


def test_so_does_the_clock_where_nobody_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = Driver(tmp_path, monkeypatch, "00:00:04")
    assert job.ends(lasts=300) == 75
    assert "goes on in another job" in job.log


def test_who_cancels_it_means_it(job: Driver) -> None:
    assert job.asked(signal.SIGTERM) == 75
    assert "was cancelled" in job.log
    assert "another job" not in job.log
    assert job.client == ["begun", "asked"]


@pytest.mark.parametrize("code", [75, 137])
def test_a_cause_outside_the_data_is_tried_three_times(job: Driver, code: int) -> None:
    """137: the client was killed for its memory, say."""
    for _ in range(2):
        assert job.ends(code) == 75
    assert job.log.count("goes on in another job") == 2
    assert job.ends(code) == 75
    assert job.log.count("goes on in another job") == 2
    assert "3 times" in job.log
    assert job.ends(code) == 75  # somebody has mended it and submits the same again
    assert job.log.count("goes on in another job") == 3


def test_a_claim_of_the_job_before_may_still_look_alive(job: Driver) -> None:
    """Exit code 2 in the first job is told at once; later it may pass by itself."""
    assert job.ends(2) == 2
    assert job.client == ["begun"]
    assert job.ends(2) == 2
    assert job.client == ["begun"] * 3
    assert "tries again in 1 s" in job.log


def test_a_submission_that_is_refused_is_tried_again(job: Driver) -> None:
    job.stub(
        "sbatch", f"#!/bin/sh\necho x >> {job.folder}/n\n[ $(wc -l < {job.folder}/n) -gt 2 ]\n"
    )
    assert job.ends(75) == 75
    assert job.log.count("could not be submitted") == 2
    assert "goes on in another job" in job.log
    job.stub("sbatch", "#!/bin/sh\necho no such partition; exit 1\n")
    assert job.ends(75) == 75
    assert "could not be submitted: no such partition" in job.log
    assert "gives up: submit the same again" in job.log
