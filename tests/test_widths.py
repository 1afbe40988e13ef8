"""Widths of the predicted Gaussians: found from truths, folded into the last layer."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from survey_gampen.model.head import gaussian_parts
from survey_gampen.training.widths import widen, width_factors
from tests.networks import make_checkpoint, make_images, tiny

FACTORS = st.lists(st.floats(0.3, 3.0), min_size=3, max_size=3)


def predicted(n: int, passes: int) -> torch.Tensor:
    """Outputs of passes that scatter little and predict correlated errors."""
    one = 0.3 * torch.randn(n, 1, 9, generator=torch.Generator().manual_seed(1))
    scatter = torch.randn(n, passes, 9, generator=torch.Generator().manual_seed(2))
    return one + 0.01 * scatter


@settings(max_examples=10)
@given(wrong=FACTORS)
def test_wrong_widths_are_found_out(wrong: list[float]) -> None:
    """Truths that scatter `wrong` times as much as predicted, with the correlations predicted."""
    out = predicted(4000, 4)
    mean, factor = gaussian_parts(out[:, 0])
    normal = torch.randn(4000, 3, 1, generator=torch.Generator().manual_seed(3))
    truth = mean + torch.tensor(wrong) * (factor @ normal).squeeze(-1)
    found = width_factors(out, truth)
    # 4000 galaxies tell a quantile to 2.5 %, 64 draws each to a little more.
    assert torch.allclose(found, torch.tensor(wrong), rtol=0.08)


@settings(max_examples=20, deadline=None)
@given(factors=FACTORS)
def test_folding_scales_the_covariance_and_nothing_else(factors: list[float]) -> None:
    network = make_checkpoint(tiny(outputs=9)).network
    images = torch.from_numpy(make_images(4, 119))
    with torch.no_grad():
        before = network(images)
        widen(network, torch.tensor(factors))
        after = network(images)
    mean, old = gaussian_parts(before)
    assert torch.equal(gaussian_parts(after)[0], mean)
    new = gaussian_parts(after)[1]
    scale = torch.diag(torch.tensor(factors))
    wanted = scale @ old @ old.transpose(1, 2) @ scale
    torch.testing.assert_close(new @ new.transpose(1, 2), wanted, rtol=1e-4, atol=1e-5)


def test_a_head_without_widths_is_refused() -> None:
    with pytest.raises(ValueError, match="no widths"):
        width_factors(torch.zeros(5, 2, 3), torch.zeros(5, 3))
