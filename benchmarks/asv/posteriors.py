"""Passes in each arithmetic, and what is done once a galaxy: look, summary, masks."""

from __future__ import annotations

import numpy as np
import torch

from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.model.dropout import PackedMasks, masks
from survey_gampen.model.network import Gampen
from survey_gampen.posterior.engine import Draws, Engine
from survey_gampen.posterior.settings import PRECISIONS, has, usable_cores
from survey_gampen.posterior.summary import summarise

BATCH, PASSES, DRAWS = 16, 8, 1000


class _WithEngine:
    """The shipped model with its own dropout rates, which drop a few elements only, or a tenth."""

    timeout = 300
    params = (list(reversed(PRECISIONS)), ["shipped", "a tenth"])
    param_names = ("precision", "rates")

    def setup(self, precision: str, rates: str) -> None:
        if not has(precision, "cpu"):
            raise NotImplementedError(f"no instructions for {precision}")  # asv leaves it out
        model = load_checkpoint("survey")
        if rates == "a tenth":
            network = Gampen(model.config, 0.1).eval().requires_grad_(False)
            network.load_state_dict(model.network.state_dict())
            model.network = network
        self.engine = Engine(
            model,
            passes=PASSES,
            seed=0,
            precision=precision,
            batch=BATCH,
            threads=usable_cores(),
        )
        shape = (BATCH, model.config.size, model.config.size)
        self.images = np.random.default_rng(0).normal(0, 3, shape).astype(np.float32)
        self.seen = self.engine.look(self.images)


class Passes(_WithEngine):
    """Eight passes of sixteen galaxies."""

    def time_passes(self, precision: str, rates: str) -> None:
        self.engine.through(self.seen)

    def peakmem_passes(self, precision: str, rates: str) -> None:
        self.engine.through(self.seen)


class Look(_WithEngine):
    """What all passes of sixteen galaxies share."""

    params = (list(reversed(PRECISIONS)), ["shipped"])

    def time_look(self, precision: str, rates: str) -> None:
        self.engine.look(self.images)

    def peakmem_look(self, precision: str, rates: str) -> None:
        self.engine.look(self.images)


class Summary:
    """Columns of 32 galaxies, from 1000 draws each."""

    def setup(self) -> None:
        scaled = torch.randn(32, DRAWS, 3, generator=torch.manual_seed(0))
        physical = torch.stack([scaled[..., 0].sigmoid(), *scaled[..., 1:].exp().unbind(-1)], -1)
        self.draws = Draws(scaled, physical, torch.rand(32, 3), torch.ones(32, dtype=torch.bool))

    def time_summary(self) -> None:
        summarise(self.draws)

    def peakmem_summary(self) -> None:
        summarise(self.draws)


class Masks:
    """Masks of the shipped network at a rate of a tenth."""

    def setup(self) -> None:
        network = load_checkpoint("survey").network
        self.shapes, self.rates = network.site_shapes, [0.1] * len(network.rates)
        self.packed = PackedMasks(0, PASSES, self.shapes, self.rates)

    def time_philox(self) -> None:
        """Of the largest site."""
        masks(0, 1, 0, self.shapes[0], self.rates[0])

    def time_pack(self) -> None:
        """Those of eight passes."""
        PackedMasks(0, PASSES, self.shapes, self.rates)

    def time_unpack(self) -> None:
        """Those of one pass."""
        self.packed.unpack(0, torch.float32)

    def peakmem_pack(self) -> None:
        PackedMasks(0, PASSES, self.shapes, self.rates)
