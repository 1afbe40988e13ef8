"""Joint draws on disk."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import xarray as xr
import zarr
from networks import TARGETS, make_checkpoint, make_images, tiny

from survey_gampen.model.dropout import masks
from survey_gampen.posterior import samples
from survey_gampen.posterior.engine import Draws, Engine
from survey_gampen.run.inference import Inference
from survey_gampen.stages import Stages

PASSES = 5


def make_draws(n, seed=0):
    scaled = torch.randn(n, PASSES, 3, generator=torch.Generator().manual_seed(seed))
    return Draws(scaled, TARGETS.to_physical(scaled), torch.ones(n, 3), torch.ones(n).bool())


def write(folder, object_id, calls):
    facts = samples.SampleFacts(object_id, PASSES, TARGETS, "f00d", {"seed": 3})
    with samples.SampleWriter(folder, facts) as writer:
        for rows, draws in calls:
            writer.write(np.asarray(rows), draws)


@pytest.mark.parametrize("ids", [list(range(100, 111)), [f"galaxy {i}" for i in range(11)]])
def test_round_trip_with_gaps_and_over_shards(tmp_path, monkeypatch, ids):
    monkeypatch.setattr(samples, "CHUNK", 2)
    monkeypatch.setattr(samples, "CHUNKS_A_SHARD", 2)
    first, second = make_draws(5, 1), make_draws(3, 2)
    second.finite[1] = False
    write(tmp_path / "o1-p2", ids, [([0, 1, 2, 4, 5], first), ([6, 9, 10], second)])
    object_id, physical = samples.read_samples(tmp_path / "o1-p2")
    assert list(object_id) == ids
    expected = np.full((11, PASSES, 3), np.nan)
    expected[[0, 1, 2, 4, 5]] = first.physical
    expected[[6, 10]] = second.physical[::2]
    np.testing.assert_allclose(physical, expected, rtol=5e-3, atol=2e-3)
    some = samples.read_samples(tmp_path / "o1-p2", slice(4, 6), slice(2, 3))[1]
    np.testing.assert_array_equal(some, physical[4:6, 2:3])


def test_unsigned_ids_keep_all_their_digits(tmp_path):
    """NumPy makes floats of a list that has both small integers and such above 2^63."""
    ids = np.array([7, 2**63 + 1, 2**64 - 1], np.uint64)
    spec = SimpleNamespace(fingerprint="f00d", model={"sha256": "beef"})
    engine = SimpleNamespace(passes=PASSES, targets=TARGETS, seed=3)
    store = SimpleNamespace(object_id=ids)
    work = Inference(spec, engine, {}, None, store, None, None, Stages())
    with samples.SampleWriter(tmp_path / "g", work.sample_facts()) as writer:
        writer.write(np.arange(3), make_draws(3))
    found = samples.read_samples(tmp_path / "g")[0]
    assert found.dtype == np.uint64
    assert found.tolist() == ids.tolist()


def test_opens_with_xarray(tmp_path):
    write(tmp_path / "g", [1, 2, 3], [([0, 1, 2], make_draws(3))])
    dataset = xr.open_zarr(tmp_path / "g", consolidated=False)
    assert dataset["scaled"].dims == ("object", "pass", "parameter")
    assert dataset["scaled"].dtype == np.float16
    assert dataset.attrs["seed"] == 3


def test_only_a_whole_group_has_a_fingerprint(tmp_path):
    assert samples.fingerprint_of(tmp_path / "none") is None
    facts = samples.SampleFacts([1], PASSES, TARGETS, "f00d")
    with pytest.raises(RuntimeError), samples.SampleWriter(tmp_path / "half", facts):
        raise RuntimeError
    assert samples.fingerprint_of(tmp_path / "half") is None
    write(tmp_path / "whole", [1], [([0], make_draws(1))])
    assert samples.fingerprint_of(tmp_path / "whole") == "f00d"


def test_draw_k_is_one_network_for_all_galaxies(tmp_path):
    """Each stored draw is that of the network with the masks of (seed, k), for every galaxy.

    The three-output head adds no noise of its own, so what is stored *is* the network's output;
    the galaxies go through the engine in different batches and places.
    """
    checkpoint = make_checkpoint(tiny(outputs=3, head_sees_crop=False), rate=0.3)
    network = checkpoint.network
    network.blocks[-1].weight_layer.weight.mul_(10)  # passes that differ by more than half's step
    engine = Engine(checkpoint, passes=PASSES, seed=9, precision="fp32", batch=4, threads=1)
    images, keys = make_images(7, 119), np.arange(7, dtype=np.uint64)
    calls = [(rows, engine.draws(images[rows], keys[rows])) for rows in ([0, 1, 2, 3], [4], [5, 6])]
    write(tmp_path / "g", list(range(7)), calls)
    stored = zarr.open_group(tmp_path / "g", mode="r")["scaled"][:]
    sites = list(enumerate(zip(network.site_shapes, network.rates, strict=True)))
    for k in range(PASSES):
        for other in range(PASSES):
            drawn = [masks(9, other, site, shape, rate) for site, (shape, rate) in sites]
            difference = np.abs(stored[:, k] - network(torch.from_numpy(images), drawn).numpy())
            if other == k:
                assert difference.max() < 3e-3
            else:
                assert (difference.max(axis=1) > 1e-2).all()
