"""How far a galaxy is from those that a network was trained on.

The distance is Mahalanobis's, in the features before the last layer (Lee et al. 2018,
arXiv:1807.03888), along the principal axes in which the training set varies most, without dropout.
It is 1 for a typical galaxy of the training set.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

#: Principal axes that are kept. Few tell stars best, many crowded fields (benchmarks/novelty.py).
AXES = 64
#: Galaxies for each axis, at least: of fewer the spread along the last axes is nothing but chance.
_AN_AXIS = 8
#: Share of the galaxies kept from training that are farther than the threshold.
FALSE_ALARMS = 0.01


@dataclass(frozen=True)
class Novelty:
    """Where the features of the training set lie.

    Attributes
    ----------
    centre : Tensor, (features,)
    axes : Tensor, (features, k)
        Principal axes, each over the standard deviation along it.
    threshold : float
        A score above it counts as out of distribution.
    """

    centre: Tensor
    axes: Tensor
    threshold: float

    @classmethod
    def fit(cls, trained: Tensor, held_out: Tensor, axes: int = AXES) -> Novelty:
        """From features (n, features) of galaxies trained on, and of others of their kind."""
        trained, axes = trained.double(), max(1, min(axes, len(trained) // _AN_AXIS))
        centre = trained.mean(0)
        _, deviation, directions = torch.linalg.svd(trained - centre, full_matrices=False)
        spread = deviation[:axes] / len(trained) ** 0.5
        found = cls(centre.float(), (directions[:axes] / spread[:, None]).t().float(), 0.0)
        threshold = torch.quantile(found.score(held_out), 1 - FALSE_ALARMS).item()
        return cls(found.centre, found.axes, threshold)

    def score(self, features: Tensor) -> Tensor:
        """Scores (n,) of features (n, features), element by element: no row knows of another."""
        along = [
            ((features.float() - self.centre) * axis).sum(-1).square() for axis in self.axes.t()
        ]
        return torch.stack(along).mean(0).sqrt()

    def to(self, device: torch.device) -> Novelty:
        """The same on another device."""
        return Novelty(self.centre.to(device), self.axes.to(device), self.threshold)

    def tensors(self) -> dict[str, Tensor]:
        """What goes into a checkpoint beside the weights."""
        return {"novelty.centre": self.centre, "novelty.axes": self.axes}

    @classmethod
    def take(cls, tensors: dict[str, Tensor], meta: dict[str, Any]) -> Novelty | None:
        """Take it out of what a checkpoint holds, where it is there."""
        if "novelty.centre" not in tensors:
            return None
        centre, axes = tensors.pop("novelty.centre"), tensors.pop("novelty.axes")
        return cls(centre, axes, float(meta["novelty_threshold"]))
