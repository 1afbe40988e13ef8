"""Profiles of batch systems: what is asked for, in whose words, and what a site has set itself."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from jobscripts import job_script

from survey_gampen.cli import main
from survey_gampen.cluster import load as profiles
from survey_gampen.cluster.certificates import check_path, on_disk
from survey_gampen.cluster.driver import check, script
from survey_gampen.cluster.jobs import make_job, resources
from survey_gampen.cluster.load import known, load_profile
from survey_gampen.cluster.local import worker_settings
from survey_gampen.cluster.profile import BATCH
from survey_gampen.errors import InputError
from survey_gampen.run.layout import RunDir


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


@pytest.mark.parametrize("kind", BATCH)
def test_threads_of_a_worker_are_said_once(kind: str) -> None:
    text = job_script(load_profile(f"{kind}:threads=8,processes=2"))
    assert re.findall(r"--nthreads (\d+)", text) == ["2"]


@pytest.mark.parametrize(("memory", "kept"), [("64GiB", 2**30), ("2GiB", 2**29)])
def test_workers_keep_memory_and_look_at_no_threads(memory: str, kept: int) -> None:
    """Those of jobs and those that are started from here; and never most of what they have."""
    lines = job_script(load_profile(f"slurm:memory={memory}")).splitlines()
    assert f"export MALLOC_TRIM_THRESHOLD_={kept}" in lines
    assert "export DASK_DISTRIBUTED__WORKER__PROFILE__ENABLED=False" in lines
    settings = worker_settings(load_profile(f"local:memory={memory}"))
    assert settings["distributed.nanny.pre-spawn-environ"]["MALLOC_TRIM_THRESHOLD_"] == kept
    assert settings["distributed.worker.profile.enabled"] is False


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


def test_logs_of_oar_and_directives_of_htcondor(tmp_path: Path) -> None:
    oar = load_profile("oar")
    assert oar.batch
    text = make_job(oar, oar.batch.ask, {}, logs=tmp_path).job_script()
    assert f"#OAR -O {tmp_path}/survey-gampen-%jobid%.out" in text
    path = tmp_path / "own.yaml"
    path.write_text('kind: htcondor\nskip_directives: ["RequestDisk", "no such word"]\n')
    assert "RequestDisk" not in job_script(load_profile(path))
