"""Widths of the predicted Gaussians, set so that intervals hold the share of truths they claim.

The likelihood weighs rare large residuals heavily and so makes the bulk of the posteriors too
wide; what a learning rate jitters about is taken for noise as well; and the kernel density
estimate, of which the published intervals are made, smooths and so widens them by some per cent.
One factor for each target mends all three (Guo et al. 2017, arXiv:1706.04599, do the same to a
classifier). It may grow with the flux, since what is missing does. It is found on galaxies kept
from training and becomes part of the last layer: whoever uses the model knows nothing of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survey_gampen.model.checkpoint import Checkpoint
from survey_gampen.model.network import Gampen
from survey_gampen.model.targets import Targets
from survey_gampen.posterior.summary import LEVELS
from survey_gampen.training.coverage import coverage, drawn

_LEVEL = LEVELS["ci68"]
#: How fast the coverage of a Gaussian at that level grows with the logarithm of its width.
_GROWTH = 0.484
#: Bins of predicted flux, of equally many galaxies each, through which a line is laid.
_BINS = 4
#: Galaxies below which a share of them says next to nothing about a width.
LEAST = 64
#: Steps towards the line, the share of the way of each, and the largest ln factor.
_STEPS, _DAMPING, _LIMIT = 12, 0.8, 1.5


@dataclass(frozen=True)
class Widths:
    """Factors on the predicted standard deviations of the scaled targets.

    The factor of a target is ``exp(base + slope * f)`` with f the scaled flux that is predicted:
    a power law of the flux, and a bias and a multiple of another output to the last layer.

    Attributes
    ----------
    base, slope : Tensor, (3,)
        Of B/T, R_e and flux.
    """

    base: Tensor
    slope: Tensor

    @classmethod
    def fit(cls, outputs: Tensor, truth: NDArray[np.float64], targets: Targets) -> Widths:
        """Those with which the published 68 % intervals hold 68 % of the truths at any flux.

        Parameters
        ----------
        outputs : Tensor, (n, passes, 9)
            Of galaxies that were kept from training.
        truth : ndarray, (n, 3)
            Their B/T, R_e [arcsec] and flux [nJy].
        targets : Targets

        Raises
        ------
        ValueError
            If the head predicts no widths, or of fewer galaxies than there are bins.
        """
        if outputs.shape[-1] == 3:
            raise ValueError("a head of three outputs predicts no widths")
        flux = outputs[..., 2].mean(1).double()
        bins = flux.argsort().tensor_split(_BINS)
        centres = torch.stack([flux[rows].mean() for rows in bins])
        inverse = torch.linalg.pinv(torch.stack([torch.ones_like(centres), centres], 1), rtol=0.05)
        # Columns: B/T, R_e, flux; rows: base, slope.
        found = torch.zeros(2, 3, dtype=torch.float64)
        for _ in range(_STEPS):
            out = cls(*found.float()).applied(outputs)
            inside = torch.cat(
                [coverage(drawn(out[rows]), truth[rows], targets, [_LEVEL]) for rows in bins]
            )
            # By the pseudo-inverse: if all fluxes are alike, or as good as that, there is no slope.
            found += _DAMPING * inverse @ ((_LEVEL - inside) / _GROWTH)
            found.clamp_(-_LIMIT, _LIMIT)
        return cls(*found.float())

    def applied(self, outputs: Tensor) -> Tensor:
        """Outputs (..., 9) as a network gives them into which these widths are folded."""
        out = outputs.clone()
        out[..., 3:6] += 2 * (self.base + self.slope * outputs[..., 2:3])
        return _with_ratios(out.movedim(-1, 0), self.base).movedim(0, -1)

    def fold(self, network: Gampen) -> None:
        """Make them part of a network's last layer, in place.

        With F the diagonal matrix of factors, ``F (L D L^T) F = (F L F^-1) (F^2 D) (F L F^-1)^T``:
        log-variances are shifted, covariance terms scaled, means and correlations stay. Of the
        slope F^2 D alone takes part.
        """
        last = network.blocks[-1].weight_layer
        assert isinstance(last, torch.nn.Linear)
        with torch.no_grad():
            for rows in (last.weight, last.bias):
                slope = self.slope.view(3, *(1,) * (rows.dim() - 1))
                rows[3:6] += 2 * slope * rows[2]
                _with_ratios(rows, self.base)
            last.bias[3:6] += 2 * self.base

    def to_dict(self) -> dict[str, list[float]]:
        """Plain values for JSON."""
        return {"base": self.base.tolist(), "slope": self.slope.tolist()}


def set_widths(model: Checkpoint, outputs: Tensor, truth: NDArray[np.float64]) -> Widths:
    """Fit the widths of a model and make them part of it, in place.

    Its ``meta`` says in ``widths`` what all such settings of it come to together.

    Parameters
    ----------
    model : Checkpoint
    outputs, truth
        See :meth:`Widths.fit`.
    """
    widths = Widths.fit(outputs, truth, model.targets)
    widths.fold(model.network)
    # Factors are powers of the same flux, which they leave as it is: exponents add up.
    before = model.meta.get("widths", {})
    model.meta["widths"] = {
        key: (np.array(added) + np.array(before.get(key, np.zeros(3)))).tolist()
        for key, added in widths.to_dict().items()
    }
    return widths


def _with_ratios(rows: Tensor, base: Tensor) -> Tensor:
    """Scale, in place, the three covariance terms among the nine rows of a head."""
    for row, (i, j) in zip((6, 7, 8), ((1, 0), (2, 0), (2, 1)), strict=True):
        rows[row] *= torch.exp(base[i] - base[j])
    return rows


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
        Widths(ratio.log(), torch.zeros(3)).fold(network)
