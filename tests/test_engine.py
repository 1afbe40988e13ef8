"""The engine against the readable reference, and what its bits may depend on."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
from networks import make_checkpoint, make_images, tiny

from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.model.dropout import masks, noise_words
from survey_gampen.model.head import gaussian_parts
from survey_gampen.model.orientations import oriented
from survey_gampen.model.philox import normals
from survey_gampen.model.presets import architecture
from survey_gampen.posterior import settings as engine_settings
from survey_gampen.posterior.drops import drops_few
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.settings import EngineSettings, has, resolve_precision
from survey_gampen.posterior.sizing import measure_speed, resolve_engine

SEED = 3
KEYS = np.arange(100, 164).astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
PRECISIONS = [
    "fp32",
    *(
        pytest.param(p, marks=pytest.mark.skipif(not has(p, "cpu"), reason=f"no {p}"))
        for p in ("bf16", "int8")
    ),
]


def make_engine(checkpoint, passes=3, batch=6, precision="fp32", seed=SEED, threads=1):
    return Engine(
        checkpoint, passes=passes, seed=seed, precision=precision, batch=batch, threads=threads
    )


def anchor_of(network):
    """The network that drops nothing and leaves the factors of dropout out."""
    anchor, gain = copy.deepcopy(network), 1.0
    if network.dropout == "regression":
        for block, rate in zip(anchor.blocks, network.rates, strict=True):
            gain /= 1 - max(rate, 0)
            block.weight_layer.bias.div_(gain)
            block.weight_layer.weight[:, block.input_shape[0] :].div_(gain)  # of the crop
    return anchor


def reference(checkpoint, images, keys, k):
    """Draw k by the readable code: whole network, float32, scaled masks."""
    network = checkpoint.network
    sites = enumerate(zip(network.site_shapes, network.rates, strict=True))
    drawn = [masks(SEED, k, site, shape, rate) for site, (shape, rate) in sites]
    count = network.arch.orientations
    seen = [oriented(torch.from_numpy(images), p, count) for p in range(count)]
    out = network(seen[k % count], drawn)
    anchors = torch.stack([anchor_of(network)(x)[:, :3] for x in seen])
    out[:, :3] += anchors.mean(0) - anchors[k % count]
    mean, factor = gaussian_parts(out)
    if factor is None:
        return mean
    words = noise_words(SEED, k + 1, torch.from_numpy(keys.view(np.int64)))
    noise = normals(words)[:, k, :3].float()
    return mean + (factor @ noise.unsqueeze(-1)).squeeze(-1)


@pytest.mark.parametrize("dropout", ["regression", "everywhere"])
@pytest.mark.parametrize("outputs", [3, 9])
@pytest.mark.parametrize(("rate", "orientations"), [(0.0, 1), (0.002, 8), (0.1, 4), (0.1, 1)])
def test_agrees_with_the_reference(dropout, outputs, rate, orientations):
    arch = tiny(
        dropout=dropout, outputs=outputs, head_sees_crop=outputs == 9, orientations=orientations
    )
    checkpoint = make_checkpoint(arch, rate)
    images = make_images(5, arch.size)
    draws = make_engine(checkpoint, passes=9 if orientations == 8 else 5).draws(images, KEYS[:5])
    for k in range(draws.scaled.shape[1]):
        expected = reference(checkpoint, images, KEYS[:5], k)
        torch.testing.assert_close(draws.scaled[:, k], expected, rtol=2e-4, atol=2e-5)
    torch.testing.assert_close(draws.physical, checkpoint.targets.to_physical(draws.scaled))
    if rate == 0 and outputs == 3:
        assert torch.equal(draws.scaled[:, 0], draws.scaled[:, 2])
    elif rate == 0.1:
        assert draws.scaled[:, 0].ne(draws.scaled[:, 2]).all()


def test_sites_may_have_rates_of_their_own():
    checkpoint = make_checkpoint(tiny(), 0.0)
    checkpoint.network.rates = (0.0, 0.3, 0.0, 0.002, 0.0, 0.1, 0.5)
    images = make_images(4, 119)
    draws = make_engine(checkpoint).draws(images, KEYS[:4])
    expected = reference(checkpoint, images, KEYS[:4], 1)
    torch.testing.assert_close(draws.scaled[:, 1], expected, rtol=2e-4, atol=2e-5)


@pytest.mark.parametrize("precision", PRECISIONS[1:])
@pytest.mark.parametrize("rate", [0.0001, 0.1])
def test_a_fast_precision_is_close_to_fp32(precision, rate):
    """And the closer, the fewer elements are dropped: what remains the same is rounded alike."""
    checkpoint = make_checkpoint(tiny(orientations=8), rate)
    images = make_images(6, 119)
    exact = make_engine(checkpoint, passes=16).draws(images, KEYS[:6]).scaled
    rounded = make_engine(checkpoint, passes=16, precision=precision).draws(images, KEYS[:6]).scaled
    assert (exact - rounded).abs().median() < (0.02 if rate == 0.1 else 0.0002) * exact.std()
    assert not torch.equal(exact, rounded)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_without_dropout_nothing_is_rounded(precision):
    checkpoint = make_checkpoint(tiny(), 0.0)
    images = make_images(4, 119)
    exact = make_engine(checkpoint).draws(images, KEYS[:4]).scaled
    rounded = make_engine(checkpoint, precision=precision).draws(images, KEYS[:4]).scaled
    torch.testing.assert_close(rounded, exact, rtol=1e-5, atol=1e-6)


def one_galaxy_everywhere(checkpoint, precision, batch, passes, threads, step=1):
    """Draws of one galaxy alone, and at places of batches that are full or in part."""
    size = checkpoint.config.size
    engine = make_engine(checkpoint, passes, batch, precision, threads=threads)
    one, key = make_images(1, size, seed=5), KEYS[40:41]
    alone = engine.draws(one, key)
    for place in range(0, batch, step):
        n = batch if place % 2 else place + 1
        images, keys = 10 * make_images(n, size, seed=place), KEYS[:n].copy()
        images[place], keys[place] = one[0], key[0]
        yield place, alone, engine.draws(images, keys)


def assert_same_bits(place, alone, moved):
    for name in ("scaled", "physical", "crop"):
        assert torch.equal(getattr(alone, name)[0], getattr(moved, name)[place]), (name, place)


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("batch", [7, 12])
@pytest.mark.parametrize("rate", [0.002, 0.1])
def test_same_bits_in_every_place(precision, rate, batch, threads):
    """Whether few elements are dropped, and named, or many, and masked."""
    checkpoint = make_checkpoint(tiny(), rate)
    assert drops_few(checkpoint.network) is (rate == 0.002)
    for found in one_galaxy_everywhere(checkpoint, precision, batch, 2, threads):
        assert_same_bits(*found)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_same_bits_in_every_place_from_all_sides(precision):
    checkpoint = make_checkpoint(tiny(orientations=8))
    for found in one_galaxy_everywhere(checkpoint, precision, 5, 2, 2):
        assert_same_bits(*found)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_same_bits_in_every_place_of_the_default_network(precision):
    checkpoint = make_checkpoint(architecture("survey", orientations=1))
    for found in one_galaxy_everywhere(checkpoint, precision, 9, 1, 1):
        assert_same_bits(*found)


@pytest.mark.slow
@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize(
    ("preset", "rate"), [("survey", 0.0001), ("survey", 0.1), ("gampen-2021", 0.1)]
)
def test_same_bits_in_every_place_of_a_large_batch(precision, preset, rate):
    checkpoint = make_checkpoint(architecture(preset), rate)
    for found in one_galaxy_everywhere(checkpoint, precision, 32, 2, 2, step=5):
        assert_same_bits(*found)


def test_same_bits_in_another_engine_and_for_fewer_passes():
    checkpoint = make_checkpoint(tiny())
    images = make_images(4, 119)
    long = make_engine(checkpoint, passes=5).draws(images, KEYS[:4]).scaled
    short = make_engine(checkpoint, passes=2).draws(images, KEYS[:4]).scaled
    assert torch.equal(long[:, :2], short)


def test_a_smaller_batch_is_the_same_within_rounding():
    checkpoint = make_checkpoint(tiny())
    images = make_images(2, 119)
    large = make_engine(checkpoint, batch=8).draws(images, KEYS[:2]).scaled
    small = make_engine(checkpoint, batch=2).draws(images, KEYS[:2]).scaled
    torch.testing.assert_close(large, small, rtol=1e-4, atol=1e-5)


def test_noise_belongs_to_the_galaxy_and_network_to_the_pass():
    """The same pixels under two keys: same predicted Gaussian, other draws from it."""
    checkpoint = make_checkpoint(tiny())
    image = make_images(1, 119).repeat(2, axis=0)
    draws = make_engine(checkpoint).draws(image, KEYS[:2]).scaled
    assert draws[0].ne(draws[1]).all()
    three = make_checkpoint(tiny(outputs=3))
    draws = make_engine(three).draws(image, KEYS[:2]).scaled
    assert torch.equal(draws[0], draws[1])


def test_seed_changes_the_draws():
    checkpoint = make_checkpoint(tiny(outputs=3))
    images = make_images(1, 119)
    one = make_engine(checkpoint, seed=1).draws(images, KEYS[:1]).scaled
    two = make_engine(checkpoint, seed=2).draws(images, KEYS[:1]).scaled
    assert one.ne(two).all()


def test_crop_is_told_in_arcsec():
    checkpoint = make_checkpoint(tiny())
    last = checkpoint.network.localisation.fc2
    last.weight.zero_()
    last.bias.copy_(torch.tensor([0.5, 0, 0.1, 0, 0.5, -0.2]))
    crop = make_engine(checkpoint).draws(make_images(1, 119), KEYS[:1]).crop
    half_side = 119 / 2 * 0.168
    torch.testing.assert_close(crop, torch.tensor([[0.5, 0.1 * half_side, -0.2 * half_side]]))


@pytest.mark.parametrize("precision", PRECISIONS)
def test_nonfinite_galaxies_are_told_and_harm_nobody(precision):
    checkpoint = make_checkpoint(tiny())
    images = make_images(3, 119)
    clean = make_engine(checkpoint, precision=precision).draws(images, KEYS[:3])
    images[1, 50:60, 50:60] = np.nan
    draws = make_engine(checkpoint, precision=precision).draws(images, KEYS[:3])
    assert draws.finite.tolist() == [True, False, True]
    assert torch.equal(draws.scaled[::2], clean.scaled[::2])


def test_too_many_galaxies_are_refused():
    with pytest.raises(ValueError, match="batch of 6"):
        make_engine(make_checkpoint(tiny())).draws(make_images(7, 119), KEYS[:7])


def test_precision_names(monkeypatch):
    model = make_checkpoint(tiny())
    monkeypatch.setattr(
        engine_settings, "_cpu_flags", lambda: {"avx2", "avx512_bf16", "avx512_vnni"}
    )
    assert resolve_precision("auto", "cpu", model) == "bf16"  # nobody has looked at int8
    assert resolve_precision("int8", "cpu", model) == "int8"
    model.meta["fidelity"] = {"int8": {"kept": True}}
    assert resolve_precision("auto", "cpu", model) == "int8"
    model.meta["fidelity"] = {"int8": {"kept": False}, "bf16": {"kept": False}}
    assert resolve_precision("auto", "cpu", model) == "fp32"
    del model.meta["activation_ranges"]
    with pytest.raises(InputError, match="how large its activations are.*survey-gampen widths"):
        resolve_precision("int8", "cpu", model)
    monkeypatch.setattr(engine_settings, "_cpu_flags", lambda: {"avx2"})
    assert resolve_precision("auto", "cpu", model) == "fp32"
    with pytest.raises(InputError, match="no instructions for bf16: use --precision auto"):
        resolve_precision("bf16", "cpu", model)
    with pytest.raises(InputError, match="fp8"):
        resolve_precision("fp8", "cpu", model)


def test_a_worker_that_cannot_honour_the_settings_says_so(monkeypatch):
    checkpoint = make_checkpoint(tiny())
    monkeypatch.setattr(engine_settings, "_cpu_flags", lambda: {"avx2"})
    with pytest.raises(OutsideFault, match="bf16"):
        make_engine(checkpoint, precision="bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(OutsideFault, match="GPU"):
        Engine(checkpoint, passes=1, seed=0, precision="fp32", batch=1, device="cuda")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    with pytest.raises(OutsideFault, match="3 threads"):
        Engine(checkpoint, passes=1, seed=0, precision="fp32", batch=1, threads=3)


def test_settings_are_resolved_and_timed():
    model = make_checkpoint(tiny())
    settings = resolve_engine(model, 5, device="cpu", precision="fp32", threads=1)
    assert settings == EngineSettings("cpu", "fp32", 5, 1)
    assert EngineSettings(**settings.to_dict()) == settings
    speed = measure_speed(model, settings)
    assert 0 < speed.seconds(10) < speed.seconds(20)
