"""Dropout masks that belong to the pass, not to the galaxy.

Monte-Carlo dropout draws networks. Here draw k is *one* network for every galaxy of a survey: the
mask of pass k at a site is a function of (seed, k, site) alone, from the counter-based generator
of :mod:`survey_gampen.model.philox`. So draw k over all galaxies is one coherent draw of the
whole catalogue, the masks cost nothing per galaxy, and any worker makes the same ones.

An element is dropped when its 32-bit word is below ``rate * 2**32``, so that rates as small as
1e-4 are exact to a part in a million.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import accumulate

import torch
from torch import Tensor

from survey_gampen.model.philox import WORD, Words, philox, split64

#: Last word of the counter of the noise; masks have their site there, so the two never meet.
NOISE = WORD


def keep(
    seed: int,
    k: int,
    site: int,
    shape: Sequence[int],
    rate: float,
    device: torch.device | str = "cpu",
) -> Tensor:
    """Which elements of a site's input pass k keeps.

    Parameters
    ----------
    seed : int
        Of the run (its low 64 bits count).
    k, site : int
        Pass and dropout site.
    shape : sequence of int
        Of one galaxy's input at the site. Element i of the flattened (C order) input takes word
        ``i % 4`` at counter ``(i // 4, k, 0, site)``.
    rate : float
        Probability of being dropped, in [0, 1).

    Returns
    -------
    Tensor
        bool, of shape `shape`.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"dropout rate {rate} is not in [0, 1)")
    size = math.prod(shape)
    blocks = torch.arange((size + 3) // 4, device=device)
    words = philox((blocks, k, 0, site), split64(seed))
    threshold = round(rate * 2**32)
    return torch.stack([word >= threshold for word in words], dim=-1).flatten()[:size].view(*shape)


def masks(
    seed: int,
    k: int,
    site: int,
    shape: Sequence[int],
    rate: float,
    device: torch.device | str = "cpu",
) -> Tensor | None:
    """The mask to multiply with: 0 or ``1 / (1 - rate)``, float32; None for a rate <= 0.

    The other parameters are those of :func:`keep`.
    """
    return None if rate <= 0 else keep(seed, k, site, shape, rate, device) / (1 - rate)


def noise_words(seed: int, passes: int, keys: Tensor) -> Words:
    """Random words for each galaxy and pass, keyed by (seed, k, galaxy).

    Parameters
    ----------
    keys : Tensor, (n,)
        int64 holding the 64 bits of each galaxy's key.

    Returns
    -------
    Words
        Four tensors (n, passes).
    """
    low, high = split64(keys.unsqueeze(1))
    k = torch.arange(passes, device=keys.device)
    return philox((low, high, k, NOISE), split64(seed))


class PackedMasks:
    """The masks of all passes, a bit an element, unpacked a pass at a time.

    1000 passes of the shipped networks take 28 MB, and a second or two to make.

    Parameters
    ----------
    seed, passes : int
    shapes : sequence of shapes
        One a site. Sites of three dimensions (C, H, W) are unpacked in channels-last memory.
    rates : sequence of float
        One a site; sites with a rate <= 0 have no mask.
    device
        Where they are kept and unpacked.
    named : sequence of int
        Sites at which so little is dropped that a list of it does instead of a mask.
    """

    def __init__(
        self,
        seed: int,
        passes: int,
        shapes: Sequence[Sequence[int]],
        rates: Sequence[float],
        device: torch.device | str = "cpu",
        named: Sequence[int] = (),
    ) -> None:
        self.shapes = [tuple(shape) for shape in shapes]
        self.rates = tuple(rates)
        self._dropped: dict[int, list[list[tuple[int, ...]]]] = {
            site: [[] for _ in range(passes)] for site in named
        }
        n_bytes = [
            (math.prod(shape) + 7) // 8 if rate > 0 and site not in named else 0
            for site, (shape, rate) in enumerate(zip(self.shapes, rates, strict=True))
        ]
        self._ends = list(accumulate(n_bytes))
        self._packed = torch.zeros((passes, sum(n_bytes)), dtype=torch.uint8, device=device)
        self._tables: dict[torch.dtype, Tensor] = {}
        for k in range(passes):
            for site, (shape, rate) in enumerate(zip(self.shapes, rates, strict=True)):
                if rate <= 0:
                    continue
                bits = keep(seed, k, site, shape, rate, device)
                if site in named:
                    gone = (~bits).nonzero().tolist()
                    self._dropped[site][k] = [tuple(at) for at in gone]
                else:
                    end = self._ends[site]
                    self._packed[k, end - n_bytes[site] : end] = _pack(_memory_order(bits))

    def __len__(self) -> int:
        return len(self._packed)

    @property
    def nbytes(self) -> int:
        """Memory they take [bytes]."""
        return self._packed.numel()

    def dropped(self, k: int, site: int) -> list[tuple[int, ...]]:
        """Indices of the elements that pass k drops at one of the `named` sites."""
        return self._dropped[site][k]

    def unpack(self, k: int, dtype: torch.dtype) -> list[Tensor | None]:
        """The masks of pass k, one a site: 0 or 1 (*not* scaled) in `dtype`; None where nothing is
        dropped, and at `named` sites."""
        bits = self._table(dtype).index_select(0, self._packed[k].int()).flatten()
        unpacked: list[Tensor | None] = []
        start = 0
        for shape, end in zip(self.shapes, self._ends, strict=True):
            if start == end:
                unpacked.append(None)
                continue
            flat = bits[8 * start : 8 * start + math.prod(shape)]
            unpacked.append(_from_memory_order(flat, shape))
            start = end
        return unpacked

    def _table(self, dtype: torch.dtype) -> Tensor:
        """The eight elements that each byte stands for."""
        if dtype not in self._tables:
            byte = torch.arange(256, device=self._packed.device)
            shifts = torch.arange(8, device=self._packed.device)
            self._tables[dtype] = ((byte[:, None] >> shifts) & 1).to(dtype)
        return self._tables[dtype]


def _memory_order(mask: Tensor) -> Tensor:
    """(C, H, W) -> flat in channels-last order; (features,) as it is."""
    return mask.permute(1, 2, 0).flatten() if mask.dim() == 3 else mask


def _from_memory_order(flat: Tensor, shape: tuple[int, ...]) -> Tensor:
    if len(shape) < 3:
        return flat.view(shape)
    channels, height, width = shape
    return flat.view(height, width, channels).permute(2, 0, 1)


def _pack(bits: Tensor) -> Tensor:
    """Flat bool -> uint8, the first element in the lowest bit, padded with zeros."""
    padded = torch.nn.functional.pad(bits, (0, -len(bits) % 8)).view(-1, 8)
    powers = 2.0 ** torch.arange(8, device=bits.device)
    return (padded.float() @ powers).to(torch.uint8)
