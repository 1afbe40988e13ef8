"""The cluster layer on a real Slurm."""

from __future__ import annotations

import http.client
import signal
import socket
import stat
import subprocess
import sys
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import psutil
import pyarrow.parquet as pq
import pytest
import tomli_w
from distributed import Client as DaskClient
from distributed import Security
from slurmdev import NODES, Slurm, until
from smallrun import SLOWER, Sky, call, environment, leaves, rows, verb
from smallsim import make_init, small_population

from survey_gampen.training.parts import PartsSet
from survey_gampen.training.recipe import load_recipe

pytestmark = pytest.mark.slurm


@pytest.fixture(scope="module")
def slurm() -> Iterator[Slurm]:
    cluster = Slurm()
    yield cluster
    cluster.down()


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Sky:
    """A sky of more than 400 galaxies."""
    return Sky(tmp_path_factory.mktemp("many"), 420, SLOWER)


@pytest.fixture(scope="module")
def undisturbed(many: Sky, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run on this machine with as many threads a worker."""
    out = tmp_path_factory.mktemp("undisturbed") / "run"
    where = "local:workers=2,threads=1,dashboard_port=0"
    done = call(many.command(out, "--passes", "100", "--cluster", where, rows=20), timeout=1200)
    assert done.returncode == 0, done.stderr
    return out


class Client:
    """A run on Slurm, in a process of its own."""

    def __init__(self, slurm: Slurm, words: list[str], out: Path, name: str) -> None:
        self.slurm, self.out, self.name = slurm, out, name
        self.process = subprocess.Popen(
            words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def published(self, more: int) -> None:
        """Wait until so many partitions more are published."""
        before = len(leaves(self.out))
        until(lambda: len(leaves(self.out)) >= before + more or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()[0]


def begun(out: Path) -> Counter[str]:
    """How often each partition was begun to be inferred, by the lines of its attempts."""
    lines = [line.split() for line in (out / "attempts.log").read_text().splitlines()]
    idle = {words[4] for words in lines if words[5:7] == ["not", "begun"]}
    return Counter(
        words[3]
        for words in lines
        if words[2] == "infer" and words[5] == "begins" and words[4] not in idle
    )


def test_a_run_survives_all_that_a_cluster_does(
    slurm: Slurm, many: Sky, undisturbed: Path, tmp_path: Path
) -> None:
    """scancel, kill, walltime, a restart of slurmctld, and the client's end: the same bits."""
    out, lost = tmp_path / "run", 0
    profile, name = slurm.profile(tmp_path)
    words = many.command(out, "--passes", "100", "--cluster", str(profile), rows=20)
    client = Client(slurm, words, out, name)
    until(lambda: len(slurm.jobs(name, "RUNNING")) == 3)
    client.published(2)
    first, second, third = slurm.jobs(name, "RUNNING")
    slurm.ask("scancel", first)
    lost += 1
    client.published(2)
    for process in slurm.processes(second):
        process.kill()
    lost += 1
    client.published(2)
    # Shorter than the worker knows: Slurm ends it in the middle of its work.
    slurm.ask("scontrol", "update", f"JobId={third}", "TimeLimit=1")
    until(lambda: third not in slurm.jobs(name, "RUNNING") or client.process.poll() is not None)
    lost += 1
    daemon = int((Path(slurm.settings["GAMPEN_SLURM"]) / "run" / "slurmctld.pid").read_text())
    subprocess.run(["kill", str(daemon)], check=True)
    client.published(1)
    slurm.up()
    client.published(2)
    until(lambda: len(slurm.jobs(name, "RUNNING")) == 3)  # those lost were replaced
    client.process.send_signal(signal.SIGKILL)
    told = client.process.communicate()[0]
    lost += 3
    until(lambda: not slurm.jobs(name), 180)  # workers do not outlive their client for long
    assert 0 < len(leaves(out)) < len(leaves(undisturbed))

    done = verb("resume", out)
    assert done.returncode == 0, told + done.stderr
    assert rows(out).num_rows == 420
    assert len(leaves(out)) >= 40
    assert leaves(out) == leaves(undisturbed)
    twice = sum(number - 1 for number in begun(out).values())
    print(f"{len(leaves(out))} partitions, {lost} workers lost, {twice} partitions begun again")
    assert twice <= lost
    assert not slurm.jobs(name)


def test_check_tells_what_a_worker_is(slurm: Slurm, tmp_path: Path) -> None:
    profile, name = slurm.profile(tmp_path)
    done = verb("cluster", "check", profile)
    assert done.returncode == 0, done.stderr
    for words in (socket.gethostname(), "usable", "the same as here", "after submission"):
        assert words in done.stdout
    assert not slurm.jobs(name)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"queue": "moon"}, "invalid partition specified: moon"),
        ({"memory": "64 TiB"}, "Memory specification can not be satisfied"),
        ({"gpus": 1, "gpu_request": '"--gres=gpu:9"'}, "Requested node configuration"),
    ],
)
def test_what_slurm_refuses_is_told_in_its_words(
    slurm: Slurm, sky: Sky, tmp_path: Path, keys: dict[str, object], words: str
) -> None:
    profile, name = slurm.profile(tmp_path, **keys)
    begun = time.monotonic()
    done = call(sky.command(tmp_path / "run", "--cluster", str(profile)))
    assert done.returncode == 2
    assert words in done.stderr
    assert done.stderr.count("\n") <= 2
    assert time.monotonic() - begun < 60
    assert not slurm.jobs(name)
    assert not (tmp_path / "run").exists()


def test_jobs_that_fail_at_once_are_told_of(slurm: Slurm, sky: Sky, tmp_path: Path) -> None:
    keys = {"prologue": '["echo no module named gampen >&2; exit 7"]', "workers": 1}
    profile, name = slurm.profile(tmp_path, **keys)
    done = call(sky.command(tmp_path / "run", "--cluster", str(profile)))
    assert done.returncode == 75
    assert "no module named gampen" in done.stderr
    assert "exit code 7:0" in done.stderr
    assert not slurm.jobs(name)


def test_jobs_that_wait_are_told_of(slurm: Slurm, sky: Sky, tmp_path: Path) -> None:
    """A job that can't begin now is no failure; what it waits for is told again and again."""
    full = [slurm.ask("sbatch", "--parsable", "--exclusive", "--wrap", "sleep 600").strip()]
    full += [slurm.ask("sbatch", "--parsable", "--exclusive", "--wrap", "sleep 600").strip()]
    full += [slurm.ask("sbatch", "--parsable", "--exclusive", "--wrap", "sleep 600").strip()]
    assert len(full) == NODES
    until(lambda: len(slurm.jobs("wrap", "RUNNING")) == NODES)
    profile, name = slurm.profile(tmp_path, workers=1, patience=2)
    words = sky.command(tmp_path / "run", "--cluster", str(profile))
    with (tmp_path / "said").open("w") as said:
        client = subprocess.Popen(words, env=environment(), stderr=said, stdout=said)
    try:
        until(lambda: "PENDING (" in (tmp_path / "said").read_text(), 120)
        slurm.ask("scancel", *full)
        assert client.wait(timeout=400) == 0
    finally:
        client.kill()
        slurm.ask("scancel", *full)
    assert not slurm.jobs(name)


def test_a_node_that_was_only_thought_lost(
    slurm: Slurm, many: Sky, undisturbed: Path, tmp_path: Path
) -> None:
    """Its slurmd is killed; its job begins anew elsewhere while its worker goes on."""
    out = tmp_path / "run"
    profile, name = slurm.profile(tmp_path)
    words = many.command(out, "--passes", "100", "--cluster", str(profile), rows=20)
    client = Client(slurm, words, out, name)
    try:
        client.published(2)
        job = slurm.jobs(name, "RUNNING")[0]
        node = slurm.ask("squeue", "-h", "-j", job, "-o", "%N").strip()
        orphans = slurm.processes(job)
        assert orphans
        pid = (Path(slurm.settings["GAMPEN_SLURM"]) / "run" / f"{node}.pid").read_text()
        subprocess.run(["kill", "-9", pid.strip()], check=True)
        client.published(5)
        assert any(process.is_running() for process in orphans)
        told = client.process.communicate(timeout=900)[0]
    finally:
        client.process.kill()
        slurm.up()
    assert client.process.returncode == 0, told
    assert leaves(out) == leaves(undisturbed)
    assert rows(out)["object_id"].to_pylist() == sorted(set(rows(out)["object_id"].to_pylist()))


def test_submit_goes_on_until_it_is_done(
    slurm: Slurm, many: Sky, undisturbed: Path, tmp_path: Path
) -> None:
    """The driver's walltime is shorter than the run."""
    out = tmp_path / "run"
    driver = '{walltime: "00:02:00", memory: 1 GiB}'
    profile, _ = slurm.profile(tmp_path, workers=1, driver=driver)
    words = many.command(out, "--passes", "100", "--cluster", str(profile), rows=20)
    words[words.index("run")] = "submit"
    done = call(words)
    assert done.returncode == 0, done.stderr
    chain = out / ".cluster" / "driver.log"
    until(lambda: "is done, exit code 0" in (chain.read_text() if chain.exists() else ""), 1200)
    lines = chain.read_text().splitlines()
    print("\n".join(lines))
    begun_jobs = [line.split()[3] for line in lines if "begins on" in line]
    assert len(set(begun_jobs)) == len(begun_jobs) > 1
    assert sum("goes on in another job: Submitted batch job" in line for line in lines) == (
        len(begun_jobs) - 1
    )
    assert leaves(out) == leaves(undisturbed)
    assert f"driver: {lines[-1]}" in verb("status", out).stdout


def test_inside_one_allocation(slurm: Slurm, sky: Sky, calm: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = sky.command(out, "--cluster", "allocation:interface=lo,dashboard_port=0,memory=1 GiB")
    step = ["srun", "-n", "4", "--overcommit", "--cpus-per-task=1", "--mem=4G", "-N", "2"]
    done = call([*step, *words], timeout=900)
    assert done.returncode == 0, done.stderr
    assert rows(out).num_rows == rows(calm).num_rows
    assert done.stderr.count("galaxies are in") + done.stdout.count("galaxies are in") == 1
    assert not list((out / ".cluster").glob("allocation-*"))


def test_each_worker_has_a_gpu_of_its_own(slurm: Slurm, sky: Sky, tmp_path: Path) -> None:
    """GPUs here are pretended: Slurm gives them out, and nobody computes on them."""
    out = tmp_path / "run"
    keys = {"gpus": 1, "cuda": "false", "directives": '["--nodelist=node1"]', "workers": 2}
    profile, name = slurm.profile(tmp_path, **keys)
    words = sky.command(out, "--cluster", str(profile), rows=1)
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


def test_an_account_that_slurm_does_not_know(sky: Sky, tmp_path: Path) -> None:
    """Without accounting the real one takes any account: a stub says what sbatch says then."""
    stub = tmp_path / "bin" / "sbatch"
    stub.parent.mkdir()
    stub.write_text(
        "#!/bin/sh\n"
        "echo 'sbatch: error: Batch job submission failed: Invalid account or"
        " account/partition combination specified' >&2\nexit 1\n"
    )
    stub.chmod(0o755)
    words = sky.command(tmp_path / "run", "--cluster", "slurm:account=moon,interface=lo")
    path = f"{stub.parent}:{environment()['PATH']}"
    done = subprocess.run(
        words, env={**environment(), "PATH": path}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "Invalid account or account/partition combination specified" in done.stderr


def test_who_has_no_certificate_gets_nothing(slurm: Slurm, sky: Sky, tmp_path: Path) -> None:
    """No port of client, scheduler or workers answers without one; dashboards are on loopback."""
    ours = outer_address()
    profile, name = slurm.profile(tmp_path, interface=ours[0])
    out = tmp_path / "run"
    client = Client(slurm, sky.command(out, "--cluster", str(profile), rows=1), out, name)
    try:
        client.published(1)
        mine = {client.process.pid}
        mine |= {p.pid for p in psutil.Process(client.process.pid).children(recursive=True)}
        for job in slurm.jobs(name, "RUNNING"):
            mine |= {p.pid for p in slurm.processes(job)}
            mine |= {p.ppid() for p in slurm.processes(job)}
        listening = {
            (c.laddr.ip, c.laddr.port)
            for c in psutil.net_connections("tcp")
            if c.status == psutil.CONN_LISTEN and c.pid in mine
        }
        assert len(listening) >= 8  # scheduler and dashboard; three workers, nannies and pages
        pages = {port for ip, port in listening if is_page(ip, port)}
        assert len(pages) >= 4
        certificates = next((out / ".cluster").glob("tls-*"))
        assert stat.S_IMODE(certificates.stat().st_mode) == 0o700
        for file in certificates.iterdir():
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
        for ip, port in listening:
            reached = ours[1] if ip in ("0.0.0.0", "::") else ip.removeprefix("::ffff:")
            assert not speaks_dask(reached, port)
        if ours[0] != "lo":
            assert {ip for ip, _ in listening} > {"127.0.0.1"}
            for port in pages:
                with pytest.raises(OSError, match="refused"):
                    socket.create_connection((ours[1], port), timeout=3)
    finally:
        client.process.send_signal(signal.SIGTERM)
        told = client.process.communicate(timeout=120)[0]
    assert client.process.returncode in (0, 75), told
    assert not certificates.exists()


def outer_address() -> tuple[str, str]:
    """An interface of this machine that others can reach, and its address; loopback without one."""
    up = psutil.net_if_stats()
    for name, addresses in psutil.net_if_addrs().items():
        for found in addresses:
            outer = found.family == socket.AF_INET and not found.address.startswith("127.")
            if outer and up[name].isup:
                return name, found.address
    return "lo", "127.0.0.1"


def is_page(ip: str, port: int) -> bool:
    """Whether a port speaks HTTP to anybody."""
    try:
        with urllib.request.urlopen(f"http://{ip}:{port}/health", timeout=3) as answer:
            return bool(answer.status == 200)
    except (OSError, http.client.HTTPException):
        return False


def speaks_dask(ip: str, port: int) -> bool:
    """Whether a port lets a client in that has no certificate, or one of its own making."""
    for protocol, security in (("tcp", None), ("tls", Security.temporary())):
        try:
            address = f"{protocol}://{ip}:{port}"
            with DaskClient(address, security=security, timeout=3, set_as_default=False):
                return True
        except (OSError, TimeoutError, ValueError):
            continue
    return False


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
