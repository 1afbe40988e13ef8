"""What a pass sees, and what follows for a posterior."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from networks import make_checkpoint, make_images, tiny

from survey_gampen.model.dropout import masks
from survey_gampen.model.orientations import COUNTS, oriented
from survey_gampen.posterior.engine import Engine

KEYS = np.arange(4, dtype=np.uint64)


def lopsided():
    """Images without any symmetry."""
    return make_images(4, 119) * np.linspace(0, 3, 119 * 119, dtype=np.float32).reshape(119, 119)


def draws(checkpoint, images, passes):
    engine = Engine(checkpoint, passes=passes, seed=0, precision="fp32", batch=4)
    return engine.draws(images, KEYS[: len(images)])


@pytest.mark.parametrize("count", COUNTS)
def test_the_orientations_are_different_and_come_round(count):
    image = torch.arange(25.0).view(1, 5, 5)
    seen = [oriented(image, k, count) for k in range(count)]
    assert torch.equal(seen[0], image)
    assert len({tuple(one.flatten().tolist()) for one in seen}) == count
    assert all(sorted(one.flatten().tolist()) == image.flatten().tolist() for one in seen)
    for k in range(count):
        assert torch.equal(oriented(image, k + 3 * count, count), seen[k])


@pytest.mark.parametrize("turn", range(1, 8))
def test_a_posterior_does_not_depend_on_how_the_galaxy_lies(turn):
    checkpoint = make_checkpoint(
        tiny(outputs=3, orientations=8), rate=0.0
    )  # neither masks nor noise of its own
    images = lopsided()
    turned = oriented(torch.from_numpy(images), turn, 8).numpy()
    as_it_lies, otherwise = (draws(checkpoint, x, 8).scaled for x in (images, turned))
    torch.testing.assert_close(as_it_lies, otherwise, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(as_it_lies[:, 0], as_it_lies[:, 5], rtol=1e-4, atol=1e-5)
    lopsided_network = make_checkpoint(tiny(outputs=3, orientations=1), rate=0.0)
    ones = (draws(lopsided_network, x, 1).scaled for x in (images, turned))
    assert not torch.allclose(*ones, atol=1e-4)


def test_the_widths_are_those_of_each_orientation():
    checkpoint = make_checkpoint(tiny(orientations=8), rate=0.0)
    images = lopsided()
    turned = oriented(torch.from_numpy(images), 3, 8).numpy()
    as_it_lies, otherwise = (draws(checkpoint, x, 8).scaled for x in (images, turned))
    assert not torch.allclose(as_it_lies[:, 0], otherwise[:, 0], atol=1e-4)


@pytest.mark.parametrize("rate", [0.0, 0.002])
def test_a_pass_is_near_that_of_the_network_averaged_over_orientations(rate):
    """Nearer by far than the pass as it comes, which is what the correction is for."""
    checkpoint = make_checkpoint(tiny(outputs=3, orientations=8), rate=rate)
    network, images = checkpoint.network, torch.from_numpy(lopsided())
    found = draws(checkpoint, images.numpy(), 8).scaled
    seen = [oriented(images, p, 8) for p in range(8)]
    sites = list(enumerate(zip(network.site_shapes, network.rates, strict=True)))
    for k in (1, 6):
        drawn = [masks(0, k, site, shape, rate) for site, (shape, rate) in sites]
        averaged = torch.stack([network(x, drawn) for x in seen]).mean(0)
        miss = (found[:, k] - averaged).square().mean().sqrt()
        plain = (network(seen[k], drawn) - averaged).square().mean().sqrt()
        assert miss < 0.5 * plain


@pytest.mark.parametrize("dropout", ["regression", "everywhere"])
def test_the_crop_is_that_of_the_image_as_it_lies(dropout):
    checkpoint = make_checkpoint(tiny(dropout=dropout, orientations=8), rate=0.0)
    images = lopsided()
    one, many = (draws(checkpoint, images, passes).crop for passes in (1, 11))
    torch.testing.assert_close(one, many, rtol=1e-5, atol=1e-6)
    turned = oriented(torch.from_numpy(images), 2, 8).numpy()
    assert not torch.allclose(draws(checkpoint, turned, 1).crop, one, atol=1e-4)


def test_no_other_number_of_orientations():
    with pytest.raises(ValueError, match="1, 4 or 8, not 3"):
        tiny(orientations=3)
