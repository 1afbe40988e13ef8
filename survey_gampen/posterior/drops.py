"""The first block under masks that drop only a few elements.

It is the largest of a pass, and linear in what is dropped: what one element of the input gives to
the convolution lies in 25 pixels of its output. So that output is computed once, in float32; a pass
takes the shares of its dropped elements away, pools again the few boxes that this changes, and puts
back what it took. All galaxies of a batch drop the same elements.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from survey_gampen.model.network import Gampen
from survey_gampen.posterior.layers import Convolution, Layer, apply_mask, rectified

#: Dropped elements of a pass, on average, up to which this is faster than the whole convolution.
FEW = 24

#: (channel, y, x)
Drop = tuple[int, ...]


def drops_few(network: Gampen) -> bool:
    """Whether passes drop so few elements of the first block's input that this is worth it."""
    return max(network.rates[0], 0.0) * math.prod(network.site_shapes[0]) <= FEW


@dataclass(frozen=True)
class Kept:
    """What all passes of n galaxies share in the first block.

    Attributes
    ----------
    features : Tensor, (n, channels, height, width)
        Its input.
    before : Tensor, (n, outputs, height, width)
        What the convolution gives of it, before pooling. Passes write to it, and write it back.
    after : Tensor, (n, outputs, ...)
        What the second block takes if nothing is dropped.
    """

    features: Tensor
    before: Tensor
    after: Tensor


class FewDrops:
    """The first block, and the beginning of the second.

    Parameters
    ----------
    first : Convolution
        In float32.
    second : Layer
    dtype : torch.dtype
        What the convolution's output is kept in between passes.
    """

    def __init__(self, first: Convolution, second: Layer, dtype: torch.dtype) -> None:
        assert first.pooled
        assert first.weight.shape[2] == first.weight.shape[3] == 2 * first.padding[0] + 1
        self._first, self._second, self._dtype = first, second, dtype
        # An element's share is the kernel, seen from it: mirrored.
        kernels = first.weight.flip(2, 3).transpose(0, 1).to(dtype)
        self._kernels = kernels.contiguous(memory_format=torch.channels_last)
        self._reach = first.padding[0]

    def kept(self, features: Tensor, bias: Tensor) -> Kept:
        """Compute what passes share, of features (n, channels, height, width) in float32."""
        features = self._first.takes(features)
        return self._held(features, self._first.convolved(features, bias))

    def rounded(self, exact: Kept) -> Kept:
        """The same of what another keeps in float32."""
        return self._held(exact.features, exact.before)

    def _held(self, features: Tensor, before: Tensor) -> Kept:
        before = before.to(self._dtype)
        return Kept(features.to(self._dtype), before, self._second.takes(rectified(before, True)))

    def masked(self, kept: Kept, drops: Sequence[Drop], mask: Tensor | None) -> Tensor:
        """Return what the second block sees in a pass.

        Parameters
        ----------
        kept : Kept
        drops : sequence of (channel, y, x)
            Elements that the pass drops of the first block's input.
        mask : Tensor or None
            Of 0 and 1, of the second block's input.
        """
        after = kept.after.clone() if mask is None else apply_mask(kept.after, mask)
        taken = []
        for channel, y, x in drops:
            where, kernel = self._share(kept.before, channel, y, x)
            taken.append((where, where.clone()))
            where.addcmul_(kept.features[:, channel, y, x, None, None, None], kernel, value=-1)
        for _, y, x in drops:
            self._pool_again(kept.before, after, mask, y, x)
        for where, old in reversed(taken):
            where.copy_(old)
        return after

    def _share(self, before: Tensor, channel: int, y: int, x: int) -> tuple[Tensor, Tensor]:
        """The pixels to which an element gives, and by how much."""
        reach, (height, width) = self._reach, before.shape[2:]
        top, bottom = max(0, y - reach), min(height, y + reach + 1)
        left, right = max(0, x - reach), min(width, x + reach + 1)
        up, over = reach - y, reach - x
        kernel = self._kernels[channel, :, top + up : bottom + up, left + over : right + over]
        return before[:, :, top:bottom, left:right], kernel

    def _pool_again(
        self, before: Tensor, after: Tensor, mask: Tensor | None, y: int, x: int
    ) -> None:
        high, wide = after.shape[2:]
        rows, columns = _windows(y, self._reach, high), _windows(x, self._reach, wide)
        seen = before[:, :, _pixels(rows), _pixels(columns)]
        new = self._second.takes(rectified(seen, True))
        after[:, :, rows, columns] = (
            new if mask is None else apply_mask(new, mask[:, rows, columns])
        )


def _windows(at: int, reach: int, n: int) -> slice:
    """Which of n windows, three wide at every second pixel, see a pixel within reach of one."""
    return slice(max(0, (at - reach - 1) // 2), min(n, (at + reach) // 2 + 1))


def _pixels(windows: slice) -> slice:
    """What some windows see."""
    return slice(2 * windows.start, 2 * windows.stop + 1)
