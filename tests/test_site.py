"""What a site has written into dask's own jobqueue.yaml, and what a profile sets before it."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest
from jobscripts import job_script

from survey_gampen.cli import main
from survey_gampen.cluster.driver import script
from survey_gampen.cluster.load import load_profile
from survey_gampen.errors import InputError
from survey_gampen.run.layout import RunDir


def test_what_a_site_has_set_is_honoured_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    site = {
        "queue": "site-queue",
        "cores": 16,
        "memory": "64 GiB",
        "walltime": "10:00:00",
        "job-script-prologue": ["module load site"],
    }
    with dask.config.set({"jobqueue.slurm": {**dask.config.get("jobqueue.slurm"), **site}}):
        profile = load_profile("slurm")
        assert (profile.threads, profile.memory) == (16, 64 * 2**30)
        assert profile.walltime == 36000
        text = job_script(profile)
        assert "#SBATCH -p site-queue" in text
        assert "module load site" in text
        own = load_profile("slurm:queue=own,threads=2")
        assert "#SBATCH -p own" in job_script(own)
        assert own.threads == 2
        assert main(["cluster", "show", "slurm"]) == 0
    assert "from the site's jobqueue.yaml: queue: site-queue" in capsys.readouterr().out


@contextlib.contextmanager
def site(kind: str, **keys: Any) -> Iterator[None]:
    """A site that has set something in dask's own configuration; _ is as good as - there."""
    with dask.config.set({f"jobqueue.{kind}": {**dask.config.get(f"jobqueue.{kind}"), **keys}}):
        yield


def shown(spec: str, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The site's keys that `cluster show` lists."""
    assert main(["cluster", "show", spec]) == 0
    return re.findall("# from the site's jobqueue.yaml: ([a-z-]+):", capsys.readouterr().out)


@pytest.mark.parametrize("dash", ["-", "_"])
def test_older_names_and_other_spellings_of_a_site(
    tmp_path: Path, dash: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are in the script also where the profile has directives of its own."""
    path = tmp_path / "own.yaml"
    path.write_text('kind: pbs\ndirectives: ["-q own"]\nskip_directives: [" -N"]\n')
    keys = {
        f"env{dash}extra": "module load site",  # as an environment variable gives it
        f"job{dash}extra": ["-M me@site.org"],
        f"header{dash}skip": ["walltime"],
        f"resource{dash}spec": "select=1:ncpus=9",
        "project": "theirs",
    }
    with site("pbs", **keys):
        profile = load_profile(path)
        text = job_script(profile)
        names = shown(str(path), capsys)
    lines = text.splitlines()
    for line in ("module load site", "#PBS -M me@site.org", "#PBS -l select=1:ncpus=9"):
        assert line in lines
    assert {"#PBS -q own", "#PBS -A theirs"} <= set(lines)
    assert "walltime=" not in text
    assert " -N" not in text
    assert sorted(names) == [
        "account",
        "job-directives-skip",
        "job-extra-directives",
        "job-script-prologue",
        "resource-spec",
    ]


def test_a_site_may_use_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DASK_JOBQUEUE__PBS__RESOURCE_SPEC", "select=1:ncpus=9")
    found = dask.config.collect_env()["jobqueue"]["pbs"]
    with site("pbs", **found):
        assert "#PBS -l select=1:ncpus=9" in job_script(load_profile("pbs"))


@pytest.mark.parametrize("own", ["threads=8", "gpus=1", "memory=64GiB", "resource_spec=select=2"])
def test_what_a_profile_sets_goes_before_the_sites_resources(
    own: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with site("pbs", **{"resource-spec": "select=1:ncpus=9"}):
        text = job_script(load_profile(f"pbs:{own}"))
        assert shown(f"pbs:{own}", capsys) == []
    assert "ncpus=9" not in text
    wanted = {
        "threads=8": "select=1:ncpus=8:mem=16384mb",
        "gpus=1": "select=1:ncpus=4:mem=16384mb:ngpus=1",
        "memory=64GiB": "select=1:ncpus=4:mem=65536mb",
        "resource_spec=select=2": "select=2",
    }
    assert f"#PBS -l {wanted[own]}" in text.splitlines()


def test_memory_and_cores_of_a_sites_jobs(capsys: pytest.CaptureFixture[str]) -> None:
    """The same number stands beside the workers' own limit."""
    with site("slurm", job_mem="10G", **{"job-cpu": 9}):
        auto = job_script(load_profile("slurm"))
        set_here = job_script(load_profile("slurm:memory=64GiB,threads=8"))
        assert shown("slurm:memory=64GiB", capsys) == ["job-cpu"]
    assert "#SBATCH --mem=10G" in auto
    assert "#SBATCH --cpus-per-task=9" in auto
    assert "#SBATCH --mem=64G" in set_here
    assert "#SBATCH --cpus-per-task=8" in set_here
    assert "--memory-limit 64.00GiB" in set_here
    with site("lsf", ncpus=9, mem=10**9, **{"lsf-units": "mb"}):
        text = job_script(load_profile("lsf:memory=2GB,threads=8"))
    assert "#BSUB -n 8" in text
    assert "#BSUB -M 2001" in text  # of whole MiB


def test_the_driver_has_not_the_resources_of_a_sites_workers(tmp_path: Path) -> None:
    with site("pbs", **{"resource-spec": "select=1:ncpus=9"}):
        text = script(load_profile("pbs"), [], RunDir(tmp_path))[1]
    assert "#PBS -l select=1:ncpus=1:mem=4096mb" in text
    with site("slurm", **{"job-mem": "90G", "job-cpu": 9}):
        text = script(load_profile("slurm"), [], RunDir(tmp_path))[1]
    assert "#SBATCH --mem=4G" in text
    assert "#SBATCH --cpus-per-task=1" in text


def test_only_keys_that_are_used_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    unused = {"name": "theirs", "worker-extra-args": ["--no-bokeh"], "death-timeout": 9}
    unused |= {"log-directory": str(tmp_path / "logs"), "worker-command": "other.command"}
    with site("slurm", queue="site", **unused):
        assert shown("slurm", capsys) == ["queue"]
        assert shown("slurm:queue=own", capsys) == []
        text = job_script(load_profile("slurm"))
    for word in ("theirs", "--no-bokeh", "other.command", str(tmp_path)):
        assert word not in text
    assert not (tmp_path / "logs").exists()


@pytest.mark.parametrize(
    ("kind", "asked", "line"),
    [
        ("pbs", "ngpus={gpus}:gpu_model=a100", ":mem=16384mb:ngpus=1:gpu_model=a100"),
        ("moab", "gpus={gpus}:exclusive", "nodes=1:ppn=4:gpus=1:exclusive,mem=16384mb"),
        ("oar", "gpu_model=a100/gpu={gpus}", "/nodes=1/gpu_model=a100/gpu=1"),
    ],
)
def test_a_site_has_words_of_its_own_for_gpus(kind: str, asked: str, line: str) -> None:
    """Where cores, memory and GPUs are one request, they stand in it."""
    text = job_script(load_profile(f"{kind}:gpus=1,gpu_request={asked}"))
    assert line in text


def test_what_a_site_adds_stands_beside_what_we_add(tmp_path: Path) -> None:
    site = {
        "job-extra-directives": ["-M me@site.org"],
        "job-directives-skip": ["-l walltime"],
        "interface": "ib0",
        "python": "/site/python",
    }
    with dask.config.set({"jobqueue.pbs": {**dask.config.get("jobqueue.pbs"), **site}}):
        profile = load_profile("pbs")
        text = job_script(profile)
        drivers = script(profile, [], RunDir(tmp_path))[1]
    assert profile.interface == "ib0"
    for words in ("#PBS -M me@site.org", "#PBS -S /bin/bash", "/site/python", "--interface ib0"):
        assert words in text
    assert "walltime=" not in text
    assert "/site/python -m survey_gampen.cli run" in drivers


def test_a_walltime_of_the_site_that_is_none_is_named() -> None:
    with (
        dask.config.set({"jobqueue.slurm.walltime": 43200}),
        pytest.raises(InputError, match=r"walltime of your jobqueue.yaml must be HH:MM:SS"),
    ):
        load_profile("slurm")
