"""Targets: there and back again, and what falls beyond the margin."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from survey_gampen.model.targets import Targets

TARGETS = Targets((0.1, 0.3, 8.0), (1.9, 0.6, 1.5), margin=0.02)


@given(st.floats(0, 1), st.floats(0.01, 50), st.floats(1, 1e9))
def test_there_and_back(bt: float, r_e: float, flux: float) -> None:
    scaled = TARGETS.to_scaled([bt], [r_e], [flux])
    assert scaled.dtype == np.float32
    found = TARGETS.to_physical(torch.from_numpy(scaled))[0].tolist()
    assert found == [
        pytest.approx(bt, abs=2e-6),
        pytest.approx(r_e, rel=5e-6),
        pytest.approx(flux, rel=2e-5),
    ]


def test_linear_targets_are_what_they_are() -> None:
    linear = Targets.fit([0.0, 0.5, 1.0], [1.0, 2.0, 3.0], [10.0, 20.0, 30.0], form="linear")
    scaled = linear.to_scaled([0.0, 1.0], [1.0, 3.0], [10.0, 30.0])
    assert scaled == pytest.approx(np.sqrt(1.5) * np.array([[-1.0] * 3, [1.0] * 3]))
    there = linear.to_physical(torch.from_numpy(np.array([[-2.0, 0.0, 0.0]], np.float32)))
    assert there[0].tolist() == pytest.approx([0.0, 2.0, 20.0])  # B/T ends at its ends
    assert Targets.from_dict(json.loads(json.dumps(linear.to_dict()))) == linear


@pytest.mark.parametrize(("bt", "beyond"), [(0.0, -1.0), (1.0, 1.0)])
def test_pure_disks_and_bulges_are_exact_beyond_the_margin(bt: float, beyond: float) -> None:
    scaled = torch.from_numpy(TARGETS.to_scaled([bt], [1.0], [1.0]))
    assert torch.isfinite(scaled).all()
    for step in (0.01, 0.5, 20.0):
        moved = scaled + torch.tensor([beyond * step, 0, 0])
        assert TARGETS.to_physical(moved)[0, 0].item() == bt
    inside = TARGETS.to_physical(scaled - torch.tensor([beyond * 0.1, 0, 0]))[0, 0].item()
    assert 0 < inside < 1


def test_a_fitted_scale_has_mean_zero_and_variance_one() -> None:
    rng = np.random.default_rng(0)
    values = (rng.uniform(0, 1, 5000), rng.lognormal(0, 0.5, 5000), rng.lognormal(8, 1.5, 5000))
    scaled = Targets.fit(*values).to_scaled(*values)
    assert scaled.mean(0) == pytest.approx([0, 0, 0], abs=1e-5)
    assert scaled.std(0) == pytest.approx([1, 1, 1], rel=1e-5)


def test_any_leading_shape_and_float32_whatever_comes() -> None:
    scaled = torch.zeros(2, 5, 7, 3, dtype=torch.bfloat16)
    physical = TARGETS.to_physical(scaled)
    assert physical.shape == scaled.shape
    assert physical.dtype == torch.float32
    assert physical[..., 1].unique().item() == pytest.approx(np.exp(0.3))


def test_the_order_is_kept() -> None:
    ramp = torch.linspace(-4, 4, 101)
    physical = TARGETS.to_physical(torch.stack([ramp] * 3, 1))
    assert torch.all(physical.diff(dim=0) >= 0)


def test_through_json() -> None:
    assert Targets.from_dict(json.loads(json.dumps(TARGETS.to_dict()))) == TARGETS
