"""GAMPEN: a spatial transformer that crops, and a convolutional network that measures.

Ghosh et al. 2021 (arXiv:2107.01654), after Jaderberg et al. 2015 (spatial transformer) and
GaMorNet (Ghosh et al. 2020, ApJ 895, 112). The network is laid out for Monte-Carlo dropout: all
that lies before the first dropout is :meth:`Gampen.prefix`, computed once a galaxy; the rest is
:attr:`Gampen.blocks`, computed once a pass. A block is *mask, weight layer, ReLU, pool*.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional as F  # noqa: N812

from survey_gampen.model.presets import Architecture

#: (kernel, stride, padding, pool after?) of the five convolutions.
_CONVOLUTIONS = (
    (11, 4, 2, True),
    (5, 1, 2, True),
    (3, 1, 1, False),
    (3, 1, 1, False),
    (3, 1, 1, True),
)


class Block(nn.Module):
    """A weight layer whose *input* is masked, and what follows it.

    Attributes
    ----------
    site : int
        Which dropout site its input is.
    input_shape : tuple of int
        Shape of the mask: (channels, height, width) or (features,).
    weight_layer, after : Module
        The convolution or linear layer; ReLU and pooling, or nothing after the last.
    """

    def __init__(
        self, site: int, input_shape: tuple[int, ...], weight_layer: nn.Module, after: nn.Module
    ) -> None:
        super().__init__()
        self.site = site
        self.input_shape = input_shape
        self.weight_layer = weight_layer
        self.after = after

    @property
    def flat(self) -> bool:
        """Whether the block works on flat features."""
        return len(self.input_shape) == 1


class Localisation(nn.Module):
    """The six parameters of the affine transformation that crops an image."""

    def __init__(self, arch: Architecture) -> None:
        super().__init__()
        first, second, hidden = arch.localisation
        self.pool = arch.localisation_pool
        self.conv1 = nn.Conv2d(arch.channels, first, 11)
        self.conv2 = nn.Conv2d(first, second, 9)
        side = arch.size // arch.localisation_pool
        sides = [side]  # of the input of each weight layer
        for kernel in (11, 9):
            sides.append((sides[-1] - kernel + 1 - 3) // 2 + 1)
        self.fc1 = nn.Linear(second * sides[-1] ** 2, hidden)
        self.fc2 = nn.Linear(hidden, 6)
        self.input_shapes: list[tuple[int, ...]] = [
            (arch.channels, side, side),
            (first, sides[1], sides[1]),
            (second * sides[-1] ** 2,),
            (hidden,),
        ]
        nn.init.zeros_(self.fc2.weight)
        with torch.no_grad():
            self.fc2.bias.copy_(torch.tensor([1.0, 0, 0, 0, 1, 0]))

    def forward(self, image: Tensor, masks: Sequence[Tensor | None] = (None,) * 4) -> Tensor:
        """(n, channels, side, side) stretched images -> (n, 2, 3) transformations."""
        if self.pool > 1:
            image = F.avg_pool2d(image, self.pool)
        x = F.max_pool2d(F.relu(_weighed(self.conv1, image, masks[0])), 3, 2)
        x = F.max_pool2d(F.relu(_weighed(self.conv2, x, masks[1])), 3, 2).flatten(1)
        x = F.relu(_weighed(self.fc1, x, masks[2]))
        # Half a per cent of rounding in bfloat16 would move the crop by half a pixel.
        with torch.autocast(x.device.type, enabled=False):
            return _weighed(self.fc2, x.float(), masks[3]).view(-1, 2, 3)


class Gampen(nn.Module):
    """The network.

    Parameters
    ----------
    arch : Architecture
        Widths and the like.
    rates : float or sequence of float
        Dropout rate, one for all sites or one a site. Sites are numbered in the order of the
        blocks (0 is the input of the second convolution); with ``dropout="everywhere"`` the
        localisation network's four and the first convolution's follow at the end.
    """

    def __init__(self, arch: Architecture, rates: float | Sequence[float] = 0.0) -> None:
        super().__init__()
        self.arch = arch
        self.localisation = Localisation(arch)
        widths = arch.convolutions
        kernel, stride, padding, _ = _CONVOLUTIONS[0]
        self.conv1 = nn.Conv2d(arch.channels, widths[0], kernel, stride, padding)
        side = ((arch.size + 2 * padding - kernel) // stride + 1 - 3) // 2 + 1

        blocks: list[Block] = []
        layer: nn.Module
        after: nn.Module
        for (n_in, n_out), (kernel, stride, padding, pooled) in zip(
            pairwise(widths), _CONVOLUTIONS[1:], strict=True
        ):
            layer = nn.Conv2d(n_in, n_out, kernel, stride, padding)
            after = nn.Sequential(nn.ReLU(), nn.MaxPool2d(3, 2)) if pooled else nn.ReLU()
            blocks.append(Block(len(blocks), (n_in, side, side), layer, after))
            side = (side - 3) // 2 + 1 if pooled else side
        features = (widths[-1] * side * side, *arch.hidden, arch.outputs)
        last = nn.Linear(arch.hidden[-1], arch.outputs)
        for n_in, n_out in pairwise(features):
            final = len(blocks) == len(widths) - 1 + len(arch.hidden)
            extra = 6 if arch.head_sees_crop and n_in == features[0] else 0
            layer = last if final else nn.Linear(n_in + extra, n_out)
            after = nn.Identity() if final else nn.ReLU()
            blocks.append(Block(len(blocks), (n_in,), layer, after))
        self.blocks = nn.ModuleList(blocks)
        self.site_shapes: list[tuple[int, ...]] = [b.input_shape for b in blocks]
        if arch.dropout == "everywhere":
            first = (arch.channels, arch.size, arch.size)
            self.site_shapes += [*self.localisation.input_shapes, first]
        n_sites = len(self.site_shapes)
        self.rates = (rates,) * n_sites if isinstance(rates, (int, float)) else tuple(rates)
        if len(self.rates) != n_sites:
            raise ValueError(f"{n_sites} dropout sites, {len(self.rates)} rates")
        for module in self.modules():
            if isinstance(module, nn.Conv2d) or (
                isinstance(module, nn.Linear) and module is not self.localisation.fc2
            ):
                nn.init.kaiming_normal_(module.weight, nonlinearity="relu")
                nn.init.constant_(module.get_parameter("bias"), 0.0)
        # A new network says "anything within the training set": mean 0, variance 1.
        nn.init.normal_(last.weight, std=0.02 * math.sqrt(2 / last.in_features))

    @property
    def dropout(self) -> str:
        """Where dropout acts: "regression" or "everywhere"."""
        return self.arch.dropout

    def stretch(self, image: Tensor) -> Tensor:
        """Pixels [nJy], (n, size, size) or (n, channels, size, size), -> (n, channels, size, size)
        that the network sees."""
        # torch.asinh is stable for large negative pixels; log(x + sqrt(x^2 + 1)) is not.
        stretched = torch.asinh(image / self.arch.stretch)
        return stretched.unsqueeze(1) if image.dim() == 3 else stretched

    def crop(self, stretched: Tensor, theta: Tensor) -> Tensor:
        """Resample (n, channels, size, size) images by the transformations (n, 2, 3)."""
        # The matrix products of F.affine_grid, three wide, cost more than the sampling.
        height, width = stretched.shape[2:]
        x = _pixel_centres(width, theta)
        y = _pixel_centres(height, theta)[:, None, None]
        u, v, shift = theta[:, None, None].unbind(-1)  # each (n, 1, 1, 2)
        grid = u * x[:, None] + (v * y + shift)
        return F.grid_sample(stretched, grid, padding_mode="zeros", align_corners=False)

    def prefix(
        self, image: Tensor, masks: Sequence[Tensor | None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """All that comes before the first block.

        Parameters
        ----------
        image : Tensor, (n, size, size), or (n, channels, size, size) of several bands
            Pixels [nJy].
        masks : sequence of five Tensor or None
            Masks of the localisation network's sites and of the first convolution's, which
            ``dropout="everywhere"`` alone has.

        Returns
        -------
        features : Tensor, (n, channels, side, side)
            Input of the first block.
        theta : Tensor, (n, 2, 3)
            Affine transformation: output coordinates (-1 to 1) to input coordinates.
        """
        masks = masks or (None,) * 5
        stretched = self.stretch(image)
        theta = self.localisation(stretched, masks[:4])
        # The sampler works on coordinates: bfloat16 could not tell neighbouring pixels apart.
        with torch.autocast(stretched.device.type, enabled=False):
            cropped = self.crop(stretched, theta)
        x = F.max_pool2d(F.relu(_weighed(self.conv1, cropped, masks[4])), 3, 2)
        return x, theta

    def tail(
        self, features: Tensor, theta: Tensor, masks: Sequence[Tensor | None] | None = None
    ) -> Tensor:
        """The blocks in order: the readable reference of one Monte-Carlo pass.

        Parameters
        ----------
        features, theta : Tensor
            From :meth:`prefix`.
        masks : sequence of Tensor or None
            One a block, of shape ``site_shapes[block]`` (shared by all images) or with a
            leading n: 0 or 1 / (1 - rate). None drops nothing.

        Returns
        -------
        Tensor, (n, outputs)
        """
        masks = masks or (None,) * len(self.blocks)
        x = self.hidden(features, theta, masks[:-1])
        with torch.autocast(x.device.type, enabled=False):  # float32 whatever came before
            return _weighed(self.blocks[-1].get_submodule("weight_layer"), x.float(), masks[-1])

    def hidden(
        self, features: Tensor, theta: Tensor, masks: Sequence[Tensor | None] | None = None
    ) -> Tensor:
        """All blocks but the last, as :meth:`tail`: what the last one sees, (n, features)."""
        masks = masks or (None,) * (len(self.blocks) - 1)
        x = features
        crop = theta.flatten(1) if self.arch.head_sees_crop else None
        for block, mask in zip(list(self.blocks)[:-1], masks, strict=True):
            assert isinstance(block, Block)
            if block.flat:
                x = block.after(_weighed(block.weight_layer, x.flatten(1), mask, crop))
                crop = None  # the first flat layer alone sees it
            else:
                x = block.after(_weighed(block.weight_layer, x, mask))
        return x

    def forward(self, image: Tensor, masks: Sequence[Tensor | None] | None = None) -> Tensor:
        """Pixels [nJy] -> outputs (n, outputs), under `masks` of all sites; see :meth:`prefix`."""
        return self.with_crop(image, masks)[0]

    def with_crop(
        self, image: Tensor, masks: Sequence[Tensor | None] | None = None
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`forward`, and the transformations (n, 2, 3) that cropped the images."""
        n = len(self.blocks)
        masks = list(masks or (None,) * len(self.site_shapes))
        features, theta = self.prefix(image, masks[n:] or None)
        return self.tail(features, theta, masks[:n]), theta

    def random_masks(self, n: int, like: Tensor) -> list[Tensor | None]:
        """Independent masks for each of `n` images, float32 on the device of `like`: for training,
        where passes are not shared."""
        return [
            None
            if rate <= 0
            else torch.empty((n, *shape), device=like.device).bernoulli_(1 - rate).div_(1 - rate)
            for shape, rate in zip(self.site_shapes, self.rates, strict=True)
        ]


def _pixel_centres(n: int, like: Tensor) -> Tensor:
    """Coordinates of n pixels across -1 to 1."""
    return (2 * torch.arange(n, device=like.device, dtype=like.dtype) + 1) / n - 1


def _weighed(
    layer: nn.Module, x: Tensor, mask: Tensor | None, beside: Tensor | None = None
) -> Tensor:
    """A weight layer on an input under a mask of 0 and 1 / (1 - rate), and on what is not masked.

    The factor goes with the weights. In bfloat16 an input times 1.0005 is the input, seven layers
    that lack it add up to a flux that is a per cent off, and engines, which fold it into weights
    too, would not compute what was trained.
    """
    features = x.shape[1]
    if mask is not None:
        x = x * (mask > 0)
    if beside is not None:
        x = torch.cat([x, beside.to(x.dtype)], dim=1)
    if mask is None:
        return cast("Tensor", layer(x))
    weight = cast("Tensor", layer.weight)
    masked = weight[:, :features] * mask.amax()
    whole = masked if beside is None else torch.cat([masked, weight[:, features:]], dim=1)
    return cast("Tensor", functional_call(layer, {"weight": whole}, (x,)))
