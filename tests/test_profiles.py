"""Profiles of batch systems: what is asked for, in whose words, and what a site has set itself."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dask
import pytest

from survey_gampen.cli import main
from survey_gampen.cluster import load as profiles
from survey_gampen.cluster.certificates import check_path, on_disk
from survey_gampen.cluster.driver import check, script
from survey_gampen.cluster.jobs import make_job, resources
from survey_gampen.cluster.load import known, load_profile
from survey_gampen.cluster.profile import BATCH, Profile
from survey_gampen.errors import InputError
from survey_gampen.run.layout import RunDir


def job_script(profile: Profile) -> str:
    assert profile.batch
    ask = profile.batch.ask
    text: str = make_job(profile, ask, resources(ask, cuts=True)).job_script()
    return text


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A user's folder of profiles."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    folder = tmp_path / "survey-gampen" / "cluster"
    folder.mkdir(parents=True)
    return folder


def test_single_keys_are_set_beside_the_name() -> None:
    profile = load_profile("slurm-gpu:account=abc,walltime=04:00:00,workers=8,memory=32 GiB")
    assert profile.batch
    ask = profile.batch.ask
    assert (ask.account, ask.walltime, ask.workers, ask.gpus) == ("abc", 4 * 3600, 8, 1)
    assert profile.memory == 32 * 2**30
    with pytest.raises(InputError, match="did you mean 'account'"):
        load_profile("slurm:acount=abc")
    with pytest.raises(InputError, match="sets no key"):
        load_profile("slurm:abc")


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("12:00:00", 43200), ("04:00:00", 14400), ("1-02:30:00", 95400), ("00:30", 1800)],
)
def test_times_are_what_they_look_like(tmp_path: Path, text: str, seconds: int) -> None:
    """In YAML 1.1 twelve o'clock is a number to the base of sixty, and four o'clock is none."""
    path = tmp_path / "own.yaml"
    path.write_text(f"kind: slurm\nwalltime: {text}\n")
    assert load_profile(path).walltime == seconds
    assert load_profile(f"slurm:walltime={text}").walltime == seconds


@pytest.mark.parametrize("text", ["90", "two hours", "12:00:00:00"])
def test_other_times_are_refused(text: str) -> None:
    with pytest.raises(InputError, match="walltime must be HH:MM:SS"):
        load_profile(f"slurm:walltime={text}")


def test_own_profiles_go_before_shipped_ones(home: Path) -> None:
    (home / "slurm.yaml").write_text("kind: slurm\nqueue: mine\n")
    (home / "ours.yaml").write_text("kind: pbs\n")
    assert load_profile("slurm").batch.ask.queue == "mine"  # type: ignore[union-attr]
    assert load_profile("ours").kind == "pbs"
    assert known()["ours"].parent == home


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


@pytest.mark.parametrize("kind", BATCH)
def test_threads_of_a_worker_are_said_once(kind: str) -> None:
    text = job_script(load_profile(f"{kind}:threads=8,processes=2"))
    assert re.findall(r"--nthreads (\d+)", text) == ["2"]


def test_minutes_of_lsf_are_rounded_up() -> None:
    """Workers are told what LSF gives, not less and not more."""
    profile = load_profile("lsf:walltime=00:10:59")
    text = job_script(profile)
    assert "#BSUB -W 00:11" in text
    assert "SURVEY_GAMPEN_WALLTIME=660" in text
    assert profile.walltime == 660


@pytest.mark.parametrize("letter", [*"()&;|<>*#%'$`\\\" ~\n"])
def test_letters_that_job_scripts_do_not_take(letter: str) -> None:
    with pytest.raises(InputError, match="give an --out without"):
        check_path(Path(f"/out{letter}/run"))


def test_paths_that_job_scripts_take() -> None:
    check_path(Path("/scratch/a_b-c.d/user@site/x+y=z,1:2/Galaxien-für-später"))


def test_a_path_is_refused_by_where_it_comes_from(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(InputError, match="for the & in it: give the profile's `shared`"):
        on_disk(tmp_path / "a&b", owner=tmp_path / "run").__enter__()
    here = tmp_path / "a(b"
    here.mkdir()
    monkeypatch.chdir(here)
    assert main(["cluster", "check", "slurm:interface=lo"]) == 2
    assert "for the ( in it: it is the current folder" in capsys.readouterr().err
    assert list(here.iterdir()) == []


def test_a_kind_is_not_set_beside_a_name() -> None:
    with pytest.raises(InputError, match="kind can't be set beside a name, for slurm is of kind"):
        load_profile("slurm:kind=pbs")


#: What the systems' own documentation asks a job with 4 cores, 16 GiB, a GPU and two hours to say.
WORDS = {
    # https://slurm.schedmd.com/sbatch.html
    "slurm": [
        "#SBATCH -A abc",
        "#SBATCH --cpus-per-task=4",
        "#SBATCH --mem=16G",
        "#SBATCH -t 02:00:00",
        "#SBATCH --gres=gpu:1",
    ],
    # PBS Professional 2022.1 user's guide, sections 2.2 and 4.3
    "pbs": [
        "#PBS -A abc",
        "#PBS -l select=1:ncpus=4:mem=16384mb:ngpus=1",
        "#PBS -l walltime=02:00:00",
        "#PBS -S /bin/bash",
    ],
    # Grid Engine, man qsub
    "sge": ["#$ -P abc", "#$ -l h_rt=02:00:00", "#$ -l gpu=1", "#$ -S /bin/bash"],
    # IBM Spectrum LSF, bsub reference
    "lsf": [
        "#BSUB -n 4",
        '#BSUB -R "span[hosts=1]"',
        "#BSUB -W 02:00",
        '#BSUB -gpu "num=1"',
        '#BSUB -P "abc"',
    ],
    # https://oar.imag.fr, man oarsub: all of a request in one -l
    "oar": ["#OAR --project abc", "#OAR -l /nodes=1/gpu=1,walltime=02:00:00"],
    # Moab/Torque: no select; Torque administrator's guide, "Requesting resources"
    "moab": ["#PBS -l nodes=1:ppn=4:gpus=1,mem=16384mb", "#PBS -l walltime=02:00:00"],
    # HTCondor manual, condor_submit
    "htcondor": ["request_gpus = 1", "MY.DaskWorkerCores = 4", "Executable = /bin/bash"],
}


@pytest.mark.parametrize("kind", BATCH)
def test_job_scripts_say_what_the_documentation_asks(kind: str) -> None:
    account = "" if kind == "htcondor" else ",account=abc"
    profile = load_profile(f"{kind}:gpus=1{account}")
    text = job_script(profile)
    lines = text.splitlines()
    for words in WORDS[kind]:
        assert words in lines
    assert re.search(r"--preload survey_gampen\.cluster\.worker", text)
    # HTCondor doubles quotes inside its arguments.
    assert re.search(r"--resources \"+GPU=1 CPU=1\"+", text)
    assert "$(" not in text.replace("$(ClusterId)", "").replace("$(ProcId)", "")
    assert "SURVEY_GAMPEN_GPU=cuda" in text


@pytest.mark.parametrize("kind", sorted(set(BATCH) - {"htcondor"}))
def test_the_driver_is_small_and_submits_itself(kind: str, tmp_path: Path) -> None:
    profile = load_profile(f"{kind}:account=abc,walltime=08:00:00")
    run = RunDir(tmp_path)
    text = script(profile, ["my catalogue.parquet", "--band", "g"], run)[1]
    assert "run 'my catalogue.parquet' --band g" in text
    assert "[ $SECONDS -lt 28500 ]" in text  # five minutes before the end
    again = {"slurm": "sbatch", "lsf": "bsub <", "oar": "oarsub -S", "moab": "msub"}
    assert f"$({again.get(kind, 'qsub')} {run.driver_script} 2>&1)" in text


def test_where_a_driver_makes_no_sense() -> None:
    for name in ("local", "htcondor"):
        with pytest.raises(InputError, match="a driver can't be submitted"):
            check(load_profile(name), RunDir(Path()))


def test_cutters_are_jobs_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text(
        "kind: slurm\ngpus: 1\nqueue: gpu\naccount: abc\n"
        "cutters: {workers: 2, threads: 8, queue: cpu}\n"
    )
    batch = load_profile(path).batch
    assert batch
    assert batch.cutters
    assert (batch.cutters.queue, batch.cutters.account, batch.cutters.gpus) == ("cpu", "abc", 0)
    assert resources(batch.ask, cuts=False) == {"GPU": 1}


def test_the_list_names_all(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (home / "ours.yaml").write_text("# Nodes with the new cards. Ask Anna.\nkind: slurm\n")
    (home / "broken.yaml").write_text("a: [")
    assert main(["cluster", "list"]) == 0
    said = capsys.readouterr().out
    for name in [*known(), "Nodes with the new cards", "can't be read"]:
        assert name in said
    assert str(profiles.own_folder()) in said


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("slurm:memory=16", "memory must be a number and its unit"),
        ("slurm:dashboard_port=99999", "dashboard_port must be a whole number from 0 to 65535"),
        ("slurm:walltime=25:99:99", "walltime must be HH:MM:SS"),
        ("slurm:queue=", "--cluster: queue is empty"),
        ("slurm:processes=3,workers=2", "must be a multiple of processes"),
        ("slurm:resource_spec=x", "unknown key 'resource_spec'"),
        ("htcondor:queue=x", "unknown key 'queue'"),
    ],
)
def test_values_that_mean_nothing_are_refused(spec: str, words: str) -> None:
    with pytest.raises(InputError, match=re.escape(words)):
        load_profile(spec)


def test_mistakes_in_other_kinds_of_job_name_these(tmp_path: Path) -> None:
    path = tmp_path / "own.yaml"
    path.write_text("kind: slurm\ncutters: {memory: 16}\n")
    with pytest.raises(InputError, match="cutters: memory must be"):
        load_profile(path)


def test_jobs_are_whole() -> None:
    profile = load_profile("slurm:processes=4", workers=6)
    assert profile.batch
    assert (profile.workers, profile.batch.ask.jobs) == (8, 2)


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


def test_logs_of_oar_and_directives_of_htcondor(tmp_path: Path) -> None:
    oar = load_profile("oar")
    assert oar.batch
    text = make_job(oar, oar.batch.ask, {}, logs=tmp_path).job_script()
    assert f"#OAR -O {tmp_path}/survey-gampen-%jobid%.out" in text
    path = tmp_path / "own.yaml"
    path.write_text('kind: htcondor\nskip_directives: ["RequestDisk", "no such word"]\n')
    assert "RequestDisk" not in job_script(load_profile(path))
