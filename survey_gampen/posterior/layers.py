"""The network's layers as Monte-Carlo passes use them, laid out for speed.

Dropout keeps an element and multiplies it by ``1 / (1 - rate)``. That factor stands in no weight
here. A layer with ReLU is homogeneous, so factors can wait: with A the product of the factors so
far, z the activations over A and m a mask of 0 and 1::

    z'  =  relu(W (m z) + bias / A)

and the last layer's output times A is that of the network. The weights of a pass are so, bit for
bit, those of a pass that drops nothing (the *anchor*), and what rounding does to both is the same
wherever the mask leaves things as they are. It falls out of their difference, which is what a pass
is used for (:mod:`survey_gampen.posterior.tail`).
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812

from survey_gampen.model.network import Block

#: Steps of an activation in eight bits.
LEVELS = 255
_WEIGHT_LEVELS = 127
#: Outputs that are more, and fill no such blocks, are computed as two halves: oneDNN's kernels for
#: VNNI take 13.5 ms for 192 at once (conv 2 of a pass) and 7.9 ms for twice 96.
_BLOCK = 128


class Layer(ABC):
    """What all layers of a pass have in common.

    Parameters
    ----------
    block : Block
    gain : float
        Product of the factors of dropout of this layer's input and of all before.

    Attributes
    ----------
    weight : Tensor
        Of what is masked.
    """

    def __init__(self, block: Block, gain: float) -> None:
        layer = block.weight_layer
        assert isinstance(layer, (nn.Conv2d, nn.Linear))
        assert layer.bias is not None
        features = block.input_shape[0]
        self.flat = block.flat
        self.pooled = any(isinstance(module, nn.MaxPool2d) for module in block.after.modules())
        self.padding: list[int] = []
        if isinstance(layer, nn.Conv2d):
            assert not isinstance(layer.padding, str)
            self.padding = list(layer.padding)
        self.weight = layer.weight[:, :features]
        self._bias = layer.bias / gain
        # Columns beyond the features are those of the crop, which is never dropped.
        self._crop_weight = (layer.weight[:, features:] if self.flat else self.weight[:, :0]) / gain

    def bias(self, theta: Tensor) -> Tensor:
        """Bias (out,), or (n, out) where the layer sees the crop.

        What it sees of the crop is the same in all passes, so it is a bias of each galaxy.
        """
        bias = self._bias
        for column, value in zip(self._crop_weight.unbind(1), theta.flatten(1).t(), strict=False):
            bias = bias + value.unsqueeze(1) * column
        return bias

    @abstractmethod
    def takes(self, x: Tensor) -> Tensor:
        """The layer's input as its arithmetic holds it."""

    @abstractmethod
    def __call__(self, x: Tensor, bias: Tensor) -> Tensor:
        """Weigh what is masked already. Of convolutions: pool, ReLU."""


class Convolution(Layer):
    """In float32 or bfloat16. Pooling comes before ReLU: they commute, and there is less of it."""

    def __init__(self, block: Block, gain: float, dtype: torch.dtype) -> None:
        super().__init__(block, gain)
        self.dtype = dtype
        self.weight = self.weight.to(dtype).contiguous(memory_format=torch.channels_last)

    def bias(self, theta: Tensor) -> Tensor:
        return super().bias(theta).to(self.dtype)

    def takes(self, x: Tensor) -> Tensor:
        return x.to(self.dtype, memory_format=torch.channels_last)

    def convolved(self, x: Tensor, bias: Tensor) -> Tensor:
        """What comes before pooling and ReLU."""
        return F.conv2d(x, self.weight, bias, padding=self.padding)

    def __call__(self, x: Tensor, bias: Tensor) -> Tensor:
        return rectified(self.convolved(x, bias), self.pooled)


class QuantisedConvolution(Layer):
    """In integers of eight bits, whose sums of products are exact.

    Activations, which are never negative, are steps of one size from 0 to 255, weights steps of a
    size for each output, from -127 to 127 (Jacob et al. 2018, arXiv:1712.05877). What lies beyond
    the range is clipped to it.

    Parameters
    ----------
    block : Block
    gain : float
    steps : tuple of float
        Of activations that come in and that go out. 0: they go out as float32.
    """

    def __init__(self, block: Block, gain: float, steps: tuple[float, float]) -> None:
        super().__init__(block, gain)
        self.step, self._next = steps
        self._steps = self.weight.abs().amax((1, 2, 3)).clamp_min(1e-30) / _WEIGHT_LEVELS
        whole = (self.weight / self._steps[:, None, None, None]).round().to(torch.int8)
        one, n = [1, 1], len(whole)
        self._outputs = n // 2 if n > _BLOCK and n % _BLOCK and n % 2 == 0 else n
        self._parts = [
            (
                torch.ops.onednn.qconv_prepack(
                    weight, steps, self.step, 0, one, self.padding, one, 1, None
                ),
                steps,
                torch.zeros(self._outputs, dtype=torch.int32),
            )
            for weight, steps in zip(
                whole.split(self._outputs), self._steps.split(self._outputs), strict=True
            )
        ]

    def takes(self, x: Tensor) -> Tensor:
        return quantised(x, self.step).contiguous(memory_format=torch.channels_last)

    def __call__(self, x: Tensor, bias: Tensor) -> Tensor:
        one, out = [1, 1], (torch.uint8 if self._next else torch.float32)
        found = []
        for (*packed, zeros), of_part in zip(self._parts, bias.split(self._outputs), strict=True):
            y = torch.ops.onednn.qconv2d_pointwise(
                *(x, self.step, 0, *packed, zeros, of_part),
                *(one, self.padding, one, 1, self._next or 1.0, 0, out, "relu", [], ""),
            )
            if self.pooled:
                # What is not negative has the order of its bits, and whole numbers compare faster.
                y = max_pool(y if self._next else y.view(torch.int32)).view(out)
            found.append(y)
        return found[0] if len(found) == 1 else torch.cat(found, dim=1)


class Linear(Layer):
    """A flat layer in float32, without its ReLU."""

    def __init__(self, block: Block, gain: float) -> None:
        super().__init__(block, gain)
        self._rowwise = RowwiseLinear(self.weight)

    def takes(self, x: Tensor) -> Tensor:
        return x.flatten(1).float()

    def __call__(self, x: Tensor, bias: Tensor) -> Tensor:
        return self._rowwise(x) + bias


class RowwiseLinear(nn.Module):
    """A float32 linear layer whose output for a row does not depend on the row's place.

    A library's matrix product may add up row 3 of a batch in another order than row 4, because of
    where the row lies in memory or in which tile it falls. Then a galaxy's last bits would depend
    on its place. A 1 x 1 convolution over a batch of images of one pixel is the same product, and
    its kernels treat all images alike (as do the bfloat16 products): see the tests.
    """

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


def quantised(x: Tensor, step: float) -> Tensor:
    """Activations as numbers of steps, uint8."""
    return (x.float() / step).round_().clamp_(0, LEVELS).to(torch.uint8)


def rectified(x: Tensor, pooled: bool) -> Tensor:
    """Pool where it is asked for, then ReLU, in place where that can be.

    What is not negative has the order of its bits, in bfloat16 too, and ReLU makes one of all that
    is negative. So a CPU, which compares whole numbers but turns bfloat16 into float32 to compare,
    is given whole numbers. A NaN may be lost by it; its galaxy has another in its anchor.
    """
    whole = x.dtype == torch.bfloat16 and not x.is_cuda
    y = x.view(torch.int16) if whole else x
    y = (max_pool(y) if pooled else y).clamp_min_(0)
    return y.view(x.dtype)


def apply_mask(x: Tensor, mask: Tensor | None) -> Tensor:
    """Activations times a mask of 0 and 1. None drops nothing."""
    if mask is None:
        return x
    if mask.dtype == torch.int16 and x.dtype == torch.bfloat16:  # as above
        return (x.view(torch.int16) * mask).view(x.dtype)
    return x * mask


def max_pool(x: Tensor) -> Tensor:
    """The largest of 3 x 3, at every second pixel (n, channels, height, width)."""
    if x.is_cuda:
        return F.max_pool2d(x, 3, 2)
    # Rows, then columns: each a few whole runs of channels, and there is no other for bytes.
    rows = torch.maximum(x[:, :, :-2:2], x[:, :, 1:-1:2])
    torch.maximum(rows, x[:, :, 2::2], out=rows)
    found = torch.maximum(rows[..., :-2:2], rows[..., 1:-1:2])
    return torch.maximum(found, rows[..., 2::2], out=found)
