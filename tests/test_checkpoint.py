"""A checkpoint is one safetensors file, and nothing else is accepted."""

from __future__ import annotations

import hashlib
import json
import pickle
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from survey_gampen.errors import InputError
from survey_gampen.model import checkpoint
from survey_gampen.model.checkpoint import load_checkpoint, save_checkpoint, shipped_models
from tests.networks import TARGETS, make_checkpoint, make_images, tiny

META = {"band": "g", "metrics": {"nll": 1.25}}


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    path = tmp_path / "folder" / "model.safetensors"
    save_checkpoint(path, make_checkpoint(tiny(), rate=0.03).network, TARGETS, META)
    return path


def header_of(path: Path) -> dict:
    with safe_open(path, framework="pt") as f:
        return json.loads(f.metadata()["survey_gampen"])


def rewrite(path: Path, header: dict | None, **tensors: torch.Tensor) -> None:
    """The file at `path` with another header and some tensors replaced."""
    with safe_open(path, framework="pt") as f:
        kept = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    metadata = None if header is None else {"survey_gampen": json.dumps(header)}
    save_file(kept | tensors, path, metadata)


def fails(path: Path, match: str) -> None:
    with pytest.raises(InputError, match=match) as caught:
        load_checkpoint(path)
    assert "\n" not in str(caught.value)


def test_round_trip(saved: Path) -> None:
    original = make_checkpoint(tiny(), rate=0.03)
    loaded = load_checkpoint(saved)
    assert loaded.config == original.config == tiny()
    assert loaded.network.rates == original.network.rates == (0.03,) * 7
    assert loaded.targets == TARGETS
    assert loaded.meta == META
    assert loaded.path == saved
    assert loaded.sha256 == hashlib.sha256(saved.read_bytes()).hexdigest()
    assert not loaded.network.training
    for name, weight in loaded.network.state_dict().items():
        assert weight.dtype == torch.float32
        assert torch.equal(weight, original.network.state_dict()[name].half().float())
    assert not any(p.requires_grad for p in loaded.network.parameters())


def test_half_precision_changes_little_and_float32_nothing(tmp_path: Path) -> None:
    network = make_checkpoint(tiny()).network
    images = torch.from_numpy(make_images(3, 119))
    for dtype, tolerance in ((torch.float16, 2e-2), (torch.float32, 0.0)):
        path = tmp_path / f"{dtype}.safetensors"
        save_checkpoint(path, network, TARGETS, {}, dtype)
        difference = (load_checkpoint(path).network(images) - network(images)).abs().max()
        assert difference.item() <= tolerance
    half, full = (tmp_path / f"torch.float{bits}.safetensors" for bits in (16, 32))
    assert 1.9 < full.stat().st_size / half.stat().st_size < 2.0


def test_weights_that_half_precision_cannot_hold_are_refused(tmp_path: Path) -> None:
    network = make_checkpoint(tiny()).network
    with torch.no_grad():
        network.conv1.bias[0] = 1e5
    with pytest.raises(ValueError, match=r"conv1\.bias is not finite in torch\.float16"):
        save_checkpoint(tmp_path / "model.safetensors", network, TARGETS, {})
    assert not (tmp_path / "model.safetensors").exists()


def test_the_name_of_a_shipped_model_is_enough(
    saved: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checkpoint, "WEIGHTS", saved.parent)
    assert shipped_models() == ["model"]
    assert load_checkpoint("model").path == saved


def test_no_such_file(tmp_path: Path) -> None:
    fails(tmp_path / "none.safetensors", "no model .*none.safetensors.*: give a .safetensors file")


def test_no_pickle_is_ever_read(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (Path.touch, (tmp_path / "went off",))

    for name, write in (("plain.pt", pickle.dump), ("torch.pt", torch.save)):
        with (tmp_path / name).open("wb") as f:
            write({"model": Bomb()}, f)
        fails(tmp_path / name, "is not a readable safetensors file")
    assert not (tmp_path / "went off").exists()


@pytest.mark.parametrize("cut", [0, 4, 100, -100])
def test_a_file_that_was_cut_off(saved: Path, cut: int) -> None:
    saved.write_bytes(saved.read_bytes()[:cut])
    fails(saved, "is not a readable safetensors file")


def test_a_folder_is_no_model(tmp_path: Path) -> None:
    fails(tmp_path, "no model")


def test_somebody_elses_safetensors(saved: Path) -> None:
    rewrite(saved, None)
    fails(saved, "is not a survey-gampen model")


def test_a_format_of_the_future(saved: Path) -> None:
    rewrite(saved, header_of(saved) | {"format": 99})
    fails(saved, "is not a survey-gampen model")


def test_a_header_that_is_no_json(saved: Path) -> None:
    with safe_open(saved, framework="pt") as f:
        tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118
    save_file(tensors, saved, {"survey_gampen": "{"})
    fails(saved, "not a readable safetensors file")


@pytest.mark.parametrize("key", ["architecture", "rates", "targets", "meta"])
def test_a_header_that_lacks_a_part(saved: Path, key: str) -> None:
    header = header_of(saved)
    del header[key]
    rewrite(saved, header)
    fails(saved, f"its header is broken .*{key}")


def test_a_header_with_nonsense_in_it(saved: Path) -> None:
    rewrite(saved, header_of(saved) | {"rates": [0.1]})
    fails(saved, "its header is broken .*7 dropout sites, 1 rates")
    rewrite(saved, header_of(saved) | {"targets": 3})
    fails(saved, "its header is broken")
    rewrite(saved, [1])  # type: ignore[arg-type]
    fails(saved, "is not a survey-gampen model")


def test_an_unknown_setting_of_the_architecture(saved: Path) -> None:
    header = header_of(saved)
    header["architecture"]["attention"] = True
    rewrite(saved, header)
    fails(saved, "attention.*: update survey-gampen")


def test_weights_of_another_shape_or_name(saved: Path) -> None:
    rewrite(saved, header_of(saved), **{"conv1.bias": torch.zeros(3)})
    fails(saved, "weights do not fit the architecture: .*conv1.bias")


def test_an_extra_weight(saved: Path) -> None:
    rewrite(saved, header_of(saved), surplus=torch.zeros(3))
    fails(saved, "weights do not fit the architecture: .*surplus")
