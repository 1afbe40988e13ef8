"""Who is given what on a real Slurm: GPUs, and workers that only cut."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from slurmdev import Client, Slurm
from smallrun import Sky, call, rows

pytestmark = pytest.mark.slurm


def test_each_worker_has_a_gpu_of_its_own(slurm: Slurm, sky: Sky, tmp_path: Path) -> None:
    """GPUs here are pretended: Slurm gives them out, and nobody computes on them."""
    out = tmp_path / "run"
    keys = {"gpus": 1, "cuda": "false", "directives": '["--nodelist=node1"]', "workers": 2}
    profile, name = slurm.profile(tmp_path, **keys)
    # So many passes that one worker is not through before the other has started.
    words = sky.command(out, "--cluster", str(profile), "--passes", "200", rows=1)
    client = Client(slurm, words, out, name)
    seen = {}
    while client.process.poll() is None and len(seen) < 2:
        for job in slurm.jobs(name, "RUNNING"):
            for process in slurm.processes(job):
                seen[job] = process.environ().get("CUDA_VISIBLE_DEVICES")
        time.sleep(0.2)
    told = client.process.communicate(timeout=600)[0]
    assert client.process.returncode == 0, told
    assert sorted(seen.values()) == ["0", "1"]  # two jobs on one node


def test_a_gpu_that_another_worker_holds(slurm: Slurm, sky: Sky, tmp_path: Path) -> None:
    """Two workers of one job that both believe in GPU 0: one of them leaves, and says why."""
    prologue = '["export CUDA_VISIBLE_DEVICES=0,0"]'
    keys = {"workers": 2, "processes": 2, "gpus": 1, "cuda": "false", "prologue": prologue}
    profile, _ = slurm.profile(tmp_path, gpu_request='"--gres=gpu:1"', **keys)
    done = call(sky.command(tmp_path / "run", "--cluster", str(profile)), timeout=600)
    assert done.returncode == 0, done.stderr
    assert "another worker holds GPU node" in done.stderr + done.stdout


def test_a_promised_gpu_that_is_not_there(slurm: Slurm, sky: Sky, tmp_path: Path) -> None:
    """Pretended GPUs can't compute: where the profile wants real ones, the workers leave."""
    profile, name = slurm.profile(tmp_path, gpus=1, workers=1)
    done = call(sky.command(tmp_path / "run", "--cluster", str(profile)), timeout=600)
    assert done.returncode == 75
    assert "torch can't use it" in done.stderr
    assert not slurm.jobs(name)


def test_cutters_and_inferrers_are_jobs_apart(
    slurm: Slurm, sky: Sky, calm: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    cutters = "{workers: 1, threads: 1, memory: 1 GiB}"
    profile, _ = slurm.profile(tmp_path, workers=1, gpus=1, cuda="false", cutters=cutters)
    done = call(sky.command(out, "--cluster", str(profile)), timeout=600)
    assert done.returncode == 0, done.stderr
    lines = (out / "attempts.log").read_text().splitlines()
    done_by = [line.split() for line in lines if " done on " in line]
    cut, infer = ({w[7] for w in done_by if w[2] == stage} for stage in ("cut", "infer"))
    assert len(cut) == len(infer) == 1
    assert cut != infer
    assert rows(out).num_rows == rows(calm).num_rows
