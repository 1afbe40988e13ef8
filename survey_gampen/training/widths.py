"""Widths of the predicted Gaussians, set so that intervals hold the share of truths they claim.

The likelihood weighs rare large residuals heavily and so makes the bulk of the posteriors too
wide; what a learning rate jitters about is taken for noise as well. One factor for each target
mends both (Guo et al. 2017, arXiv:1706.04599, do the same to a classifier). It is found on galaxies
kept from training and becomes part of the last layer: whoever uses the model knows nothing of it.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from survey_gampen.model.head import gaussian_parts
from survey_gampen.model.network import Gampen

#: Probability within one standard deviation of a normal distribution.
_LEVEL = 0.6827
_DRAWS = 16
_ROUNDS = 4


def width_factors(outputs: Tensor, target: Tensor) -> Tensor:
    """By what to multiply the predicted standard deviations of the three targets.

    The passes scatter too, and a factor does not touch that: so the factors are found in a few
    rounds, each from draws with the last ones.

    Parameters
    ----------
    outputs : Tensor, (n, passes, 9)
        Of galaxies that were kept from training.
    target : Tensor, (n, 3)
        Their scaled truth.

    Returns
    -------
    Tensor, (3,)
    """
    mean, factor = gaussian_parts(outputs.repeat_interleave(_DRAWS, 1))
    if factor is None:
        raise ValueError("a head of three outputs predicts no widths")
    normal = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    spread = (factor @ normal.unsqueeze(-1)).squeeze(-1)
    levels = torch.tensor([0.5 - _LEVEL / 2, 0.5, 0.5 + _LEVEL / 2])
    widths = torch.ones(3)
    for _ in range(_ROUNDS):
        low, middle, high = torch.quantile(mean + widths * spread, levels, dim=1)
        half = torch.where(target > middle, high - middle, middle - low)
        widths = widths * torch.quantile((target - middle).abs() / half, _LEVEL, dim=0)
    return widths


def widen(network: Gampen, factors: Tensor) -> None:
    """Multiply the predicted standard deviations of a network, in place.

    With F the diagonal matrix of the factors, ``F (L D L^T) F = (F L F^-1) (F^2 D) (F L F^-1)^T``:
    log-variances are shifted, covariance terms scaled, means and correlations stay.
    """
    last = network.blocks[-1].weight_layer
    assert isinstance(last, torch.nn.Linear)
    f0, f1, f2 = factors.tolist()
    with torch.no_grad():
        for row, f in zip((3, 4, 5), (f0, f1, f2), strict=True):
            last.bias[row] += 2 * math.log(f)
        for row, ratio in zip((6, 7, 8), (f1 / f0, f2 / f0, f2 / f1), strict=True):
            last.weight[row] *= ratio
            last.bias[row] *= ratio
