"""Small networks and images for the tests of the engine."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from survey_gampen.model.checkpoint import Checkpoint
from survey_gampen.model.network import Gampen
from survey_gampen.model.presets import Architecture, architecture
from survey_gampen.model.targets import Targets
from survey_gampen.posterior.fidelity import activation_ranges

TARGETS = Targets((0.0, 0.3, 8.0), (1.5, 0.6, 1.2))


def tiny(**changes: object) -> Architecture:
    """A network a thousand times cheaper than the shipped ones, with all their parts."""
    widths = {
        "size": 119,
        "localisation_pool": 2,
        "localisation": (4, 6, 8),
        "convolutions": (8, 16, 24, 16, 16),
        "hidden": (24, 16),
        "orientations": 1,  # eight of them take eight times as long where passes are few
    }
    return architecture("survey", **(widths | changes))


def make_checkpoint(arch: Architecture, rate: float = 0.1, seed: int = 1) -> Checkpoint:
    """Random weights, none of them zero, so that every term counts."""
    torch.manual_seed(seed)
    network = Gampen(arch, rate)
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, (torch.nn.Conv2d, torch.nn.Linear)):
                module.bias.add_(0.1 * torch.randn_like(module.bias))
        network.localisation.fc2.weight.normal_(std=0.01)
        # Random heads are wild; trained ones keep to the scaled targets.
        network.blocks[-1].weight_layer.weight.mul_(0.1)
    model = Checkpoint(network.eval().requires_grad_(False), TARGETS)
    # Of the images below; an eight-bit range need not be exact.
    model.meta["activation_ranges"] = activation_ranges(model, make_images(16, arch.size))
    return model


def make_images(n: int, size: int, seed: int = 0) -> NDArray[np.float32]:
    """Exponential disks on sky noise [nJy]."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:size, :size] - size // 2
    radius = np.hypot(x / rng.uniform(0.4, 1, (n, 1, 1)), y) / rng.uniform(3, 20, (n, 1, 1))
    image = rng.uniform(50, 5000, (n, 1, 1)) * np.exp(-radius) + rng.normal(0, 3, (n, size, size))
    return image.astype(np.float32)
