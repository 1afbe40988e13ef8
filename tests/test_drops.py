"""The first block without a few of its inputs, against the whole convolution of what is left."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import make_checkpoint, tiny
from torch import Tensor

from survey_gampen.model.network import Gampen
from survey_gampen.posterior.drops import Drop, drops_few
from survey_gampen.posterior.settings import has
from survey_gampen.posterior.tail import Prepared, Tail

CHECKPOINT = make_checkpoint(tiny(), 0.001)
NETWORK = CHECKPOINT.network
CHANNELS, HEIGHT, WIDTH = NETWORK.site_shapes[0]
FEATURES = torch.rand((3, CHANNELS, HEIGHT, WIDTH), generator=torch.Generator().manual_seed(4))
THETA = torch.zeros(3, 2, 3)
NO_MASKS = [None] * len(NETWORK.blocks)

PRECISIONS = [p for p in ("fp32", "bf16", "int8") if has(p, "cpu")]

drop = st.tuples(
    st.integers(0, CHANNELS - 1), st.integers(0, HEIGHT - 1), st.integers(0, WIDTH - 1)
)
drops = st.lists(drop, unique=True, max_size=30)


def make_tail(network: Gampen, precision: str = "fp32", few: bool = True) -> Tail:
    return Tail(network, network.rates, precision, CHECKPOINT.ranges, few)


def pass_of(tail: Tail, prepared: Prepared, dropped: list[Drop], mask: Tensor | None) -> Tensor:
    return tail.masked(prepared, [None, mask, *NO_MASKS[2:]], dropped)


@given(drops, st.booleans())
def test_what_is_taken_away_is_what_a_mask_takes_away(dropped: list[Drop], masked: bool) -> None:
    generator = torch.Generator().manual_seed(len(dropped))
    mask = (torch.rand(NETWORK.site_shapes[1], generator=generator) > 0.3).float()
    keep = torch.ones(CHANNELS, HEIGHT, WIDTH)
    for at in dropped:
        keep[at] = 0
    with torch.inference_mode():
        few, whole = make_tail(NETWORK), make_tail(NETWORK, few=False)
        of_mask = mask if masked else None
        found = pass_of(few, few.prepared(FEATURES, THETA), dropped, of_mask)
        masks = [keep, of_mask, *NO_MASKS[2:]]
        expected = whole.masked(whole.prepared(FEATURES, THETA), masks)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


@settings(max_examples=20)
@given(drops, drops)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_a_pass_leaves_nothing_behind(
    precision: str, dropped: list[Drop], others: list[Drop]
) -> None:
    """Not one bit, or passes would depend on those before."""
    with torch.inference_mode():
        tail = make_tail(NETWORK, precision)
        prepared = tail.prepared(FEATURES, THETA)
        first = pass_of(tail, prepared, dropped, None)
        pass_of(tail, prepared, others, None)
        assert torch.equal(first, pass_of(tail, prepared, dropped, None))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_what_is_computed_once_for_two_arithmetics_has_the_same_bits(precision: str) -> None:
    with torch.inference_mode():
        tail, exact = make_tail(NETWORK, precision), make_tail(NETWORK)
        shared = tail.prepared(FEATURES, THETA, exact.prepared(FEATURES, THETA))
        alone = tail.prepared(FEATURES, THETA)
        dropped = [(0, 0, 0), (1, 5, 5)]
        for prepared in (shared, alone):
            assert torch.equal(prepared.anchor, shared.anchor)
        assert torch.equal(*(pass_of(tail, each, dropped, None) for each in (shared, alone)))


def test_few_are_counted() -> None:
    n = CHANNELS * HEIGHT * WIDTH
    for expected, few in ((0.0, True), (5.0, True), (23.0, True), (25.0, False)):
        assert drops_few(Gampen(tiny(), expected / n)) is few
    assert drops_few(Gampen(tiny(), -1.0))
