"""Whether intervals hold what they claim: coverage at any level, and ranks of the truth.

From the outputs of some passes, in a training, where an engine would be out of place; the
intervals are those that are published (Ghosh et al. 2021, arXiv:2107.01654, section 5.2).
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survey_gampen.model.head import predicted
from survey_gampen.model.targets import Targets
from survey_gampen.posterior.density import intervals
from survey_gampen.posterior.summary import densities

#: Levels of coverage curves: 5 to 99 %.
LEVELS = tuple(np.round(np.append(np.arange(0.05, 1.0, 0.05), 0.99), 2).tolist())
#: As many draws a galaxy as a run takes by default: the fewer, the more the estimate smooths.
DRAWS = 1000
_CHUNK = 256  # galaxies at once


#: Of the galaxies of one chunk: means of their draws, and deviations from these.
Drawn = Sequence[tuple[Tensor, Tensor]]


def drawn(outputs: Tensor) -> Drawn:
    """Draws of the scaled targets, at least :data:`DRAWS` a galaxy, from (n, passes, 3 or 9)."""
    each = math.ceil(DRAWS / outputs.shape[1])
    return [predicted(part, each) for part in outputs.split(_CHUNK)]


def coverage(
    draws: Drawn,
    truth: NDArray[np.float64],
    targets: Targets,
    levels: Sequence[float],
    widths: Tensor | float = 1.0,
) -> Tensor:
    """Shares of truths within the published intervals.

    Parameters
    ----------
    draws : Drawn
        Of n galaxies, from :func:`drawn`.
    truth : ndarray, (n, 3)
        B/T, R_e [arcsec], flux [nJy].
    targets : Targets
    levels : sequence of float
    widths : Tensor, (3,)
        Factors on the predicted standard deviations of the scaled targets.

    Returns
    -------
    Tensor, (levels, 3) float64
    """
    inside = torch.zeros(len(levels), 3, dtype=torch.float64)
    for rows, values in physical(draws, targets, widths):
        inside += held(values, truth[rows], levels).double().sum(0)
    return inside / len(truth)


def held(draws: Tensor, truth: NDArray[np.float64], levels: Sequence[float]) -> Tensor:
    """Whether the published intervals of draws (n, passes, 3) hold the truth (n, 3).

    Returns
    -------
    Tensor, (n, levels, 3) bool, on the CPU
    """
    density, true = densities(draws), torch.from_numpy(truth).to(draws.device)
    low, high = (end.transpose(1, 2) for end in intervals(density, levels))
    # Draws are float32: a truth on the boundary must not fall outside by rounding.
    true = true.unsqueeze(1)
    return ((low <= true * (1 + 1e-6)) & (high >= true * (1 - 1e-6))).cpu()


def physical(
    draws: Drawn, targets: Targets, widths: Tensor | float = 1.0
) -> Iterator[tuple[slice, Tensor]]:
    """Draws (n, draws, 3) of B/T, R_e [arcsec] and flux [nJy], by the chunk of galaxies."""
    start = 0
    for mean, deviation in draws:
        yield slice(start, start + len(mean)), targets.to_physical(mean + widths * deviation)
        start += len(mean)
