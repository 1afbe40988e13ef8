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
from survey_gampen.posterior.drops import Drop, FewDrops, Kept
from survey_gampen.posterior.layers import (
    LEVELS,
    Convolution,
    Layer,
    Linear,
    QuantisedConvolution,
    apply_mask,
)

#: What convolutions compute in.
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "int8": torch.uint8}


@dataclass(frozen=True)
class Prepared:
    """What all passes of n galaxies share.

    Attributes
    ----------
    begun : Tensor, (n, channels, side, side), or Kept
        Input of the first block, as its arithmetic holds it, or what came of it where passes drop
        a few elements of it only.
    biases : list of Tensor
        Of all layers.
    flat, weighed : Tensor
        What the first flat layer sees in the anchor, and what it gives before its ReLU.
    hidden : Tensor, (n, features) float32
        What the last layer sees in the anchor.
    anchor : Tensor, (n, outputs) float32
        Outputs of the anchor.
    """

    begun: Tensor | Kept
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
    few : bool
        Whether passes drop few elements of the first block's input, and name them instead of
        giving its mask.
    """

    def __init__(
        self,
        network: Gampen,
        rates: Sequence[float],
        precision: str,
        ranges: Sequence[float] = (),
        few: bool = False,
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
            elif few and i == 0:
                self.convolutions.append(Convolution(block, self.gain, torch.float32))
            elif precision == "int8":
                step = (steps[i], steps[i + 1])
                self.convolutions.append(QuantisedConvolution(block, self.gain, step))
            else:
                self.convolutions.append(Convolution(block, self.gain, DTYPES[precision]))
        self._few = None
        if few:
            first, second = self.convolutions[:2]
            assert isinstance(first, Convolution)
            dtype = torch.float32 if precision == "fp32" else torch.bfloat16
            self._few = FewDrops(first, second, dtype)
        # The eight bits of bfloat16 do for a difference; for the whole they would be too few.
        self._rough = None if precision == "fp32" else self.flat[0].weight.to(torch.bfloat16)

    def prepared(self, features: Tensor, theta: Tensor, exact: Prepared | None = None) -> Prepared:
        """Compute what all passes share.

        Parameters
        ----------
        features, theta : Tensor
            From :meth:`Gampen.prefix`.
        exact : Prepared, optional
            The same of a tail in float32: what both begin with is not computed twice.
        """
        biases = [layer.bias(theta) for layer in (*self.convolutions, *self.flat)]
        at = len(self.convolutions)
        begun = self._begun(features, biases[0], exact)
        flat = self._convolved(begun, biases, [None] * at).float()
        weighed = self.flat[0](flat, biases[at])
        x = weighed.relu()
        for layer, bias in zip(self.flat[1:-1], biases[at + 1 : -1], strict=True):
            x = layer(x, bias).relu_()
        return Prepared(begun, biases, flat, weighed, x, self.flat[-1](x, biases[-1]))

    def _begun(self, features: Tensor, bias: Tensor, exact: Prepared | None) -> Tensor | Kept:
        if self._few is None:
            return self.convolutions[0].takes(features)
        if exact is not None and isinstance(exact.begun, Kept):
            return self._few.rounded(exact.begun)
        return self._few.kept(features, bias)

    def masked(
        self, prepared: Prepared, masks: Sequence[Tensor | None], drops: Sequence[Drop] = ()
    ) -> Tensor:
        """Outputs (n, outputs) of a pass.

        Parameters
        ----------
        prepared : Prepared
        masks : sequence of Tensor or None
            Of 0 and 1, of :func:`mask_dtype`, one a block. None drops nothing.
        drops : sequence of (channel, y, x)
            Dropped elements of the first block's input, where they are few.
        """
        at = len(self.convolutions)
        x = self._convolved(prepared.begun, prepared.biases, masks[:at], drops)
        x = apply_mask(x, masks[at])
        if self._rough is None:
            x = self.flat[0](x, prepared.biases[at])
        else:
            change = (x - prepared.flat).to(torch.bfloat16)
            x = prepared.weighed + F.linear(change, self._rough)
        rest = zip(self.flat[1:], prepared.biases[at + 1 :], masks[at + 1 :], strict=True)
        for layer, bias, mask in rest:
            x = layer(apply_mask(x.relu_(), mask), bias)
        return x.mul_(self.gain)

    def _convolved(
        self,
        begun: Tensor | Kept,
        biases: list[Tensor],
        masks: Sequence[Tensor | None],
        drops: Sequence[Drop] = (),
    ) -> Tensor:
        """What the first flat layer sees, before its mask."""
        if isinstance(begun, Kept):
            assert self._few is not None
            x = self._few.masked(begun, drops, masks[1])
        else:
            x = self.convolutions[0](apply_mask(begun, masks[0]), biases[0])
            x = apply_mask(x, masks[1])
        x = self.convolutions[1](x, biases[1])
        for layer, bias, mask in zip(self.convolutions[2:], biases[2:], masks[2:], strict=False):
            x = layer(apply_mask(x, mask), bias)
        return x.flatten(1)


def mask_dtype(precision: str, device: torch.device) -> torch.dtype:
    """What masks are of: bfloat16 on a CPU is masked as whole numbers."""
    return torch.int16 if (precision, device.type) == ("bf16", "cpu") else DTYPES[precision]
