"""The generator against published known answers, and the masks made from it."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from survey_gampen.model.dropout import PackedMasks, keep, masks, noise_words
from survey_gampen.model.philox import WORD, normals, philox, split64

# Random123's kat_vectors for philox4x32-10: counter, key, answer.
KNOWN = [
    ((0,) * 4, (0,) * 2, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((WORD,) * 4, (WORD,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]
SHAPES = [(3, 5, 7), (16,), (9,)]


@pytest.mark.parametrize(("counter", "key", "answer"), KNOWN)
def test_known_answers(counter, key, answer):
    words = philox([torch.tensor([word]) for word in counter], key)
    assert tuple(int(word) for word in words) == answer


def test_vectorised_is_the_same_as_one_by_one():
    counters = torch.randint(0, 2**32, (4, 50), generator=torch.Generator().manual_seed(0))
    together = philox(list(counters), (7, 8))
    for i in range(50):
        one = philox([c[i : i + 1] for c in counters], (7, 8))
        assert [int(w) for w in one] == [int(w[i]) for w in together]


def test_normals_are_normal():
    drawn = normals(philox((torch.arange(50_000), 0, 0, 0), (1, 2)))
    flat = drawn.flatten()
    assert torch.isfinite(flat).all()
    assert abs(flat.mean()) < 4 / math.sqrt(len(flat))
    assert abs(flat.var() - 1) < 4 * math.sqrt(2 / len(flat))
    assert abs(flat.pow(4).mean() - 3) < 0.1
    correlation = torch.corrcoef(drawn.T) - torch.eye(4)
    assert correlation.abs().max() < 5 / math.sqrt(len(drawn))


def test_extreme_words_give_finite_normals():
    ends = torch.tensor([0, WORD])
    assert torch.isfinite(normals((ends, ends, ends, ends))).all()


def test_split64_of_negative_and_large():
    assert split64(-1) == (WORD, WORD)
    assert split64(2**40 + 3) == (3, 2**8)


def test_a_mask_is_a_function_of_seed_pass_and_site():
    base = keep(5, 7, 2, (64, 9, 9), 0.3)
    assert torch.equal(base, keep(5, 7, 2, (64, 9, 9), 0.3))
    for other in [(6, 7, 2), (5, 8, 2), (5, 7, 3), (5 + 2**33, 7, 2)]:
        assert not torch.equal(base, keep(*other, (64, 9, 9), 0.3))


def test_element_index_is_the_counter():
    """A longer site starts with the same words as a shorter one."""
    assert torch.equal(keep(1, 2, 3, (1000,), 0.5)[:37], keep(1, 2, 3, (37,), 0.5))


@pytest.mark.parametrize("rate", [0.0002, 0.002, 0.1, 0.5])
def test_rate(rate):
    dropped = sum(int((~keep(11, k, 0, (100_000,), rate)).sum()) for k in range(10))
    n = 1_000_000
    assert abs(dropped - n * rate) < 5 * math.sqrt(n * rate * (1 - rate))


def test_a_smaller_rate_drops_a_subset():
    assert bool((keep(1, 0, 0, (5000,), 0.01) | ~keep(1, 0, 0, (5000,), 0.1)).all())


def test_scaled_mask_and_none():
    mask = masks(1, 2, 0, (1000,), 0.2)
    assert mask is not None
    assert set(mask.unique().tolist()) == {0.0, np.float32(1 / 0.8)}
    assert masks(1, 2, 0, (1000,), 0.0) is None
    assert masks(1, 2, 0, (1000,), -1.0) is None
    with pytest.raises(ValueError, match="not in"):
        keep(1, 2, 0, (10,), 1.0)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 2**64 - 1),
    st.lists(st.sampled_from([0.0, 0.002, 0.3]), min_size=3, max_size=3),
    st.sampled_from([torch.float32, torch.bfloat16]),
)
def test_packed_masks_are_the_masks(seed, rates, dtype):
    packed = PackedMasks(seed, 3, SHAPES, rates)
    for k in range(3):
        for site, mask in enumerate(packed.unpack(k, dtype)):
            if rates[site] <= 0:
                assert mask is None
                continue
            assert mask is not None
            assert mask.dtype == dtype
            assert torch.equal(mask.bool(), keep(seed, k, site, SHAPES[site], rates[site]))
            if mask.dim() == 3:
                assert mask.unsqueeze(0).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("rate", [0.0, 0.05])
def test_what_few_masks_drop_is_named(rate):
    packed = PackedMasks(5, 4, SHAPES, [rate, 0.5, 0.5], named=(0,))
    for k in range(4):
        kept = torch.ones(SHAPES[0], dtype=torch.bool)
        for at in packed.dropped(k, 0):
            kept[at] = False
        assert torch.equal(kept, keep(5, k, 0, SHAPES[0], rate))
        assert packed.unpack(k, torch.float32)[0] is None
        assert torch.equal(packed.unpack(k, torch.bool)[1], keep(5, k, 1, SHAPES[1], 0.5))


def test_packed_masks_take_a_bit_an_element():
    packed = PackedMasks(0, 10, [(64, 29, 29), (1000,)], [0.1, 0.1])
    assert packed.nbytes == 10 * (64 * 29 * 29 + 1000) // 8


def test_noise_depends_on_galaxy_and_pass_only():
    keys = torch.tensor([5, -7, 2**62])
    words = torch.stack(noise_words(3, 6, keys))
    alone = torch.stack(noise_words(3, 4, keys[1:2]))
    assert torch.equal(words[:, 1:2, :4], alone)
    assert len(words.flatten().unique()) == words.numel()
