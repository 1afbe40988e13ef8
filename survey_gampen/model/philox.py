"""Philox4x32-10, the counter-based random generator, vectorised over torch tensors.

A counter-based generator has no state: the four words at a counter are a function of the counter
and of the key, so any worker can compute any of them, in any order, on any device, and get the
same bits. That is what lets pass k be the same network for every galaxy of a survey.

Source: Salmon, Moraes, Dror & Shaw 2011, "Parallel random numbers: as easy as 1, 2, 3",
doi:10.1145/2063384.2063405.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor

WORD = 0xFFFFFFFF
ROUNDS = 10
# Multipliers and key increments of Philox4x32 (Salmon et al. 2011, section 3.3): the increments
# are the golden ratio and sqrt(3) - 1 as 32-bit fractions.
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
INCREMENTS = (0x9E3779B9, 0xBB67AE85)

Words = tuple[Tensor, Tensor, Tensor, Tensor]
Integer = TypeVar("Integer", int, Tensor)


def philox(counter: Sequence[Tensor | int], key: Sequence[int]) -> Words:
    """The four random words at each counter.

    Parameters
    ----------
    counter
        Four words, each an int64 tensor of values in [0, 2**32) or an int; they are broadcast
        against each other. At least one must be a tensor.
    key
        Two words, ints in [0, 2**32).

    Returns
    -------
    Words
        Four int64 tensors of the broadcast shape, values in [0, 2**32).
    """
    device = next(word.device for word in counter if isinstance(word, Tensor))
    words = [torch.as_tensor(word, dtype=torch.int64, device=device) for word in counter]
    c0, c1, c2, c3 = (word.clone() for word in torch.broadcast_tensors(*words))
    k0, k1 = key
    for _ in range(ROUNDS):
        # int64 products wrap modulo 2**64, so their low 64 bits are those of the true product. The
        # odd words take part in xor only: junk above bit 31 is cut off when they become even ones.
        product0, product1 = c0.mul_(MULTIPLIERS[0]), c2.mul_(MULTIPLIERS[1])
        c0 = (product1 >> 32).bitwise_xor_(c1).bitwise_xor_(k0).bitwise_and_(WORD)
        c2 = (product0 >> 32).bitwise_xor_(c3).bitwise_xor_(k1).bitwise_and_(WORD)
        c1, c3 = product1, product0
        k0, k1 = (k0 + INCREMENTS[0]) & WORD, (k1 + INCREMENTS[1]) & WORD
    return c0, c1.bitwise_and_(WORD), c2, c3.bitwise_and_(WORD)


def split64(value: Integer) -> tuple[Integer, Integer]:
    """The low and the high 32-bit word of 64-bit integers (negative ones in two's complement)."""
    return value & WORD, (value >> 32) & WORD


def normals(words: Words) -> Tensor:
    """Four independent standard normal numbers from the four words of each counter.

    Box & Muller 1958, in float64: every word is the middle of one of 2**32 equal steps of (0, 1),
    so that the logarithm is always finite; the largest number is 6.7.

    Returns
    -------
    Tensor
        Shape (..., 4), float64.
    """
    uniform = [(word.to(torch.float64) + 0.5) * 2.0**-32 for word in words]
    drawn = []
    for first, second in (uniform[:2], uniform[2:]):
        radius = first.log_().mul_(-2.0).sqrt_()
        angle = second.mul_(2.0 * math.pi)
        drawn += [radius * angle.cos(), radius * angle.sin()]
    return torch.stack(drawn, dim=-1)
