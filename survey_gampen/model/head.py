"""From the network's outputs to a Gaussian over the three scaled targets, and its likelihood.

Nine outputs are three means, three log-variances and three covariance terms: the covariance is
``L D L^T`` with ``D`` the diagonal of variances and ``L`` unit lower triangular, positive
definite for any output (Ghosh et al. 2022, ApJ 935, 138, section 4). Three outputs are means
under a fixed unit variance: maximum likelihood is then least squares, as in Ghosh et al. 2021.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

#: Log-variances are kept in this range (scaled targets have variance 1): a standard deviation
#: of 0.0025 to 20. Beyond it the gradient of the likelihood explodes or vanishes.
LOG_VARIANCE_RANGE = (-12.0, 6.0)


def gaussian_parts(out: Tensor) -> tuple[Tensor, Tensor | None]:
    """Mean and factor of the covariance.

    Parameters
    ----------
    out : Tensor, (..., 3) or (..., 9)
        What the network gave.

    Returns
    -------
    mean : Tensor, (..., 3)
    factor : Tensor, (..., 3, 3), or None
        ``L sqrt(D)``: a draw is ``mean + factor @ normal``. None for the three-output head,
        whose draws are the means themselves.
    """
    if out.shape[-1] == 3:
        return out, None
    mean, scale, (l10, l20, l21) = out[..., :3], _standard_deviation(out), _lower(out)
    zero, one = torch.zeros_like(l10), torch.ones_like(l10)
    lower = torch.stack([one, zero, zero, l10, one, zero, l20, l21, one], dim=-1)
    return mean, lower.unflatten(-1, (3, 3)) * scale.unsqueeze(-2)


def predicted(out: Tensor, draws: int) -> tuple[Tensor, Tensor]:
    """Means of outputs (n, passes, outputs), each `draws` times, and random deviations from them.

    The same deviations at each call, so that figures compare; 0 for the three-output head.

    Returns
    -------
    mean, deviation : Tensor, (n, passes * draws, 3)
    """
    mean, factor = gaussian_parts(out.repeat_interleave(draws, 1))
    if factor is None:
        return mean, torch.zeros_like(mean)
    normal = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
    return mean, (factor @ normal.unsqueeze(-1)).squeeze(-1)


def negative_log_likelihood(out: Tensor, target: Tensor) -> Tensor:
    """Of scaled targets (..., 3) under the outputs (..., 3) or (..., 9), per galaxy (...).

    The constant ``1.5 ln 2 pi`` is part of it, so figures of different heads compare.
    """
    constant = 1.5 * math.log(2 * math.pi)
    residual = target - out[..., :3]
    if out.shape[-1] == 3:
        return 0.5 * residual.square().sum(-1) + constant
    scale, (l10, l20, l21) = _standard_deviation(out), _lower(out)
    r0, r1, r2 = residual.unbind(-1)
    # Forward substitution: L z = r.
    z1 = r1 - l10 * r0
    z2 = r2 - l20 * r0 - l21 * z1
    z = torch.stack([r0, z1, z2], dim=-1) / scale
    return 0.5 * z.square().sum(-1) + scale.log().sum(-1) + constant


def _standard_deviation(out: Tensor) -> Tensor:
    low, high = LOG_VARIANCE_RANGE
    return torch.exp(0.5 * out[..., 3:6].clamp(low, high))


def _lower(out: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    return out[..., 6], out[..., 7], out[..., 8]
