"""Gaussian kernel density estimates of many samples at once, their modes and intervals.

The bandwidth is Scott's, ``std * N**(-1/5)`` (Scott 1992), as in ``scipy.stats.gaussian_kde``.
Each sample gets its own grid with a step of a fixed fraction of its own bandwidth, so that one
short list of weights is the kernel of all of them; draws are put on the grid by linear binning
(Wand 1994) in integers, whose sum is the same in any order, also in a GPU's.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

#: Grid steps a bandwidth. Linear binning widens the kernel by (1/8)^2 / 12 in variance: 0.1 %.
STEPS = 8
#: The kernel is cut at this many bandwidths, where it has fallen to 4e-6.
REACH = 5
#: A draw's weight in binning units; a galaxy's weights add up in 63 bits for any number of draws.
_UNIT = 2**24
#: Halvings of the bracket of an interval's half-width: down to a float32's last bit.
_BISECTIONS = 40


@dataclass(frozen=True)
class Density:
    """Densities on grids, one a row, with the range they are confined to.

    Attributes
    ----------
    start, step, span : Tensor, (...)
        First point and step of each grid, and the width on which it is not 0 (a grid is longer
        where another row needs more points). A step of 0 marks a constant sample.
    cumulative : Tensor, (..., points)
        Integral of the density from the start to each point, of the whole line's 1.
    mode : Tensor, (...)
    lower, upper : Tensor
        Range; broadcasts against `mode`.
    """

    start: Tensor
    step: Tensor
    span: Tensor
    cumulative: Tensor
    mode: Tensor
    lower: Tensor
    upper: Tensor

    def within(self, half: Tensor) -> Tensor:
        """Mass between mode - half and mode + half that lies in the range: (..., k) of (..., k)."""
        low, high = self.below(torch.cat(self.ends(half), dim=-1)).chunk(2, dim=-1)
        return high - low

    def ends(self, half: Tensor) -> tuple[Tensor, Tensor]:
        """mode - half and mode + half (..., k), clipped to the range."""
        mode = self.mode.unsqueeze(-1)
        low = torch.maximum(mode - half, self.lower.unsqueeze(-1))
        return low, torch.minimum(mode + half, self.upper.unsqueeze(-1))

    def below(self, x: Tensor) -> Tensor:
        """The density's integral up to each x (..., k)."""
        last = self.cumulative.shape[-1] - 1
        # A constant sample has a step of 0: 0 / 0 would be no position.
        step = self.step.clamp(min=torch.finfo(self.step.dtype).tiny).unsqueeze(-1)
        position = ((x - self.start.unsqueeze(-1)) / step).nan_to_num(0.0).clamp(0, last)
        index = position.long().clamp(max=last - 1)
        left = self.cumulative.gather(-1, index)
        right = self.cumulative.gather(-1, index + 1)
        return left + (position - index) * (right - left)


def kernel_density(
    ordered: Tensor,
    std: Tensor,
    reflected: Sequence[bool],
    lower: Sequence[float],
    upper: Sequence[float],
) -> Density:
    """Estimate densities.

    Parameters
    ----------
    ordered : Tensor, (n, quantities, passes) float64
        Sorted finite draws.
    std : Tensor, (n, quantities)
        Their sample standard deviations.
    reflected, lower, upper
        One a quantity: the range, and whether draws are reflected at its ends.
    """
    passes = ordered.shape[-1]
    low, high = ordered[..., 0], ordered[..., -1]
    # What is constant but for rounding has no density: its grid has no width.
    spread = (high - low) > 1e-12 * torch.maximum(low.abs(), high.abs())
    bandwidth = torch.where(spread, std, 0.0) * passes ** (-1 / 5)
    step = bandwidth / STEPS
    # Twice the kernel's reach beyond the draws: room for those reflected there that matter.
    margin = 2 * REACH * STEPS
    start = low - margin * step
    widest = ((high - low) / step).nan_to_num(0.0).flatten().tolist()
    points = math.ceil(max(widest, default=0.0)) + 2 * margin + 2

    ends = torch.tensor([lower, upper], dtype=ordered.dtype, device=ordered.device)
    counts = _bin(ordered, start, step, points)
    for i in (i for i, mirrors in enumerate(reflected) if mirrors):
        for end in ends[:, i]:
            mirrored = 2 * end - ordered[..., i, :]
            counts[..., i, :] += _bin(mirrored, start[..., i], step[..., i], points)
    density = _smooth(counts.double())

    trapezoids = torch.nn.functional.pad((density[..., 1:] + density[..., :-1]) / 2, (1, 0))
    cumulative = trapezoids.cumsum(-1) / (_UNIT * passes)
    least, most = ends
    mode = torch.where(step > 0, _maximum(density, start, step, least, most), low)
    span = high - low + 2 * margin * step
    return Density(start, step, span, cumulative, mode, least, most)


def intervals(density: Density, levels: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Grow intervals symmetrically from the mode until they hold each level, clipped to the range.

    Mass beyond the range counts for nothing: of what is within, an interval holds its level.

    Returns
    -------
    low, high : Tensor, (..., levels)
    """
    everything = torch.full_like(density.mode, torch.inf).unsqueeze(-1)
    wanted = density.within(everything) * torch.tensor(levels, dtype=torch.float64).to(density.mode)
    short = torch.zeros_like(wanted)
    enough = density.span.unsqueeze(-1).expand_as(wanted)
    for _ in range(_BISECTIONS):
        middle = (short + enough) / 2
        holding = density.within(middle) >= wanted
        enough = torch.where(holding, middle, enough)
        short = torch.where(holding, short, middle)
    return density.ends(enough)


def _bin(values: Tensor, start: Tensor, step: Tensor, points: int) -> Tensor:
    """Linear binning of (..., passes): integer weights (..., points); what falls beside is lost."""
    position = (values - start.unsqueeze(-1)) / step.unsqueeze(-1)
    inside = (position >= 0) & (position < points - 1)  # False for NaN too
    position = torch.where(inside, position, 0.0)
    index = position.long()
    right = ((position - index) * _UNIT).round().long() * inside
    left = inside * _UNIT - right
    counts = torch.zeros((*values.shape[:-1], points), dtype=torch.int64, device=values.device)
    return counts.scatter_add_(-1, index, left).scatter_add_(-1, index + 1, right)


def _smooth(counts: Tensor) -> Tensor:
    """Convolve rows with the kernel, whose weights add up to 1."""
    reach = REACH * STEPS
    weights = [math.exp(-0.5 * (i / STEPS) ** 2) for i in range(reach + 1)]
    total = weights[0] + 2 * sum(weights[1:])
    padded = torch.nn.functional.pad(counts, (reach, reach))
    n = counts.shape[-1]
    smooth = counts * (weights[0] / total)
    # A loop over the kernel: each point is the same sum in the same order on any device.
    for i, weight in enumerate(weights[1:], start=1):
        pair = padded[..., reach - i : reach - i + n] + padded[..., reach + i : reach + i + n]
        smooth.add_(pair, alpha=weight / total)
    return smooth


def _maximum(density: Tensor, start: Tensor, step: Tensor, lower: Tensor, upper: Tensor) -> Tensor:
    """Where each row's density is highest within the range: vertex of the parabola on the top."""
    points = torch.arange(density.shape[-1], dtype=density.dtype, device=density.device)
    x = start.unsqueeze(-1) + points * step.unsqueeze(-1)
    # One step beyond, lest the top be missed that lies between a point inside and one outside.
    near = (x > (lower - step).unsqueeze(-1)) & (x < (upper + step).unsqueeze(-1))
    top = torch.where(near, density, -1.0).argmax(-1).clamp(1, density.shape[-1] - 2)
    left, middle, right = (
        density.gather(-1, (top + shift).unsqueeze(-1)).squeeze(-1) for shift in (-1, 0, 1)
    )
    vertex = ((left - right) / (2 * (left - 2 * middle + right))).nan_to_num(0.0).clamp(-1, 1)
    return (start + (top + vertex) * step).clamp(lower, upper)
