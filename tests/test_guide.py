"""The pull of the crop: towards a square that suits the galaxy, and gone at the end."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from survey_gampen.training.guide import distance

SETTINGS = {"radii": 5.0, "smallest": 0.2}
HALF_SIDE = 20.0  # arcsec


def squares(*scales: float) -> torch.Tensor:
    return torch.eye(2, 3)[None] * torch.tensor(scales)[:, None, None]


@pytest.mark.parametrize(
    ("r_e", "scale"),
    [(2.0, 0.5), (0.1, 0.2), (4.0, 1.0), (9.0, 1.0)],
    ids=["five radii", "not smaller than the smallest", "the cutout", "not beyond the cutout"],
)
def test_the_square_is_in_proportion_to_the_galaxy(r_e: float, scale: float) -> None:
    assert distance(squares(scale), np.array([r_e]), HALF_SIDE, SETTINGS).item() < 1e-10
    assert distance(squares(scale + 0.1), np.array([r_e]), HALF_SIDE, SETTINGS) > 0.019


def test_a_shift_or_a_turn_counts_too() -> None:
    theta = squares(0.5)
    theta[0, 0, 2], theta[0, 1, 0] = 0.3, -0.4
    assert distance(theta, np.array([2.0]), HALF_SIDE, SETTINGS).item() == pytest.approx(0.25)


@given(st.lists(st.floats(0.05, 10), min_size=1, max_size=8))
def test_descent_leads_to_the_square(radii: list[float]) -> None:
    theta = (torch.randn(len(radii), 2, 3)).requires_grad_()
    for _ in range(40):
        loss = distance(theta, np.array(radii), HALF_SIDE, SETTINGS)
        (step,) = torch.autograd.grad(loss, theta)
        theta = (theta - 0.25 * len(radii) * step).detach().requires_grad_()
    assert distance(theta, np.array(radii), HALF_SIDE, SETTINGS).item() < 1e-6
    scale = theta.detach()[:, 0, 0].numpy()
    assert np.allclose(scale, np.clip(5 * np.array(radii) / HALF_SIDE, 0.2, 1), atol=1e-3)
