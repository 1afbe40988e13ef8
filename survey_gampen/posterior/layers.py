"""The network's layers, laid out for speed and for sums in an order of their own.

In float32 a library's matrix product may add up row 3 of a batch in another order than row 4,
because of where the row lies in memory or in which tile it falls. Then a galaxy's last bits would
depend on its place. A 1 x 1 convolution over a batch of images of one pixel is the same product,
and its kernels treat all images alike (as do the bfloat16 products): see the tests.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from survey_gampen.model.network import Block, Gampen


class RowwiseLinear(nn.Module):
    """A float32 linear layer whose output for a row does not depend on the row's place."""

    weight: Tensor
    bias: Tensor | None

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        super().__init__()
        pixels = weight[:, :, None, None].contiguous(memory_format=torch.channels_last)
        self.register_buffer("weight", pixels)
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """(n, in) -> (n, out)."""
        pixels = x[:, :, None, None].contiguous(memory_format=torch.channels_last)
        return F.conv2d(pixels, self.weight, self.bias).flatten(1)


def make_rowwise(network: nn.Module) -> None:
    """Replace all linear layers of a network by rowwise ones, in place."""
    for parent in list(network.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, nn.Linear):
                setattr(parent, name, RowwiseLinear(child.weight, child.bias))


class MaskedLayer:
    """A block of the network for Monte-Carlo passes.

    The mask is exactly 0 or 1: the factor ``1 / (1 - rate)`` is folded into the weights. Pooling
    comes before ReLU: they commute, and a quarter of the pixels is left.

    Parameters
    ----------
    block : Block
    rate : float
        Dropout rate of its input.
    dtype : torch.dtype
        Of the convolutions' weights and activations; flat layers are float32 whatever it says.
    """

    def __init__(self, block: Block, rate: float, dtype: torch.dtype) -> None:
        layer = block.weight_layer
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        assert layer.bias is not None
        features = block.input_shape[0]
        self.flat = block.flat
        self.relu = not isinstance(block.after, nn.Identity)
        self.pooled = any(isinstance(module, nn.MaxPool2d) for module in block.after.modules())
        # A hundredth of the work, and half of what rounding does to a narrow posterior.
        self.dtype = torch.float32 if self.flat else dtype
        self.padding = layer.padding if isinstance(layer, nn.Conv2d) else 0
        self.bias = layer.bias
        # Columns beyond the features are those of the crop, which is never dropped.
        self.crop_weight = layer.weight[:, features:] if self.flat else layer.weight[:, :0]
        weight = layer.weight[:, :features] / (1 - max(rate, 0.0))
        self.weight = weight.to(self.dtype)
        if not self.flat:
            self.weight = self.weight.contiguous(memory_format=torch.channels_last)
        self.rowwise = RowwiseLinear(weight) if self.flat else None

    def bias_with(self, theta: Tensor) -> Tensor:
        """Bias in the layer's precision: (out,), or (n, out) where the layer sees the crop.

        What it sees of the crop is the same in all passes, so it is a bias of each galaxy.
        """
        bias = self.bias
        for column, value in zip(self.crop_weight.unbind(1), theta.flatten(1).t(), strict=False):
            bias = bias + value.unsqueeze(1) * column
        return bias.to(self.dtype)

    def __call__(self, x: Tensor, bias: Tensor, mask: Tensor | None, *, overwrite: bool) -> Tensor:
        """Mask, weigh, pool, ReLU.

        Parameters
        ----------
        x : Tensor, (n, *input_shape)
            May be changed if `overwrite`.
        bias : Tensor
            From :meth:`bias_with`.
        mask : Tensor or None
            0 or 1, of the input's shape; None drops nothing.
        """
        if self.flat:
            x = x.flatten(1).to(self.dtype)
        if mask is not None:
            x = x.mul_(mask) if overwrite else x * mask
        if self.rowwise is None:
            x = F.conv2d(x, self.weight, bias, padding=self.padding)
        else:
            x = self.rowwise(x) + bias
        if self.pooled:
            x = F.max_pool2d(x, 3, 2)
        return x.relu_() if self.relu else x


#: Features of the first block, and the biases of all layers.
Prepared = tuple[Tensor, list[Tensor]]


class Tail:
    """All that comes after the first dropout, in one arithmetic: a fast :meth:`Gampen.tail`.

    Parameters
    ----------
    network : Gampen
    rates : sequence of float
        Dropout rate of each block's input.
    dtype : torch.dtype
        As :class:`MaskedLayer` has it.
    """

    def __init__(self, network: Gampen, rates: Sequence[float], dtype: torch.dtype) -> None:
        blocks = [block for block in network.blocks if isinstance(block, Block)]
        self.layers = [MaskedLayer(block, rates[block.site], dtype) for block in blocks]
        self.dtype = dtype

    def prepared(self, features: Tensor, theta: Tensor) -> Prepared:
        """What all passes of these galaxies share; arguments from :meth:`Gampen.prefix`."""
        features = features.to(self.dtype, memory_format=torch.channels_last)
        return features, [layer.bias_with(theta) for layer in self.layers]

    def masked(self, prepared: Prepared, masks: Sequence[Tensor | None]) -> Tensor:
        """Outputs (n, outputs) under masks of 0 and 1, one a block."""
        return self._through(prepared, masks, len(self.layers))

    def hidden(self, features: Tensor, theta: Tensor) -> Tensor:
        """What the last layer sees without dropout."""
        prepared = self.prepared(features, theta)
        return self._through(prepared, [None] * len(self.layers), len(self.layers) - 1)

    def last(self, hidden: Tensor) -> Tensor:
        """Outputs (n, outputs) from what the last layer sees, without dropout."""
        layer = self.layers[-1]
        return layer(hidden, layer.bias, None, overwrite=False)

    def __call__(self, features: Tensor, theta: Tensor) -> Tensor:
        """Outputs (n, outputs) without dropout."""
        return self.last(self.hidden(features, theta))

    def _through(self, prepared: Prepared, masks: Sequence[Tensor | None], n: int) -> Tensor:
        features, biases = prepared
        x = features
        for layer, bias, mask in zip(self.layers[:n], biases[:n], masks[:n], strict=True):
            x = layer(x, bias, mask, overwrite=x is not features)
        return x
