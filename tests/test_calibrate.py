"""The choice of the dropout rate: coverage is what it says, and a stopped comparison goes on."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from survey_gampen.errors import InputError
from survey_gampen.model.head import gaussian_parts
from survey_gampen.model.targets import PARAMETERS, Targets
from survey_gampen.training import calibrate
from survey_gampen.training.coverage import coverage, drawn, held
from survey_gampen.training.parts import PartsSet
from tests.smallsim import inline, make_init

#: Narrow posteriors in the midst of their ranges.
TARGETS = Targets(mean=(0.0, 0.5, 9.0), std=(0.05, 0.1, 0.2))
N = 600


def outputs_and_truth(factor: float) -> tuple[torch.Tensor, np.ndarray]:
    """Outputs (N, 4, 9), and truths that scatter `factor` times as much as they predict."""
    one = 0.3 * torch.randn(N, 1, 9, generator=torch.Generator().manual_seed(1))
    mean, lower = gaussian_parts(one[:, 0])
    normal = torch.randn(N, 3, 1, generator=torch.Generator().manual_seed(2))
    truth = TARGETS.to_physical(mean + factor * (lower @ normal).squeeze(-1))
    return one.expand(N, 4, 9), truth.double().numpy()


@pytest.mark.parametrize(("factor", "inside"), [(1.0, 0.5), (2.0, 0.265), (0.5, 0.823)])
def test_coverage_of_right_narrow_and_wide_posteriors(factor: float, inside: float) -> None:
    """The 50 % interval of a normal distribution, when truths scatter `factor` times as much."""
    outputs, truth = outputs_and_truth(factor)
    found = coverage(drawn(outputs), truth, TARGETS, [0.5])
    # The density estimate widens intervals by 3 %; 600 galaxies tell a share to 2 %.
    assert found.tolist() == [[pytest.approx(inside, abs=0.07)] * 3]


def test_one_galaxy_without_numbers_is_not_held_and_harms_nobody() -> None:
    outputs, truth = outputs_and_truth(1.0)
    draws = TARGETS.to_physical(outputs[..., :3])
    draws[:, 0] *= 1.01
    expected = held(draws, truth, [0.5, 0.9])
    draws[7, 2] = torch.nan
    found = held(draws, truth, [0.5, 0.9])
    others = torch.arange(N) != 7
    assert torch.equal(found[others], expected[others])
    assert not found[7].any()


def test_the_judgement_is_fair() -> None:
    outputs, truth = outputs_and_truth(1.0)
    right = calibrate.judge(outputs, truth, TARGETS)
    wide = calibrate.judge(*outputs_and_truth(0.5), TARGETS)
    assert right["levels"] == calibrate.LEVELS
    for p in PARAMETERS:
        assert np.abs(np.array(right[p]["coverage"]) - right["levels"]).max() < 0.06
        assert sum(right[p]["ranks"]) == N
        assert np.std(right[p]["ranks"]) < 2 * np.sqrt(N / calibrate.RANK_BINS)
        # Truths in the middle of their posteriors: a dome.
        assert np.std(wide[p]["ranks"]) > 3 * np.sqrt(N / calibrate.RANK_BINS)
        assert wide[p]["crps"] < right[p]["crps"]
    assert right["deviation"] < 0.03 < wide["deviation"]


@pytest.fixture
def init(tmp_path: Path, parts_folder: Path) -> str:
    return make_init(tmp_path / "init.safetensors", PartsSet(parts_folder))


CHANGES = {"epochs": 1, "validation": 16, "batch": 8, "passes": 2}


def test_the_verb_compares_rates_and_goes_on(
    parts_folder: Path,
    init: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    begun: list[str] = []

    def half(function, calls, what, profile, folder):  # type: ignore[no-untyped-def]
        begun.extend(Path(call[0].out).name for call in calls)
        inline(function, calls[: 1 if len(calls) == 2 else None], what, profile, folder)
        if len(calls) == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(calibrate, "compute", half)
    out = tmp_path / "out"
    arguments = ("survey", parts_folder, out, [0.2, 0.001])
    with pytest.raises(KeyboardInterrupt):
        calibrate.main(*arguments, init=init, **CHANGES)
    assert calibrate.main(*arguments, init=init, **CHANGES) == 0
    assert begun == ["rate-0.001", "rate-0.2", "rate-0.2"]
    found = json.loads((out / "calibration.json").read_text())
    table = pq.read_table(out / "calibration.parquet").to_pylist()
    assert [row["rate"] for row in table] == [0.001, 0.2]
    least = min(table, key=lambda row: float(row["deviation"]))
    assert found["chosen"] == least["rate"]
    assert f"rate {least['rate']:g} deviates least" in capsys.readouterr().out
    assert (out / "calibration.png").stat().st_size > 20_000
    with pytest.raises(InputError, match="rate-0.001 holds another training"):
        calibrate.main(*arguments, init=init, **CHANGES | {"epochs": 2})


@pytest.mark.slow
def test_rates_are_tasks_of_a_cluster(parts_folder: Path, init: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert calibrate.main("survey", parts_folder, out, [0.2, 0.001], init=init, **CHANGES) == 0
    for rate in ("0.001", "0.2"):
        assert (out / f"rate-{rate}" / "model.safetensors").exists()


def test_one_rate_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="two or more: give them to --rates"):
        calibrate.main("survey", tmp_path, tmp_path / "out", [0.1, 0.1])
    assert not (tmp_path / "out").exists()
