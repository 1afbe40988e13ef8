"""All that comes after the first dropout: a fast :meth:`survey_gampen.model.network.Gampen.tail`.

In an arithmetic that rounds, a pass is used as a deviation from the *anchor*, the pass that drops
nothing and leaves the factors of dropout out, which is computed in float32 as well::

    pass  =  anchor in float32  +  (rounded pass - rounded anchor)

Both are rounded in the same way wherever a mask changes nothing. So the fewer elements are dropped,
the narrower the posterior, the less is left of the rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from survey_gampen.model.network import Block, Gampen
from survey_gampen.posterior.layers import (
    LEVELS,
    Convolution,
    Layer,
    Linear,
    QuantisedConvolution,
)

#: What convolutions compute in, and masks are of.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.uint8}


@dataclass(frozen=True)
class Prepared:
    """What all passes of n galaxies share.

    Attributes
    ----------
    features : Tensor, (n, channels, side, side)
        Input of the first block, as its arithmetic holds it.
    biases : list of Tensor
        Of all layers.
    flat, weighed : Tensor
        What the first flat layer sees in the anchor, and what it gives before its ReLU.
    hidden : Tensor, (n, features) float32
        What the last layer sees in the anchor.
    anchor : Tensor, (n, outputs) float32
        Outputs of the anchor.
    """

    features: Tensor
    biases: list[Tensor]
    flat: Tensor
    weighed: Tensor
    hidden: Tensor
    anchor: Tensor


class Tail:
    """The blocks of a network in one arithmetic.

    Parameters
    ----------
    network : Gampen
    rates : sequence of float
        Dropout rate of each block's input.
    precision : str
        Of the convolutions: "fp32", "bf16" or "int8". Flat layers are float32 whatever it says,
        but for what a pass changes of the first and largest.
    ranges : sequence of float, optional
        For int8: the largest activation that each masked convolution takes.
    """

    def __init__(
        self,
        network: Gampen,
        rates: Sequence[float],
        precision: str,
        ranges: Sequence[float] = (),
    ) -> None:
        steps = [*(largest / LEVELS for largest in ranges), 0.0]
        self.convolutions: list[Layer] = []
        self.flat: list[Linear] = []
        self.gain = 1.0
        for i, block in enumerate(network.blocks):
            assert isinstance(block, Block)
            self.gain /= 1 - max(rates[block.site], 0.0)
            if block.flat:
                self.flat.append(Linear(block, self.gain))
            elif precision == "int8":
                step = (steps[i], steps[i + 1])
                self.convolutions.append(QuantisedConvolution(block, self.gain, step))
            else:
                self.convolutions.append(Convolution(block, self.gain, DTYPES[precision]))
        # The eight bits of bfloat16 do for a difference; for the whole they would be too few.
        self._rough = None if precision == "fp32" else self.flat[0].weight.to(torch.bfloat16)

    def prepared(self, features: Tensor, theta: Tensor) -> Prepared:
        """Compute what all passes share; arguments are from :meth:`Gampen.prefix`."""
        biases = [layer.bias(theta) for layer in (*self.convolutions, *self.flat)]
        features = self.convolutions[0].takes(features)
        flat = self._convolved(features, biases, [None] * len(self.convolutions)).float()
        at = len(self.convolutions)
        weighed = self.flat[0](flat, biases[at])
        x = weighed.relu()
        for layer, bias in zip(self.flat[1:-1], biases[at + 1 : -1], strict=True):
            x = layer(x, bias).relu_()
        return Prepared(features, biases, flat, weighed, x, self.flat[-1](x, biases[-1]))

    def masked(self, prepared: Prepared, masks: Sequence[Tensor | None]) -> Tensor:
        """Outputs (n, outputs) of a pass.

        Parameters
        ----------
        prepared : Prepared
        masks : sequence of Tensor or None
            Of 0 and 1, in the dtype of the convolutions, one a block. None drops nothing.
        """
        at = len(self.convolutions)
        x = self._convolved(prepared.features, prepared.biases, masks[:at])
        x = _times(x, masks[at])
        if self._rough is None:
            x = self.flat[0](x, prepared.biases[at])
        else:
            change = (x - prepared.flat).to(torch.bfloat16)
            x = prepared.weighed + F.linear(change, self._rough)
        rest = zip(self.flat[1:], prepared.biases[at + 1 :], masks[at + 1 :], strict=True)
        for layer, bias, mask in rest:
            x = layer(_times(x.relu_(), mask), bias)
        return x.mul_(self.gain)

    def _convolved(
        self, features: Tensor, biases: list[Tensor], masks: Sequence[Tensor | None]
    ) -> Tensor:
        """What the first flat layer sees, before its mask."""
        x = features
        for layer, bias, mask in zip(self.convolutions, biases, masks, strict=False):
            if mask is not None:
                x = x * mask if x is features else x.mul_(mask)
            x = layer(x, bias)
        return x.flatten(1)


def _times(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask
