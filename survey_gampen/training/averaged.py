"""The mean of a network's weights over the latest steps, which is what is judged and kept.

Each step leaves the weights a little beside where they are heading. The mean over many steps
(Polyak & Juditsky 1992, SIAM J. Control Optim. 30, 838) takes that jitter out: of the flux above
all, whose posteriors are narrow.
"""

from __future__ import annotations

import copy

import torch

from survey_gampen.model.network import Gampen


class Averaged:
    """An exponential moving average.

    Parameters
    ----------
    network : Gampen
        To start from.
    decay : float
        Share of the mean that stays at each step: of steps 1 / (1 - decay) back a third is left.
        0: no mean is made.

    Attributes
    ----------
    network : Gampen
        With the averaged weights; with decay 0 the network itself.
    """

    def __init__(self, network: Gampen, decay: float) -> None:
        self.decay = decay
        self.network = copy.deepcopy(network).requires_grad_(False) if decay else network

    @torch.no_grad()
    def follow(self, network: Gampen, step: int) -> None:
        """Take in the weights after step number `step`; the first ones leave the start quickly."""
        if self.decay:
            stays = min(self.decay, (1 + step) / (10 + step))
            for mean, now in zip(self.network.parameters(), network.parameters(), strict=True):
                mean.lerp_(now, 1 - stays)
