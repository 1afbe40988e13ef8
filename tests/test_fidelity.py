"""Which fast arithmetic a network bears, and what it says of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from networks import make_checkpoint, make_images, tiny

from survey_gampen.model.checkpoint import load_checkpoint, save_checkpoint, shipped_models
from survey_gampen.model.targets import PARAMETERS
from survey_gampen.posterior.fidelity import (
    activation_ranges,
    fidelity,
    set_precisions,
    shifts,
)
from survey_gampen.posterior.settings import has
from survey_gampen.posterior.summary import PERCENTILES

FAST = [p for p in ("bf16", "int8") if has(p, "cpu")]


def test_ranges_are_those_of_the_activations() -> None:
    checkpoint = make_checkpoint(tiny())
    network, images = checkpoint.network, make_images(20, 119, seed=7)
    found = activation_ranges(checkpoint, images)
    with torch.inference_mode():
        x, _ = network.prefix(torch.from_numpy(images))
        for block, largest in zip(network.blocks, found, strict=False):
            inside = x.flatten(1).amax(1) <= largest * (1 + 1e-5)
            assert inside.sum() == 19  # of twenty
            x = block.after(block.weight_layer(x))
    assert len(found) == 4


def columns(values: dict[str, float]) -> dict[str, np.ndarray]:
    return {
        f"{quantity}_{name}": np.array([values[name]], np.float32)
        for quantity in PARAMETERS
        for name in PERCENTILES
    }


@given(st.floats(0.01, 100), st.floats(-3, 3))
def test_a_shift_is_a_share_of_half_the_width(width: float, share: float) -> None:
    exact = {"p2_5": -2 * width, "p16": -width, "p50": 0.0, "p84": width, "p97_5": 2 * width}
    moved = columns({name: value + share * width for name, value in exact.items()})
    for shift in shifts(columns(exact), moved).values():
        assert np.isclose(shift, abs(share), rtol=1e-4, atol=1e-5)


def test_without_a_width_nothing_or_all_has_moved() -> None:
    """All draws a pure disk, say."""
    exact = columns(dict.fromkeys(PERCENTILES, 0.0))
    assert all(shift == 0 for shift in shifts(exact, exact).values())
    moved = columns(dict.fromkeys(PERCENTILES, 0.1))
    assert all(np.isinf(shift) for shift in shifts(exact, moved).values())


@pytest.mark.skipif(not FAST, reason="no fast arithmetic here")
def test_a_network_says_what_it_bears(tmp_path: Path) -> None:
    checkpoint = make_checkpoint(tiny(orientations=8), 0.0001)
    set_precisions(checkpoint, make_images(32, 119, seed=2))
    save_checkpoint(
        tmp_path / "m.safetensors", checkpoint.network, checkpoint.targets, checkpoint.meta
    )
    model = load_checkpoint(tmp_path / "m.safetensors")
    assert model.ranges == checkpoint.meta["activation_ranges"]
    for precision in FAST:
        measured = model.meta["fidelity"][precision]
        assert (measured["galaxies"], measured["passes"]) == (32, 64)
        assert 0 <= measured["median"] <= measured["p95"] < 0.15
        assert model.is_faithful(precision)


@pytest.mark.skipif("int8" not in FAST, reason="no int8 here")
def test_ranges_that_clip_everything_are_seen() -> None:
    """By posteriors whose width is that of dropout alone."""
    checkpoint = make_checkpoint(tiny(outputs=3), 0.01)
    checkpoint.meta["activation_ranges"] = [x / 50 for x in checkpoint.ranges]
    found = fidelity(checkpoint, make_images(16, 119, seed=2), 32, ["int8"])
    assert not found["int8"]["kept"]
    assert found["int8"]["p95"] > 0.15


def test_a_process_keeps_its_threads() -> None:
    """A training that goes on after its model was finished must give the same bits."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        set_precisions(make_checkpoint(tiny()), make_images(4, 119))
        assert torch.get_num_threads() == 1
    finally:
        torch.set_num_threads(before)


def test_where_dropout_acts_everywhere_float32_alone_is_used() -> None:
    checkpoint = make_checkpoint(tiny(dropout="everywhere"))
    model = replace(checkpoint, meta={})
    set_precisions(model, make_images(4, 119))
    assert model.meta == {}


@pytest.mark.parametrize("name", shipped_models())
def test_shipped_models_say_it(name: str) -> None:
    model = load_checkpoint(name)
    assert len(model.ranges) == 4
    for precision in ("bf16", "int8"):
        measured = model.meta["fidelity"][precision]
        assert measured["kept"] == (measured["median"] < 0.05 and measured["p95"] < 0.15)
        assert measured["kept"] == model.is_faithful(precision)
    assert model.is_faithful("bf16")
