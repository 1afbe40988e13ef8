"""Figures of merit, against their definitions and on posteriors that are right by construction."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from survey_gampen.model.targets import PARAMETERS
from survey_gampen.posterior.summary import LEVELS
from survey_gampen.training import metrics


@given(st.lists(st.floats(-10, 10), min_size=1, max_size=12), st.floats(-10, 10))
def test_crps_is_its_definition(draws: list[float], truth: float) -> None:
    """The integral of (F(x) - 1[x >= y])^2 of the empirical distribution, step by step."""
    x = np.sort(draws)
    edges = np.sort([*x, truth])
    expected = 0.0
    for low, high in pairwise(edges):
        middle = 0.5 * (low + high)
        expected += (high - low) * ((x <= middle).mean() - (truth <= middle)) ** 2
    (found,) = metrics.crps([draws], [truth])
    assert found == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize(("mean", "sigma", "truth"), [(0, 1, 0), (2, 0.5, 3), (-1, 3, 0.5)])
def test_crps_of_a_gaussian_has_a_closed_form(mean: float, sigma: float, truth: float) -> None:
    """Gneiting & Raftery 2007, eq. 22."""
    z = (truth - mean) / sigma
    expected = sigma * (z * (2 * norm.cdf(z) - 1) + 2 * norm.pdf(z) - 1 / math.sqrt(math.pi))
    draws = norm.ppf((np.arange(5000) + 0.5) / 5000, mean, sigma)
    assert metrics.crps([draws], [truth])[0] == pytest.approx(expected, rel=2e-3)


def test_rank_of_truth_counts_ties_half() -> None:
    draws = [[0, 0, 1, 1], [0.2, 0.4, 0.6, 0.8], [0, 0, 0, 0]]
    assert metrics.rank_of_truth(draws, [0, 0.5, 1]).tolist() == [0.25, 0.5, 1]


def test_nmad_is_sigma_of_a_gaussian_and_blind_to_outliers() -> None:
    values = np.random.default_rng(0).normal(3, 2, 20_000)
    values[:400] = 1e6
    assert metrics.nmad(values) == pytest.approx(2, rel=0.04)


def perfect(n: int, seed: int = 0) -> tuple[dict, dict]:
    """Gaussian posteriors, each with a truth drawn from it."""
    rng = np.random.default_rng(seed)
    columns, truth = {}, {}
    for p, scale in zip(PARAMETERS, (0.1, 0.2, 500.0), strict=True):
        mode = rng.uniform(20, 40, n) * scale
        truth[p] = rng.normal(mode, scale)
        columns[f"{p}_mode"] = columns[f"{p}_p50"] = mode
        columns[f"{p}_crps"] = np.full(n, 0.5 * scale)
        for level, k in (("ci68", 1), ("ci95", 2), ("ci99", 3)):
            columns[f"{p}_{level}_lo"] = mode - k * scale
            columns[f"{p}_{level}_hi"] = mode + k * scale
    return columns, truth


def test_perfect_posteriors_cover_what_they_say() -> None:
    columns, truth = perfect(4000)
    figures = metrics.figures(columns, truth, np.ones(4000, bool))
    assert figures["n"] == 4000
    for p in PARAMETERS:
        for level, nominal in LEVELS.items():
            value, error = figures[p][f"coverage_{level}"]
            assert value == pytest.approx(nominal, abs=4 * error + 1e-3)
            assert error == pytest.approx(math.sqrt(nominal * (1 - nominal) / 4000), rel=0.3)
    value, error = figures["bt"]["sigma"]
    assert value == pytest.approx(0.1, abs=4 * error)
    assert error == pytest.approx(0.1 / math.sqrt(8000), rel=0.3)
    assert figures["r_e"]["half_width_68"][0] == pytest.approx(0.2)
    mean, error = figures["r_e"]["mean"]
    assert mean == pytest.approx(0, abs=4 * error)


def test_posteriors_that_are_too_narrow_do_not() -> None:
    columns, truth = perfect(2000)
    for name in ("bt_ci68_lo", "bt_ci68_hi"):
        columns[name] = columns["bt_mode"] + 0.5 * (columns[name] - columns["bt_mode"])
    value, _ = metrics.figures(columns, truth, np.ones(2000, bool))["bt"]["coverage_ci68"]
    assert value == pytest.approx(0.383, abs=0.05)


def test_flux_is_a_share_of_the_truth_and_rows_choose() -> None:
    columns, truth = perfect(100)
    rows = np.arange(100) < 30
    figures = metrics.figures(columns, truth, rows)
    left = (columns["flux_mode"] / truth["flux"] - 1)[rows]
    assert figures["n"] == 30
    assert figures["flux"]["median"][0] == pytest.approx(np.median(left))
    assert figures["flux"]["half_width_68"][0] == pytest.approx(
        np.median(500 / truth["flux"][rows])
    )
    assert figures["flux"]["crps"][0] == pytest.approx((250 / truth["flux"][rows]).mean())


def test_a_truth_on_the_boundary_is_inside() -> None:
    """B/T is exactly 1 for a pure bulge, and its column comes in float32."""
    columns, truth = perfect(10)
    truth["bt"] = np.ones(10)
    columns["bt_ci68_hi"] = np.full(10, np.nextafter(np.float32(1), np.float32(0)), dtype=float)
    columns["bt_ci68_lo"] = np.full(10, 0.9)
    figures = metrics.figures(columns, truth, np.ones(10, bool))
    assert figures["bt"]["coverage_ci68"][0] == 1


def test_an_empty_bin_is_told_as_nan() -> None:
    columns, truth = perfect(10)
    figures = metrics.figures(columns, truth, np.zeros(10, bool))
    assert figures["n"] == 0
    assert math.isnan(figures["bt"]["sigma"][0])


def test_errors_are_the_same_each_time() -> None:
    columns, truth = perfect(50)
    rows = np.ones(50, bool)
    assert metrics.figures(columns, truth, rows) == metrics.figures(columns, truth, rows)
