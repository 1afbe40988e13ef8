"""The likelihood of the full-covariance head, against torch's own Gaussian."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.distributions import MultivariateNormal

from survey_gampen.model.head import LOG_VARIANCE_RANGE, gaussian_parts, negative_log_likelihood

moderate = st.floats(-3, 3)


@given(st.lists(moderate, min_size=9, max_size=9), st.lists(moderate, min_size=3, max_size=3))
def test_likelihood_is_that_of_the_gaussian(outputs: list[float], target: list[float]) -> None:
    out = torch.tensor([outputs], dtype=torch.float64)
    y = torch.tensor([target], dtype=torch.float64)
    mean, factor = gaussian_parts(out)
    assert factor is not None
    gaussian = MultivariateNormal(mean, scale_tril=factor)
    assert torch.allclose(negative_log_likelihood(out, y), -gaussian.log_prob(y), rtol=1e-9)


@given(st.lists(moderate, min_size=9, max_size=9))
def test_covariance_is_ldl_and_positive_definite(outputs: list[float]) -> None:
    out = torch.tensor(outputs, dtype=torch.float64)
    mean, factor = gaussian_parts(out)
    assert factor is not None
    assert torch.equal(mean, out[:3])
    lower = torch.eye(3, dtype=torch.float64)
    lower[1, 0], lower[2, 0], lower[2, 1] = out[6], out[7], out[8]
    expected = lower @ torch.diag(out[3:6].exp()) @ lower.T
    assert torch.allclose(factor @ factor.T, expected)
    assert torch.linalg.det(expected) > 0


def test_draws_follow_the_covariance() -> None:
    out = torch.tensor([0.5, -1.0, 2.0, 0.3, -0.7, 0.1, 0.6, -0.4, 0.9])
    mean, factor = gaussian_parts(out)
    assert factor is not None
    normal = torch.randn(200_000, 3, generator=torch.Generator().manual_seed(0))
    draws = mean + normal @ factor.T
    assert torch.allclose(draws.mean(0), mean, atol=0.03)
    assert torch.allclose(draws.T.cov(), factor @ factor.T, atol=0.05)


def test_three_outputs_are_least_squares() -> None:
    out, target = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(1))
    mean, factor = gaussian_parts(out)
    assert factor is None
    assert mean is out
    expected = 0.5 * (target - out).square().sum(-1) + 1.5 * math.log(2 * math.pi)
    assert torch.allclose(negative_log_likelihood(out, target), expected)


def test_heads_agree_on_unit_variance() -> None:
    means, target = torch.randn(2, 5, 3, generator=torch.Generator().manual_seed(2))
    nine = torch.cat([means, torch.zeros(5, 6)], dim=1)
    assert torch.allclose(
        negative_log_likelihood(nine, target), negative_log_likelihood(means, target)
    )


@pytest.mark.parametrize("wild", [-1e6, 1e6])
def test_wild_log_variances_stay_finite(wild: float) -> None:
    out = torch.zeros(1, 9)
    out[:, 3:6] = wild
    out.requires_grad_(True)
    loss = negative_log_likelihood(out, torch.ones(1, 3)).sum()
    loss.backward()
    assert math.isfinite(loss.item())
    assert torch.isfinite(out.grad).all()
    _, factor = gaussian_parts(out.detach())
    bound = LOG_VARIANCE_RANGE[wild > 0]
    assert factor[0, 0, 0].item() == pytest.approx(math.exp(bound / 2))
