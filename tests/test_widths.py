"""Widths of the predicted Gaussians: found from truths, folded into the last layer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from survey_gampen.cli import main
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.model.head import gaussian_parts
from survey_gampen.model.targets import Targets
from survey_gampen.posterior.engine import Engine
from survey_gampen.training import recalibrate
from survey_gampen.training.calibrate import LEVELS, judge
from survey_gampen.training.data import Batch
from survey_gampen.training.parts import PartsSet
from survey_gampen.training.validation import outputs as outputs_of
from survey_gampen.training.widths import Widths, rescale
from tests.networks import make_checkpoint, make_images, tiny
from tests.smallsim import N, make_cutouts, make_init

FACTORS = st.lists(st.floats(0.3, 3.0), min_size=3, max_size=3)
SLOPES = st.lists(st.floats(-1.0, 1.0), min_size=3, max_size=3)

#: Scaled targets of magnitudes and sizes that a survey has; no draw of B/T leaves 0 to 1.
TARGETS = Targets(mean=(0.0, 0.5, 9.0), std=(0.05, 0.1, 0.2))


def outputs(n: int, passes: int) -> torch.Tensor:
    """Outputs of passes that scatter little and predict correlated errors."""
    one = 0.3 * torch.randn(n, 1, 9, generator=torch.Generator().manual_seed(1))
    scatter = torch.randn(n, passes, 9, generator=torch.Generator().manual_seed(2))
    return one + 0.01 * scatter


def test_wrong_widths_are_found_out() -> None:
    """Truths that scatter `wrong` times as much as predicted, with the correlations predicted."""
    wrong = [0.4, 1.0, 2.5]
    out = outputs(300, 4)
    mean, factor = gaussian_parts(out[:, 0])
    normal = torch.randn(300, 3, 1, generator=torch.Generator().manual_seed(3))
    truth = TARGETS.to_physical(mean + torch.tensor(wrong) * (factor @ normal).squeeze(-1))
    found = Widths.fit(out, truth.double().numpy(), TARGETS)
    # 300 galaxies tell a width to 6 %; the smoothing of 1000 draws is 3 %.
    assert torch.allclose(found.base.exp(), torch.tensor(wrong), rtol=0.18)


def test_widths_that_go_wrong_with_the_flux_are_found_out() -> None:
    """Truths whose scatter, in units of the predicted one, is a power of the flux."""
    slope = torch.tensor([0.0, 0.5, -0.7])
    out = outputs(1200, 4)
    out[..., 2] = torch.linspace(-1.5, 1.5, 1200)[:, None]
    out[..., 6:] = 0  # what follows is exact for uncorrelated errors
    mean, factor = gaussian_parts(out[:, 0])
    normal = torch.randn(1200, 3, 1, generator=torch.Generator().manual_seed(3))
    deviation = (factor @ normal).squeeze(-1)
    truth = TARGETS.to_physical(mean + torch.exp(slope * out[:, 0, 2:3]) * deviation)
    found = Widths.fit(out, truth.double().numpy(), TARGETS)
    assert torch.allclose(found.slope, slope, atol=0.12)
    assert torch.allclose(found.base, torch.zeros(3), atol=0.12)


def test_equal_fluxes_give_no_slope() -> None:
    out = outputs(40, 4)
    out[..., 2] = 0.0
    truth = TARGETS.to_physical(out[:, 0, :3]).double().numpy()
    assert torch.equal(Widths.fit(out, truth, TARGETS).slope, torch.zeros(3))


@settings(max_examples=20, deadline=None)
@given(factors=FACTORS)
def test_folding_scales_the_covariance_and_nothing_else(factors: list[float]) -> None:
    network = make_checkpoint(tiny(outputs=9)).network
    images = torch.from_numpy(make_images(4, 119))
    with torch.no_grad():
        before = network(images)
        Widths(torch.tensor(factors).log(), torch.zeros(3)).fold(network)
        after = network(images)
    mean, old = gaussian_parts(before)
    assert torch.equal(gaussian_parts(after)[0], mean)
    new = gaussian_parts(after)[1]
    scale = torch.diag(torch.tensor(factors))
    wanted = scale @ old @ old.transpose(1, 2) @ scale
    torch.testing.assert_close(new @ new.transpose(1, 2), wanted, rtol=1e-4, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(base=SLOPES, slope=SLOPES)
def test_folded_is_applied(base: list[float], slope: list[float]) -> None:
    network = make_checkpoint(tiny(outputs=9)).network
    images = torch.from_numpy(make_images(4, 119))
    widths = Widths(torch.tensor(base), torch.tensor(slope))
    with torch.no_grad():
        wanted = widths.applied(network(images))
        widths.fold(network)
        torch.testing.assert_close(network(images), wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("outputs_of_head", [3, 9])
def test_another_scaling_predicts_the_same(outputs_of_head: int) -> None:
    network = make_checkpoint(tiny(outputs=outputs_of_head)).network
    new = Targets(mean=(0.3, -0.2, 8.0), std=(0.5, 0.2, 0.1))
    images = torch.from_numpy(make_images(4, 119))
    with torch.no_grad():
        before = network(images)
        rescale(network, TARGETS, new)
        after = network(images)
    for out, targets in ((before, TARGETS), (after, new)):
        mean, factor = gaussian_parts(out)
        draws = mean if factor is None else mean + factor.sum(-1)
        found = targets.to_physical(draws)
        if targets is TARGETS:
            wanted = found
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="different forms"):
        rescale(network, TARGETS, Targets(new.mean, new.std, form="linear"))


def test_a_head_without_widths_is_refused() -> None:
    with pytest.raises(ValueError, match="no widths"):
        Widths.fit(torch.zeros(5, 2, 3), np.zeros((5, 3)), TARGETS)


@pytest.mark.parametrize("kind", ["parts", "finished"])
def test_the_verb_makes_intervals_hold_what_they_claim(
    kind: str, parts_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A network that knows nothing: its widths alone can be right.

    Not those of B/T: a quarter of the galaxies have 0 or 1, which no narrow interval holds.
    """
    parts, new = PartsSet(parts_folder), tmp_path / "new.safetensors"
    init = make_init(tmp_path / "init.safetensors", parts)
    data = parts_folder if kind == "parts" else make_cutouts(tmp_path)
    rows = np.arange(len(parts))
    level = int(np.argmin(np.abs(np.array(LEVELS) - 0.7)))

    def deviation(model: str) -> float:
        """Mean distance from 0.7 of the share of truths in 70 % intervals, of mixes not used."""
        checkpoint, off = load_checkpoint(model), []
        for key in range(4):
            batch = parts.mix(rows, np.random.default_rng(key))
            judged = judge(
                outputs_of(checkpoint.network, batch, 8), batch.truth, checkpoint.targets
            )
            off.append([judged[p]["coverage"][level] - 0.7 for p in ("r_e", "flux")])
        return float(np.abs(np.mean(off, axis=0)).mean())

    words = ["widths", init, "--data", str(data), "--passes", "8"]
    assert main([*words, "--out", str(new)]) == 0
    assert f"{N} galaxies" in capsys.readouterr().out
    assert deviation(str(new)) < 0.06
    assert new.stat().st_mode & 0o777 == data.joinpath("zarr.json").stat().st_mode & 0o777
    first = load_checkpoint(str(new)).meta["widths"]
    assert max(map(abs, first["base"])) > 0.05
    # Again from there: nothing is left to set, and what was set before stays in the account.
    assert main(["widths", str(new), *words[2:], "--out", str(new)]) == 0
    again = load_checkpoint(str(new)).meta["widths"]
    assert np.allclose(first["base"][1:], again["base"][1:], atol=0.05)


def test_training_sees_what_the_engine_draws() -> None:
    """Without dropout, what comes in bfloat16 is what comes in float32, in all orientations."""
    checkpoint = make_checkpoint(tiny(orientations=8), rate=0.0)
    images = make_images(4, 119)
    engine = Engine(checkpoint, passes=8, seed=0, precision="fp32", batch=4)
    batch = Batch(torch.from_numpy(images), np.ones((4, 3)))
    found, wanted = outputs_of(checkpoint.network, batch, 8), engine.outputs(images)
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-5)


def test_where_the_model_goes_is_looked_at_first(
    parts_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    init = make_init(tmp_path / "init.safetensors", PartsSet(parts_folder))
    words = ["widths", init, "--data", str(parts_folder), "--out"]
    assert main([*words, str(tmp_path)]) == 2
    assert f"--out {tmp_path} is a folder: give a file" in capsys.readouterr().err
    assert main([*words, f"{init}/new.safetensors"]) != 0
    told = capsys.readouterr()
    assert "looking" not in told.err
    assert "init.safetensors" in told.err


def test_too_few_galaxies_are_refused(
    parts_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    init = make_init(tmp_path / "init.safetensors", PartsSet(parts_folder))
    monkeypatch.setattr(recalibrate, "LEAST", 100)
    words = ["widths", init, "--data", str(parts_folder), "--out", str(tmp_path / "new")]
    assert main(words) == 2
    assert not (tmp_path / "new").exists()
