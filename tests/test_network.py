"""The network: its shapes, its size, where masks act and what the crop does."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from survey_gampen.errors import InputError
from survey_gampen.model.network import Gampen
from survey_gampen.model.presets import PRESETS, Architecture, architecture
from tests.networks import make_checkpoint, make_images, tiny

SIZE = 119


def images(n: int, size: int = SIZE) -> Tensor:
    return torch.from_numpy(make_images(n, size))


def n_parameters(network: Gampen) -> int:
    return sum(p.numel() for p in network.parameters())


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_has_the_shapes_it_states(preset: str) -> None:
    network = Gampen(architecture(preset)).eval()
    with torch.inference_mode():
        features, theta = network.prefix(images(2, 239))
        out = network.tail(features, theta)
    first, *others = network.arch.convolutions
    assert features.shape == (2, *network.site_shapes[0]) == (2, first, 29, 29)
    assert theta.shape == (2, 2, 3)
    assert out.shape == (2, network.arch.outputs)
    assert network.site_shapes[1:4] == [(width, 14, 14) for width in others[:3]]
    assert network.site_shapes[4] == (9216,)
    assert network.site_shapes[5:] == [(width,) for width in network.arch.hidden]
    assert [block.site for block in network.blocks] == list(range(7))


def test_the_default_fits_fifteen_megabytes_in_half_precision() -> None:
    n = n_parameters(Gampen(architecture("survey")))
    assert 6_000_000 < n < 7_500_000
    assert 2 * n < 15_000_000


def test_the_preset_of_2021_has_the_widths_of_the_authors() -> None:
    network = Gampen(architecture("gampen-2021"))
    shapes = [tuple(block.weight_layer.weight.shape) for block in network.blocks]
    assert tuple(network.conv1.weight.shape) == (64, 1, 11, 11)
    assert shapes == [
        (192, 64, 5, 5),
        (384, 192, 3, 3),
        (256, 384, 3, 3),
        (256, 256, 3, 3),
        (1024, 9216),
        (512, 1024),
        (3, 512),
    ]
    assert network.localisation.fc1.out_features == 32


def test_an_unknown_preset_names_those_there_are() -> None:
    with pytest.raises(InputError, match="survey, gampen-2021"):
        architecture("surwey")
    with pytest.raises(InputError, match="widths"):
        Architecture.from_dict({"widths": [1, 2]})


def test_rates_must_fit_the_sites() -> None:
    with pytest.raises(ValueError, match="7 dropout sites, 2 rates"):
        Gampen(tiny(), (0.1, 0.2))


def test_prefix_and_tail_are_the_network() -> None:
    network = make_checkpoint(tiny()).network
    x = images(3)
    masks = network.random_masks(3, x)
    features, theta = network.prefix(x)
    assert torch.equal(network.tail(features, theta, masks), network(x, masks))
    assert not torch.equal(network(x), network(x, masks))


def test_a_shared_mask_is_the_same_mask_for_each_image() -> None:
    network = make_checkpoint(tiny(), rate=0.3).network
    x = images(4)
    shared = [m[0] for m in network.random_masks(1, x)]
    each = [m.expand(4, *m.shape) for m in shared]
    assert torch.equal(network(x, shared), network(x, each))
    single = torch.cat([network(x[i : i + 1], shared) for i in range(4)])
    assert torch.allclose(network(x, shared), single, atol=1e-5)


def test_dropped_inputs_do_not_count_and_kept_ones_are_scaled_up() -> None:
    network = make_checkpoint(tiny(), rate=0.25).network
    (mask, *_) = network.random_masks(1000, torch.empty(0))
    assert mask is not None
    assert mask.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert mask.mean().item() == pytest.approx(1, abs=5 * math.sqrt(1 / 3 / mask.numel()))
    x = images(2)
    features, theta = network.prefix(x)
    masks = [torch.ones(shape) for shape in network.site_shapes]
    masks[0] = torch.zeros(network.site_shapes[0])
    dark = network.tail(features, theta, masks)
    assert torch.equal(dark, network.tail(torch.randn_like(features), theta, masks))


def test_a_site_without_a_rate_has_no_mask() -> None:
    network = Gampen(tiny(), (0.1, 0.0, 0.1, 0.1, 0.1, 0.1, 0.0))
    masks = network.random_masks(2, torch.empty(0))
    assert [mask is None for mask in masks] == [False, True, False, False, False, False, True]


def test_dropout_everywhere_adds_the_sites_before_the_first_block() -> None:
    arch = tiny(dropout="everywhere")
    network = make_checkpoint(arch, rate=0.2).network
    side = arch.size // arch.localisation_pool
    assert len(network.site_shapes) == 12
    assert network.site_shapes[7] == (1, side, side)
    assert network.site_shapes[10:] == [(arch.localisation[2],), (1, arch.size, arch.size)]
    x = images(2)
    masks = network.random_masks(2, x)
    whole = network(x, masks)
    features, theta = network.prefix(x, masks[7:])
    assert torch.equal(whole, network.tail(features, theta, masks[:7]))
    _, undropped = network.prefix(x)
    assert not torch.allclose(theta, undropped)
    for site in range(12):  # each of them acts
        one = [m if k == site else None for k, m in enumerate(masks)]
        assert not torch.equal(network(x, one), network(x)), site


def test_a_new_network_crops_nothing() -> None:
    network = Gampen(tiny())
    x = images(2)
    stretched = network.stretch(x)
    theta = network.localisation(stretched)
    assert torch.equal(theta, torch.tensor([[1.0, 0, 0], [0, 1.0, 0]]).expand(2, 2, 3))
    # Coordinates of a pixel's centre are rounded, and the edge of the image may lie half an ulp
    # outside: everywhere else the crop is the image.
    cropped = network.crop(stretched, theta)
    assert torch.allclose(cropped[..., 1:-1, 1:-1], stretched[..., 1:-1, 1:-1], atol=1e-3)


@pytest.mark.parametrize(("x", "y"), [(20, -12), (-30, 5), (0, 25)])
def test_a_transformation_crops_where_it_says(x: int, y: int) -> None:
    """Output (-1..1) maps to input by theta: a blob at (x, y) px comes to the middle, doubled."""
    network = Gampen(tiny())
    pixel = torch.arange(SIZE) - SIZE // 2
    image = torch.exp(-0.5 * ((pixel - x)[None] ** 2 + (pixel - y)[:, None] ** 2) / 3.0**2)
    theta = torch.tensor([[[0.5, 0, 2 * x / SIZE], [0, 0.5, 2 * y / SIZE]]])
    (cropped,) = network.crop(image[None, None], theta)[0]
    total = cropped.sum()
    row = (cropped.sum(1) * pixel).sum() / total
    column = (cropped.sum(0) * pixel).sum() / total
    assert (row.item(), column.item()) == (pytest.approx(0, abs=0.02), pytest.approx(0, abs=0.02))
    width = ((cropped.sum(0) * pixel**2).sum() / total).sqrt().item()
    assert width == pytest.approx(6.0, rel=0.02)
    assert total.item() == pytest.approx(4 * image.sum().item(), rel=0.01)


def test_the_grid_is_that_of_torch_for_any_transformation() -> None:
    network = Gampen(tiny())
    theta = torch.eye(2, 3) + 0.3 * torch.randn(8, 2, 3)
    smooth = torch.nn.functional.avg_pool2d(images(8).unsqueeze(1), 5, 1, 2)
    grid = torch.nn.functional.affine_grid(theta, [8, 1, SIZE, SIZE], align_corners=False)
    wanted = torch.nn.functional.grid_sample(
        smooth, grid, padding_mode="zeros", align_corners=False
    )
    assert torch.allclose(network.crop(smooth, theta), wanted, atol=1e-3 * wanted.abs().max())


def test_what_lies_outside_the_image_is_empty() -> None:
    network = Gampen(tiny())
    ones = torch.ones(1, 1, SIZE, SIZE)
    cropped = network.crop(ones, torch.tensor([[[1.0, 0, 1.0], [0, 1.0, 0]]]))[0, 0]
    assert torch.all(cropped[:, : SIZE // 2] > 0.99)
    assert torch.all(cropped[:, SIZE // 2 + 1 :] == 0)


def test_the_head_sees_the_crop_only_where_the_architecture_says_so() -> None:
    for sees in (True, False):
        network = make_checkpoint(tiny(head_sees_crop=sees)).network
        features, theta = network.prefix(images(2))
        masks = network.random_masks(2, features)
        moved = network.tail(features, theta + 0.1, masks)
        assert torch.equal(network.tail(features, theta, masks), moved) is not sees
    everything_dropped = [torch.zeros(shape) for shape in network.site_shapes]
    network = make_checkpoint(tiny()).network
    masks = [None] * 4 + [everything_dropped[4], None, None]
    assert not torch.equal(
        network.tail(features, theta, masks), network.tail(features, theta + 0.1, masks)
    )  # the crop itself is never dropped


def test_gradients_reach_every_weight() -> None:
    network = make_checkpoint(tiny()).network.train().requires_grad_(True)
    network(images(4), network.random_masks(4, torch.empty(0))).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().sum() > 0, name


def test_the_stretch_is_stable_for_large_negative_pixels() -> None:
    network = Gampen(tiny())
    pixel = torch.full((1, SIZE, SIZE), -1e7)
    expected = -math.asinh(1e7 / network.arch.stretch)
    assert network.stretch(pixel)[0, 0, 0, 0].item() == pytest.approx(expected, rel=1e-6)
