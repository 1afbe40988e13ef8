"""One training on several workers: the same as on one, and it survives what befalls them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet as pq
import pytest
import yaml
from safetensors import safe_open

from survey_gampen.cluster.load import load_profile
from survey_gampen.cluster.start import start
from survey_gampen.errors import InputError, WorkerLost
from survey_gampen.training import gang, train
from survey_gampen.training.gang import _open_store
from survey_gampen.training.parts import PartsSet
from survey_gampen.training.ranks import Ranks
from tests.smallsim import make_init

pytest.importorskip("galsim", exc_type=ImportError)

#: 64 galaxies to train on, in batches of 32: each of two ranks makes one block of noise a step.
CHANGES: dict[str, Any] = {"validation": 8, "batch": 32, "passes": 2}


@pytest.fixture(scope="module")
def init(tmp_path_factory: pytest.TempPathFactory, parts_folder: Path) -> str:
    return make_init(tmp_path_factory.mktemp("init") / "init.safetensors", PartsSet(parts_folder))


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The shipped recipe at the size of these tests, with an epoch of some seconds."""
    import tomli_w

    from survey_gampen.training.recipe import load_recipe

    path = tmp_path_factory.mktemp("recipe") / "small.toml"
    table = load_recipe("survey", epochs=12, dropout_rate=0.0, learning_rate=1e-3, **CHANGES)
    path.write_text(tomli_w.dumps(table))
    return path


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """A profile of two small workers."""
    path = tmp_path / "two.yaml"
    path.write_text(yaml.safe_dump({"kind": "local", "workers": 2, "threads": 1}))
    return path


def history(out: Path) -> list[dict[str, float]]:
    """Figures of the epochs that are done."""
    try:
        with safe_open(out / "state.safetensors", framework="pt") as f:
            told = json.loads(f.metadata()["training"])["history"]
    except FileNotFoundError:
        return []
    return list(told)


def close(a: list[dict[str, float]], b: list[dict[str, float]]) -> bool:
    """Whether two loss curves agree but for the order of sums in half precision."""
    return len(a) == len(b) and all(
        x[key] == pytest.approx(y[key], rel=0.02, abs=0.02)
        for x, y in zip(a, b, strict=True)
        for key in ("training_loss", "nll")
    )


@pytest.fixture(scope="module")
def calm(
    tmp_path_factory: pytest.TempPathFactory, parts_folder: Path, init: str, recipe: Path
) -> Any:
    """The loss curve of one process that nobody disturbs."""
    out = tmp_path_factory.mktemp("calm") / "out"
    train.main(str(recipe), parts_folder, out, init=init)
    return history(out)


class Client:
    """`survey-gampen train` on two ranks, in a process of its own."""

    def __init__(
        self, recipe: Path, parts_folder: Path, out: Path, init: str, profile: Path
    ) -> None:
        self.out = out
        self.words = [sys.executable, "-m", "survey_gampen.cli", "train", str(recipe)]
        self.words += ["--data", str(parts_folder), "--out", str(out), "--init", init]
        self.words += ["--cluster", str(profile), "--ranks", "2"]
        self.begin()

    def begin(self) -> None:
        pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
        self.process = subprocess.Popen(self.words, text=True, **pipes)

    def wait_for(self, condition: Callable[[], bool], seconds: float = 300) -> None:
        until = time.monotonic() + seconds
        while not condition():
            assert self.process.poll() is None, self.process.communicate()[0]
            assert time.monotonic() < until
            time.sleep(0.05)

    def workers(self) -> list[psutil.Process]:
        """The processes in which the ranks train: those that have loaded the network."""
        family = psutil.Process(self.process.pid).children(recursive=True)
        return sorted(
            (p for p in family if p.memory_info().rss > 200e6), key=lambda p: p.create_time()
        )


@pytest.fixture
def client(recipe: Path, parts_folder: Path, tmp_path: Path, init: str, two: Path) -> Any:
    client = Client(recipe, parts_folder, tmp_path / "out", init, two)
    yield client
    client.process.kill()
    client.process.communicate()


def test_two_ranks_train_as_one_and_survive_the_loss_of_one(client: Client, calm: Any) -> None:
    client.wait_for(lambda: len(history(client.out)) >= 2)
    client.workers()[-1].kill()
    told = client.process.communicate(timeout=600)[0]
    assert client.process.returncode == 0, told
    assert "all ranks begin again after the last epoch" in told
    assert "72 galaxies, 0.0061 GB of parts: in memory" in told
    assert close(history(client.out), calm)
    assert (client.out / "model.safetensors").exists()
    table = pq.read_table(client.out / "history.parquet")
    assert table["epoch"].to_pylist() == list(range(1, 13))
    assert len(list((client.out / "tensorboard").iterdir())) == 1


def test_a_killed_client_loses_an_epoch_at_most(client: Client, calm: Any) -> None:
    client.wait_for(lambda: len(history(client.out)) >= 2)
    os.kill(client.process.pid, signal.SIGKILL)
    client.process.communicate()
    done = len(history(client.out))
    client.begin()
    second = subprocess.run(client.words, capture_output=True, text=True, check=False)
    told = client.process.communicate(timeout=600)[0]
    # Two at once: whoever comes first trains, the other one is told.
    outcomes = {client.process.returncode: told, second.returncode: second.stdout + second.stderr}
    assert sorted(outcomes) == [0, 2], outcomes
    assert "is in use by pid" in outcomes[2]
    assert f"epoch {done}/12" not in outcomes[0]
    assert f"epoch {done + 1}/12" in outcomes[0]
    assert close(history(client.out), calm)


def test_a_batch_that_cannot_be_shared(parts_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="28 images can't be shared evenly by 3 ranks"):
        Ranks(0, 3).share(28)
    with pytest.raises(InputError, match="64 images can't be shared evenly by 3 ranks"):
        train.main("survey", parts_folder, tmp_path / "out", ranks=3)
    assert not (tmp_path / "out").exists()


def test_a_profile_with_too_few_workers(parts_folder: Path, tmp_path: Path, two: Path) -> None:
    with pytest.raises(InputError, match="has 2 workers: give fewer --ranks"):
        train.main("survey", parts_folder, tmp_path / "out", cluster=str(two), ranks=4)


def test_ranks_go_to_the_workers_that_last_longest() -> None:
    def worker(left: float | None, **resources: int) -> dict[str, Any]:
        told = {} if left is None else {"survey_gampen": {"job_seconds_left": left}}
        return {"resources": resources, "metrics": told}

    workers = {
        "tls://a": worker(60.0, INFER=1),
        "tls://b": worker(600.0, INFER=1),
        "tls://c": worker(None, INFER=1),
        "tls://d": worker(900.0, INFER=0),
    }
    assert gang._longest_lived(workers, "INFER") == ["tls://c", "tls://b", "tls://a"]


def test_a_rank_whose_end_is_told_twice(
    two: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that has gone is seen by who is there, and by Dask's word of its task, in turn."""

    def rank(ranks: Ranks, *_: object) -> None:
        time.sleep(2.0 if ranks.first else 5.0)
        raise OSError("the peer has gone")

    found, gone = gang._workers, set[str]()

    def workers(*args: Any) -> list[str]:
        addresses = found(*args)
        gone.add(addresses[0])
        return addresses

    monkeypatch.setattr(gang, "_rank", rank)
    monkeypatch.setattr(gang, "_workers", workers)
    with start(load_profile(str(two)), tmp_path, lambda _: None) as cluster:
        there = cluster.client.nthreads
        monkeypatch.setattr(
            cluster.client,
            "nthreads",
            lambda: {address: n for address, n in there().items() if address not in gone},
        )
        order: Any = None
        with pytest.raises(WorkerLost, match="died"):
            gang._gang(cluster, order, 2, threads=1)


def test_the_ranks_meet_on_one_address_only() -> None:
    store = _open_store("127.0.0.1", 1)
    store.set("here", "1")
    mine = [c for c in psutil.Process().net_connections("tcp") if c.laddr.port == store.port]
    assert {c.laddr.ip for c in mine if c.status == psutil.CONN_LISTEN} == {"127.0.0.1"}
