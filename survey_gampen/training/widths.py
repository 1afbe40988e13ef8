"""Widths of the predicted Gaussians, set so that intervals hold the share of truths they claim.

The likelihood weighs rare large residuals heavily and so makes the bulk of the posteriors too
wide; what a learning rate jitters about is taken for noise as well; and the kernel density
estimate, of which the published intervals are made, smooths and so widens them by some per cent.
One factor for each target mends all three (Guo et al. 2017, arXiv:1706.04599, do the same to a
classifier). It is found on galaxies kept from training and becomes part of the last layer: whoever
uses the model knows nothing of it.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survey_gampen.model.network import Gampen
from survey_gampen.model.targets import Targets
from survey_gampen.posterior.summary import LEVELS
from survey_gampen.training.coverage import coverage, drawn

_LEVEL = LEVELS["ci68"]
#: Between which factors to look, and how often to halve the range: down to half a per cent.
_RANGE, _HALVINGS = (0.25, 4.0), 9


def width_factors(outputs: Tensor, truth: NDArray[np.float64], targets: Targets) -> Tensor:
    """By what to multiply the predicted standard deviations of the three targets.

    Parameters
    ----------
    outputs : Tensor, (n, passes, 9)
        Of galaxies that were kept from training.
    truth : ndarray, (n, 3)
        Their B/T, R_e [arcsec] and flux [nJy].
    targets : Targets

    Returns
    -------
    Tensor, (3,)
        Those with which the published 68 % intervals hold 68 % of the truths.
    """
    if outputs.shape[-1] == 3:
        raise ValueError("a head of three outputs predicts no widths")
    draws = drawn(outputs)
    low, high = (torch.full((3,), limit) for limit in _RANGE)
    for _ in range(_HALVINGS):
        middle = (low * high).sqrt()
        enough = coverage(draws, truth, targets, [_LEVEL], middle)[0] >= _LEVEL
        low, high = torch.where(enough, low, middle), torch.where(enough, middle, high)
    return (low * high).sqrt()


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


def rescale(network: Gampen, old: Targets, new: Targets) -> None:
    """Make a network that predicts in one scaling predict the same in another, in place.

    Parameters
    ----------
    network : Gampen
    old, new : Targets
        Of one form and margin.
    """
    if (old.form, old.margin) != (new.form, new.margin):
        raise ValueError("targets of different forms are no rescaling of each other")
    last = network.blocks[-1].weight_layer
    assert isinstance(last, torch.nn.Linear)
    mean, std = (torch.tensor([getattr(t, key) for t in (old, new)]) for key in ("mean", "std"))
    ratio, offset = std[0] / std[1], (mean[0] - mean[1]) / std[1]
    with torch.no_grad():
        last.weight[:3] *= ratio[:, None]
        last.bias[:3] = last.bias[:3] * ratio + offset
    if len(last.bias) == 9:
        widen(network, ratio)
