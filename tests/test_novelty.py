"""What a network has never seen: the score rises, and depends on the galaxy alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from survey_gampen.model.checkpoint import load_checkpoint, save_checkpoint
from survey_gampen.model.novelty import FALSE_ALARMS, Novelty
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.summary import columns, summarise
from survey_gampen.training.data import Batch
from survey_gampen.training.validation import hidden_features
from tests.networks import TARGETS, make_checkpoint, make_images, tiny


def features(n: int, seed: int) -> torch.Tensor:
    """Correlated features of very different spreads."""
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(20, 20, generator=torch.Generator().manual_seed(0))
    return torch.randn(n, 20, generator=generator) * torch.logspace(-2, 2, 20) @ mixing + 5.0


@pytest.fixture
def novelty() -> Novelty:
    return Novelty.fit(features(4000, 1), features(2000, 2))


def test_a_typical_galaxy_scores_one(novelty: Novelty) -> None:
    score = novelty.score(features(4000, 3))
    assert score.square().mean().item() == pytest.approx(1, abs=0.05)
    assert (score > novelty.threshold).float().mean().item() == pytest.approx(
        FALSE_ALARMS, abs=0.01
    )


def test_what_is_far_scores_high_whatever_the_scale(novelty: Novelty) -> None:
    ordinary = features(500, 4)
    far = ordinary + 10 * novelty.centre.abs().mean() * torch.ones(20)
    moved = torch.stack([novelty.centre + 6 / axis.norm() ** 2 * axis for axis in novelty.axes.t()])
    assert (novelty.score(far) > novelty.threshold).all()
    assert (novelty.score(moved) > 1.2).all()
    scaled = Novelty.fit(1000 * features(4000, 1), 1000 * features(2000, 2))
    assert torch.allclose(scaled.score(1000 * ordinary), novelty.score(ordinary), rtol=1e-3)


def test_few_galaxies_tell_of_few_axes() -> None:
    """As many axes as galaxies would fit them exactly, and all others would lie beyond measure."""
    novelty = Novelty.fit(features(24, 1), features(16, 2))
    assert novelty.axes.shape == (20, 3)
    assert novelty.score(features(500, 3)).median().item() < 2


def test_the_score_depends_on_the_galaxy_alone(tmp_path: Path) -> None:
    """Through the engine: at any place of a batch, in any company; NaN without the means."""
    checkpoint = make_checkpoint(tiny())
    images = make_images(40, 119)
    seen = hidden_features(checkpoint.network, Batch(torch.from_numpy(images), np.empty(0)))
    path = tmp_path / "model.safetensors"
    novelty = Novelty.fit(seen, seen, axes=4)
    save_checkpoint(path, checkpoint.network, TARGETS, {}, novelty=novelty)
    loaded = load_checkpoint(path)
    assert loaded.novelty is not None
    assert torch.equal(loaded.novelty.axes, novelty.axes)
    settings = {"passes": 3, "seed": 0, "precision": "fp32", "batch": 8}
    engine = Engine(loaded, **settings)
    keys = np.arange(8, dtype=np.uint64)
    whole = engine.draws(images[:8], keys)
    assert whole.novelty is not None
    for place in range(8):
        moved = np.roll(np.arange(8), place)
        found = engine.draws(images[moved], keys).novelty
        assert torch.equal(found, whole.novelty[torch.from_numpy(moved)])
    assert torch.equal(engine.draws(images[:3], keys[:3]).novelty, whole.novelty[:3])
    table = summarise(whole)
    assert list(table) == columns()
    assert np.array_equal(table["ood_score"], whole.novelty.numpy())
    without = Engine(replace(loaded, novelty=None), **settings).draws(images[:8], keys)
    assert np.isnan(summarise(without)["ood_score"]).all()
    assert torch.equal(without.physical, whole.physical)
