"""Training learns, tells what it found, and goes on where it stopped."""

from __future__ import annotations

import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
import torch
from safetensors import safe_open
from tensorboardX.proto.event_pb2 import Event

from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.model.network import _weighed
from survey_gampen.training import guide
from survey_gampen.training import train as verb
from survey_gampen.training.loop import Training
from survey_gampen.training.parts import PartsSet
from survey_gampen.training.ranks import Ranks
from survey_gampen.training.recipe import load_recipe
from survey_gampen.training.watch import Watch
from tests.networks import make_checkpoint, tiny
from tests.smallsim import SIZE, N, make_init

pytest.importorskip("galsim", exc_type=ImportError)

VALIDATION = 16


@pytest.fixture
def recipe() -> dict[str, Any]:
    changes = {"validation": VALIDATION, "batch": 8, "epochs": 4, "passes": 4}
    return load_recipe("survey", learning_rate=2e-3, dropout_rate=0.02, **changes)


@pytest.fixture
def init(tmp_path: Path, parts: PartsSet) -> str:
    return make_init(tmp_path / "init.safetensors", parts)


def figures(training: Training) -> list[dict[str, float]]:
    speed = ("seconds", "images_per_second", "ended")
    return [{k: v for k, v in epoch.items() if k not in speed} for epoch in training.history]


def assert_told(out: Path, training: Training) -> None:
    """Table and curves hold each epoch once, as the state does."""
    table = pq.read_table(out / "history.parquet")
    told = table.drop(["ended"]).to_pylist()
    assert told == [{k: v for k, v in e.items() if k != "ended"} for e in training.history]
    ended = [when.timestamp() for when in table["ended"].to_pylist()]
    assert ended == pytest.approx([epoch["ended"] for epoch in training.history], abs=1e-5)
    assert table.schema.field("seconds").metadata == {b"unit": b"s"}
    curves: dict[str, list[tuple[int, float]]] = {}
    (file,) = (out / "tensorboard").iterdir()
    for event in events(file.read_bytes()):
        for value in event.summary.value:
            curves.setdefault(value.tag, []).append((event.step, value.simple_value))
    assert curves.keys() == training.history[0].keys() - {"epoch", "ended"}
    for name, points in curves.items():
        assert [step for step, _ in points] == [epoch["epoch"] for epoch in training.history]
        expected = [epoch[name] for epoch in training.history]
        assert [value for _, value in points] == pytest.approx(expected, rel=1e-6)


def events(data: bytes) -> Iterator[Event]:
    """Events of a TFRecord file: length, its checksum, the event, its checksum."""
    while data:
        (n,) = struct.unpack("<Q", data[:8])
        yield Event.FromString(data[12 : 12 + n])
        data = data[16 + n :]


@pytest.fixture
def train(
    tmp_path: Path, parts: PartsSet, recipe: dict[str, Any], init: str
) -> Callable[..., Training]:
    torch.set_num_threads(1)

    def start(name: str, **changes: Any) -> Training:
        return Training(recipe | changes, parts, tmp_path / name, init)

    return start


def test_it_learns(train: Callable[..., Training]) -> None:
    training = train("out", epochs=8)
    before = training.validate()
    training.run()
    losses = [epoch["training_loss"] for epoch in training.history]
    assert losses[-1] < losses[0] - 0.3
    assert training.history[-1]["nll"] < before["nll"] - 0.3
    assert [epoch["epoch"] for epoch in training.history] == list(range(1, 9))


def test_the_guide_teaches_the_crop_and_fades(train: Callable[..., Training]) -> None:
    """Without a likelihood worth the name the pull alone moves the crop, and none at the end."""
    training = train("out")
    batch = training.validation
    training.network.eval()
    strength = training.recipe["crop"]["guide"]
    pulled, free = training._loss(batch, 1.0), training._loss(batch, 0.0)
    with torch.no_grad():
        _, theta = training.network.prefix(batch.image)
    arch = training.network.arch
    half_side = 0.5 * arch.size * arch.pixel_scale
    wanted = guide.distance(theta, batch.truth[:, 1], half_side, training.recipe["crop"])
    assert wanted > 0
    assert (pulled - free).item() == pytest.approx(strength * wanted.item(), rel=1e-3)


def test_an_interrupted_training_goes_on_as_if_nothing_had_happened(
    train: Callable[..., Training], tmp_path: Path
) -> None:
    whole = train("whole")
    whole.run()
    broken = train("broken")

    class Impatient(Watch):
        """Stops at the first step of the third epoch."""

        def begins(self, epoch: int, epochs: int, steps: int) -> None:
            self.epoch = epoch

        def step(self, n: int = 1) -> None:
            if self.epoch == 3:
                raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.run(Impatient())
    resumed = train("broken")
    assert resumed.epoch == 2
    resumed.run()
    assert figures(resumed) == figures(whole)
    for name, weight in whole.network.state_dict().items():
        assert torch.equal(weight, resumed.network.state_dict()[name]), name
    finished = train("broken")
    finished.run()  # nothing is left to do
    assert figures(finished) == figures(whole)
    assert_told(tmp_path / "broken", resumed)
    assert not any((tmp_path / "broken" / ".staging").iterdir())


def test_a_killed_training_is_told_in_full_when_it_goes_on(
    train: Callable[..., Training], tmp_path: Path
) -> None:
    """Killed after the state and before the table: both are made from the state."""
    train("out", epochs=2).run()
    out = tmp_path / "out"
    pq.write_table(pq.read_table(out / "history.parquet").slice(0, 1), out / "history.parquet")
    (out / "tensorboard" / "events.out.tfevents.0000000000.elsewhere").write_bytes(b"half an ev")
    resumed = train("out", epochs=2)
    resumed.run()
    assert_told(out, resumed)


def test_other_ranks_tell_nothing(
    parts: PartsSet, recipe: dict[str, Any], init: str, tmp_path: Path
) -> None:
    class Second(Ranks):
        """The second of two, who meets nobody."""

        parallel = staticmethod(lambda module, device: module)  # type: ignore[assignment]
        mean = staticmethod(lambda value: value.item())  # type: ignore[assignment]
        agreed = staticmethod(lambda value, device: value)  # type: ignore[assignment]

    out = tmp_path / "out"
    Training(recipe | {"epochs": 1}, parts, out, init, Second(1, 2)).run()
    assert not out.exists()


def test_patience_ends_a_training_and_it_stays_ended(
    train: Callable[..., Training], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It looks at the likelihood over passes, and the best of that is the model."""
    nll = iter([3.0, 1.0, 2.5, 2.0, 0.0])
    monkeypatch.setattr(Training, "validate", lambda self: {"nll": next(nll)})
    stopped = train("out", epochs=8, patience=2)
    stopped.to_the_last_epoch()
    assert [epoch["nll"] for epoch in stopped.history] == [3.0, 1.0, 2.5, 2.0]
    assert load_checkpoint(tmp_path / "out" / "model.safetensors").meta["metrics"]["epoch"] == 2
    resumed = train("out", epochs=8, patience=2)
    resumed.to_the_last_epoch()
    assert resumed.history == stopped.history
    assert next(nll) == 0.0
    assert_told(tmp_path / "out", resumed)


def test_the_model_is_the_best_epoch_and_says_where_it_comes_from(
    train: Callable[..., Training], tmp_path: Path
) -> None:
    training = train("out", epochs=3)
    training.run()
    best = min(training.history, key=lambda epoch: epoch["nll"])
    model = load_checkpoint(tmp_path / "out" / "model.safetensors")
    assert model.meta["metrics"] == best
    assert model.meta["band"] == "g"
    assert model.meta["trained_on"]["population"] == "small"
    assert model.meta["trained_on"]["magnitude"] == [16.0, 20.0]
    assert model.meta["provenance"]["recipe"] == training.recipe
    assert model.targets == training.targets
    assert model.network.rates == (0.02,) * 7


def test_the_widths_of_the_finished_model_are_set_once(
    train: Callable[..., Training], tmp_path: Path
) -> None:
    training = train("out", epochs=2)
    training.to_the_last_epoch()
    path = tmp_path / "out" / "model.safetensors"
    before = load_checkpoint(path)
    assert "widths" not in before.meta
    training.run()  # as if it had been stopped in between
    model = load_checkpoint(path)
    assert all(abs(value) < 3 for values in model.meta["widths"].values() for value in values)
    old, new = (m.network.blocks[-1].weight_layer.weight for m in (before, model))
    assert torch.equal(old[:3], new[:3])
    assert not torch.equal(old[3:], new[3:])
    whole = path.read_bytes()
    train("out", epochs=2).run()
    assert path.read_bytes() == whole


def test_another_training_in_the_same_place_is_refused(train: Callable[..., Training]) -> None:
    train("out", epochs=1).run()
    with pytest.raises(InputError, match="other settings: choose another --out"):
        train("out", epochs=2)


def test_init_gives_weights_targets_and_architecture(
    train: Callable[..., Training], init: str
) -> None:
    start, training = load_checkpoint(init), train("out")
    assert training.targets == start.targets
    assert training.network.arch == start.config
    assert training.network.rates == (0.02,) * 7  # the rate is the recipe's
    for name, weight in start.network.state_dict().items():
        assert torch.equal(weight, training.network.state_dict()[name])
    assert all(p.requires_grad for p in training.network.parameters())


@pytest.mark.parametrize("rate", [0.0005, 0.005, 0.3])
def test_masks_keep_their_scale_in_bfloat16(rate: float) -> None:
    """bfloat16 makes 1.0078 of 1.0050, and x of 1.0005 x: errors that add up over the sites."""
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(256 + 6, 4096), torch.rand(64, 256)
    beside = torch.rand(64, 6)
    kept = torch.full((256,), 1 / (1 - rate))
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        nothing = _weighed(layer, 0 * x, None, beside).double()
        plain = _weighed(layer, x, None, beside).double() - nothing
        masked = _weighed(layer, x, kept, beside).double() - nothing
    factor = (plain * masked).sum() / (plain * plain).sum()
    assert factor.item() == pytest.approx(1 / (1 - rate), abs=1e-4)
    network = make_checkpoint(tiny(), rate=rate).network
    like = torch.empty(0, dtype=torch.bfloat16)
    assert all(m.dtype == torch.float32 for m in network.random_masks(1, like) if m is not None)


def test_the_state_holds_what_is_needed_and_no_more(
    train: Callable[..., Training], tmp_path: Path
) -> None:
    training = train("out", epochs=1)
    training.run()
    with safe_open(tmp_path / "out" / "state.safetensors", framework="pt") as f:
        names = set(f.keys())
        header = json.loads(f.metadata()["training"])
    n = len(list(training.network.parameters()))
    assert len([name for name in names if name.startswith("network.")]) == n
    assert len([name for name in names if name.startswith("optimiser.")]) == 3 * n
    assert header["epoch"] == 1
    assert header["recipe"] == training.recipe


def test_too_few_galaxies_for_a_batch(train: Callable[..., Training]) -> None:
    with pytest.raises(InputError, match="2 of the 72 galaxies are left.*70 are for val"):
        train("out", validation=70)
    with pytest.raises(InputError, match="0 of the 72 galaxies are left to train on"):
        train("out", validation=512)


def test_a_loss_that_runs_away_is_told(train: Callable[..., Training]) -> None:
    training = train("out")
    with torch.no_grad():
        training.network.conv1.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="the loss is not finite: lower learning_rate"):
        training.run()


def test_the_verb_trains(
    tmp_path: Path, parts_folder: Path, init: str, capsys: pytest.CaptureFixture[str]
) -> None:
    changes = {"epochs": 1, "validation": VALIDATION, "batch": 8, "passes": 2}
    out = tmp_path / "out"
    assert verb.main("survey", parts_folder, out, init=init, **changes) == 0
    told = capsys.readouterr().out
    assert f"{N} galaxies, 0.0061 GB of parts: in memory" in told
    assert "epoch 1/1: training_loss" in told
    assert verb.main("survey", parts_folder, out, init=init, memory="stream", **changes) == 0
    assert f"parts: read from {parts_folder} as they are wanted\n" in capsys.readouterr().out
    assert load_checkpoint(out / "model.safetensors").config.size == SIZE
    with pytest.raises(InputError, match="no device 'tpu': choose cpu or cuda"):
        verb.main("survey", parts_folder, out, device="tpu")
    if not torch.cuda.is_available():
        with pytest.raises(OutsideFault, match="there is no GPU here"):
            verb.main("survey", parts_folder, out, device="cuda")


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_it_learns_on_a_gpu(
    tmp_path: Path, parts_folder: Path, recipe: dict[str, Any], init: str
) -> None:  # pragma: no cover - depends on the machine
    def start() -> Training:
        return Training(recipe, PartsSet(parts_folder, "cuda"), tmp_path / "out", init)

    training = start()
    before = training.validate()
    recipe["epochs"] = 6
    training.run()
    assert training.history[-1]["nll"] < before["nll"] - 0.2
    resumed = start()
    assert resumed.epoch == 6
    assert resumed.validate()["nll"] == pytest.approx(training.history[-1]["nll"], abs=0.02)
