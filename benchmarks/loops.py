"""Monte-Carlo dropout as anybody would write it: what the engine is compared with.

A pass is a function of its number, for a batch of images. The three differ in what they keep from
pass to pass:

- ``plain`` keeps nothing: the whole network runs in every pass;
- ``dropout`` keeps what the spatial transformer cropped, and puts ``torch.nn.Dropout`` in training
  mode before each layer that has a rate; the first convolution runs in every pass;
- ``cached`` keeps all that comes before the first dropout, the first convolution too.

What is kept is kept for each orientation in which passes see an image.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from survey_gampen.model.dropout import masks
from survey_gampen.model.network import Block, Gampen
from survey_gampen.model.orientations import corrections, oriented

#: What dropout makes of the input of a site.
Drop = Callable[[Tensor, int], Tensor]


@dataclass(frozen=True)
class Loop:
    """One of them.

    Attributes
    ----------
    one_pass : callable
        Outputs (n, outputs) of pass k.
    before : callable or None
        Computes what it keeps, for one orientation.
    """

    one_pass: Callable[[int], Tensor]
    before: Callable[[], object] | None = None


def loops(network: Gampen, images: Tensor) -> dict[str, Loop]:
    """All of them, for images (n, size, size) on the network's device, in the network's dtype."""
    count = network.arch.orientations
    sites = [nn.Dropout(max(rate, 0.0)).train() for rate in network.rates]

    def functional(x: Tensor, site: int) -> Tensor:
        return F.dropout(x, max(network.rates[site], 0.0))

    def module(x: Tensor, site: int) -> Tensor:
        dropped: Tensor = sites[site](x)
        return dropped

    def cropped(k: int) -> tuple[Tensor, Tensor]:
        stretched = network.stretch(oriented(images, k, count))
        theta = network.localisation(stretched)
        return network.crop(stretched, theta), theta

    def first(crop: Tensor, theta: Tensor) -> tuple[Tensor, Tensor]:
        return F.max_pool2d(F.relu(network.conv1(crop)), 3, 2), theta

    def prefix(k: int) -> tuple[Tensor, Tensor]:
        return first(*cropped(k))

    crops, features = ([make(k) for k in range(count)] for make in (cropped, prefix))
    return {
        "plain": Loop(lambda k: tail(network, *prefix(k), functional)),
        "dropout": Loop(
            lambda k: tail(network, *first(*crops[k % count]), module), lambda: cropped(0)
        ),
        "cached": Loop(
            lambda k: tail(network, *features[k % count], functional), lambda: prefix(0)
        ),
    }


def tail(network: Gampen, features: Tensor, theta: Tensor, drop: Drop) -> Tensor:
    """All that comes after the first convolution."""
    x = features
    crop = theta.flatten(1) if network.arch.head_sees_crop else None
    for block in network.blocks:
        assert isinstance(block, Block)
        if block.flat:
            x = x.flatten(1)
        x = drop(x, block.site)
        if block.flat and crop is not None:
            x, crop = torch.cat([x, crop], dim=1), None
        x = block.after(block.weight_layer(x))
    return x


def expected(network: Gampen, images: Tensor, seed: int, passes: int) -> Tensor:
    """What an engine must give: outputs (n, passes, outputs), under the masks of that seed."""
    count = network.arch.orientations
    seen = [network.prefix(oriented(images, k, count)) for k in range(count)]

    def under(drawn: Sequence[Tensor | None]) -> Drop:
        def drop(x: Tensor, site: int) -> Tensor:
            mask = drawn[site]
            return x if mask is None else x * mask

        return drop

    anchors = torch.stack([tail(network, *one, under([None] * len(network.rates))) for one in seen])
    added = corrections(anchors, anchors)
    outputs = []
    for k in range(passes):
        drawn = [
            masks(seed, k, site, shape, rate, images.device)
            for site, (shape, rate) in enumerate(
                zip(network.site_shapes, network.rates, strict=True)
            )
        ]
        outputs.append(tail(network, *seen[k % count], under(drawn)) + added[k % count])
    return torch.stack(outputs, dim=1)


def disks(n: int, size: int) -> NDArray[np.float32]:
    """Exponential disks on sky noise (n, size, size) [nJy]."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:size, :size] - size // 2
    radius = np.hypot(x, y) / rng.uniform(3, 20, (n, 1, 1))
    images = rng.uniform(50, 5000, (n, 1, 1)) * np.exp(-radius)
    return (images + rng.normal(0, 3, images.shape)).astype(np.float32)
