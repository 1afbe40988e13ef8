"""Simulation, training and calibration on a real Slurm."""

from __future__ import annotations

import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import tomli_w
from slurmdev import Client, Slurm, until
from smallrun import verb
from smallsim import make_init, small_population

from survey_gampen.training.parts import PartsSet
from survey_gampen.training.recipe import load_recipe

pytestmark = pytest.mark.slurm


def test_the_science_side_goes_by_the_same_layer(slurm: Slurm, tmp_path: Path) -> None:
    """simulate, train on two ranks as two jobs (one of them killed), calibrate with two rates."""
    population = small_population(tmp_path, magnitude=[16.0, 20.0])
    profile, name = slurm.profile(tmp_path, workers=2, memory="3 GiB")
    where = ("--cluster", profile)
    parts = tmp_path / "parts"
    done = verb("simulate", population, "--n", "200", "--parts", "--out", parts, *where)
    assert done.returncode == 0, done.stderr
    init = make_init(tmp_path / "init.safetensors", PartsSet(parts))
    recipe = tmp_path / "small.toml"
    changes = {"batch": 16, "validation": 40, "passes": 4, "guide": 0.0, "shift": 0}
    recipe.write_text(tomli_w.dumps(load_recipe("survey", epochs=6, **changes)))

    out = tmp_path / "trained"
    words = [sys.executable, "-m", "survey_gampen.cli", "train", recipe, "--data", parts]
    words += ["--out", out, "--init", init, "--ranks", "2", *where]
    client = Client(slurm, [str(word) for word in words], out, name)
    until(lambda: (out / "history.parquet").exists() or client.process.poll() is not None)
    jobs = slurm.jobs(name, "RUNNING")
    assert len(jobs) == 2
    for process in slurm.processes(jobs[1]):
        process.kill()
    told = client.process.communicate(timeout=900)[0]
    assert client.process.returncode == 0, told
    assert "all ranks begin again after the last epoch" in told
    assert pq.read_table(out / "history.parquet")["epoch"].to_pylist() == [1, 2, 3, 4, 5, 6]

    rates = ("--rates", "0.001", "0.01", "--epochs", "1", "--init", init)
    done = verb("calibrate", recipe, "--data", parts, "--out", tmp_path / "rates", *rates, *where)
    assert done.returncode == 0, done.stderr
    assert len(pq.read_table(tmp_path / "rates" / "calibration.parquet")) == 2
    assert not slurm.jobs(name)
