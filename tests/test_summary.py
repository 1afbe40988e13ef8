"""Columns of the catalogue against numpy and scipy, and properties that must hold for any draws."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from scipy.stats import gaussian_kde

from survey_gampen.posterior.engine import Draws
from survey_gampen.posterior.summary import (
    LEVELS,
    PERCENTILES,
    QUANTITIES,
    columns,
    moments,
    row_sum,
    summarise,
)


def make_draws(physical):
    """Draws that hold these physical values (n, passes, 3)."""
    physical = torch.as_tensor(np.asarray(physical, dtype=np.float32))
    finite = torch.isfinite(physical).flatten(1).all(1)
    one = torch.ones(len(physical))
    return Draws(physical, physical, torch.ones(len(physical), 3), finite, one)


def random_posteriors(n=12, passes=1000, seed=0):
    """Posteriors of many shapes: B/T that piles up at its ends, skewed sizes and fluxes."""
    rng = np.random.default_rng(seed)
    scaled = rng.normal(size=(n, passes, 3)) * rng.uniform(0.1, 1, (n, 1, 3))
    scaled += 2 * rng.normal(size=(n, 1, 3))
    bt = np.clip((1 / (1 + np.exp(-scaled[..., 0])) - 0.02) / 0.96, 0, 1)
    return np.stack([bt, np.exp(scaled[..., 1]), np.exp(8 + scaled[..., 2])], -1).astype("f4")


def magnitudes(physical):
    return 31.4 - 2.5 * np.log10(physical[..., 2].astype(float))


def test_percentiles_and_moments_are_numpys():
    physical = random_posteriors()
    table = summarise(make_draws(physical))
    values = [*np.moveaxis(physical.astype(float), -1, 0), magnitudes(physical)]
    for quantity, x in zip(QUANTITIES, values, strict=True):
        for name, q in PERCENTILES.items():
            np.testing.assert_allclose(
                table[f"{quantity}_{name}"], np.percentile(x, q, axis=1), rtol=1e-6, atol=1e-7
            )
        np.testing.assert_allclose(table[f"{quantity}_mean"], x.mean(1), rtol=1e-6)
        np.testing.assert_allclose(table[f"{quantity}_std"], x.std(1, ddof=1), rtol=1e-5)
    expected = [np.corrcoef(p.T.astype(float)) for p in physical]
    np.testing.assert_allclose(table["corr_bt_flux"], [c[0, 2] for c in expected], atol=1e-6)
    np.testing.assert_allclose(table["corr_r_e_flux"], [c[1, 2] for c in expected], atol=1e-6)


def scipy_density(x, low, high, reflected):
    """Grid, scipy's density confined to the range, bandwidth."""
    kde = gaussian_kde(x)
    grid = np.linspace(low, high, 3001)
    density = kde(grid)
    if reflected:
        density = density + kde(2 * low - grid) + kde(2 * high - grid)
    return grid, density, np.sqrt(kde.covariance[0, 0])


def test_mode_and_intervals_are_those_of_scipys_density():
    """Modes to 0.05 bandwidths, the mass of every interval to 0.3 % of the whole."""
    physical = random_posteriors(8, passes=500)
    table = summarise(make_draws(physical))
    values = [*np.moveaxis(physical.astype(float), -1, 0), magnitudes(physical)]
    for quantity, x in zip(QUANTITIES, values, strict=True):
        for g, sample in enumerate(x):
            spread = sample.max() - sample.min()
            low, high = sample.min() - spread, sample.max() + spread
            if quantity == "bt":
                low, high = 0.0, 1.0
            elif quantity != "mag":
                low = max(low, 0.0)
            grid, density, bandwidth = scipy_density(sample, low, high, quantity == "bt")
            mode = table[f"{quantity}_mode"][g]
            # Two maxima may be equal to rounding: then either will do.
            at_mode = np.interp(mode, grid, density)
            assert at_mode > density.max() * (1 - 2e-3), (quantity, g)
            close = np.abs(grid - mode).min() + (grid[1] - grid[0])
            assert close < 0.05 * bandwidth + 2 * (grid[1] - grid[0])
            cumulative = np.concatenate([[0], np.cumsum((density[1:] + density[:-1]) / 2)])
            cumulative /= cumulative[-1]
            for name, level in LEVELS.items():
                lo, hi = table[f"{quantity}_{name}_lo"][g], table[f"{quantity}_{name}_hi"][g]
                mass = np.interp(hi, grid, cumulative) - np.interp(lo, grid, cumulative)
                assert mass == pytest.approx(level, abs=3e-3), (quantity, g, name)
                half = np.array([mode - lo, hi - mode])
                if lo > low and hi < high:
                    assert half[0] == pytest.approx(half[1], rel=1e-3, abs=1e-3 * bandwidth)


def test_a_normal_posterior_has_its_textbook_intervals():
    rng = np.random.default_rng(4)
    physical = np.stack(
        [rng.normal(0.5, 0.05, 20_000), rng.normal(3, 0.2, 20_000), rng.normal(1e4, 300, 20_000)],
        -1,
    )
    table = summarise(make_draws(physical[None]))
    for quantity, mean, sigma in [("bt", 0.5, 0.05), ("r_e", 3, 0.2), ("flux", 1e4, 300)]:
        assert table[f"{quantity}_mode"][0] == pytest.approx(mean, abs=0.3 * sigma)
        for name, n_sigma in [("ci68", 1), ("ci95", 2), ("ci99", 3)]:
            width = table[f"{quantity}_{name}_hi"][0] - table[f"{quantity}_{name}_lo"][0]
            assert width == pytest.approx(2 * n_sigma * sigma, rel=0.06)


def test_bulge_to_total_may_pile_up_at_its_ends():
    rng = np.random.default_rng(0)
    physical = random_posteriors(2)
    physical[0, :, 0] = np.clip(rng.normal(-0.02, 0.1, 1000), 0, 1)
    physical[1, :, 0] = np.clip(rng.normal(1.02, 0.1, 1000), 0, 1)
    table = summarise(make_draws(physical))
    assert table["bt_mode"][0] == pytest.approx(0, abs=0.01)
    assert table["bt_mode"][1] == pytest.approx(1, abs=0.01)
    assert table["bt_ci95_lo"][0] == 0
    assert table["bt_ci95_hi"][1] == 1


def test_constant_draws():
    table = summarise(make_draws(np.full((1, 50, 3), [0.25, 1.5, 1e4])))
    for quantity, value in [("bt", 0.25), ("r_e", 1.5), ("flux", 1e4), ("mag", 21.4)]:
        for name in (*PERCENTILES, "mean", "mode", "ci68_lo", "ci99_hi"):
            assert table[f"{quantity}_{name}"][0] == pytest.approx(value, rel=1e-6)
        assert table[f"{quantity}_std"][0] == 0
    assert np.isnan(table["corr_bt_r_e"][0])


def test_one_pass():
    table = summarise(make_draws([[[0.25, 1.5, 1e4]]]))
    assert table["r_e_p16"][0] == table["r_e_mode"][0] == table["r_e_ci99_hi"][0] == 1.5
    assert np.isnan(table["r_e_std"][0])
    assert table["n_passes"][0] == 1


def test_two_passes():
    table = summarise(make_draws([[[0.2, 1.0, 1e4], [0.4, 2.0, 2e4]]]))
    assert table["bt_p50"][0] == pytest.approx(0.3)
    assert table["r_e_std"][0] == pytest.approx(np.sqrt(0.5))
    assert table["corr_bt_r_e"][0] == pytest.approx(1)
    assert all(np.isfinite(table[name]).all() for name in columns())


def test_a_draw_that_is_not_finite_nulls_its_galaxy_alone():
    physical = random_posteriors(3)
    clean = summarise(make_draws(physical))
    physical[1, 17, 2] = np.inf
    table = summarise(make_draws(physical))
    for name in columns():
        if name.startswith(("bt_", "r_e_", "flux_", "mag_", "corr_")):
            assert np.isnan(table[name][1]), name
        np.testing.assert_array_equal(table[name][::2], clean[name][::2])


def test_magnitudes_are_null_where_a_flux_is_not_positive():
    physical = random_posteriors(2)
    physical[0, 3, 2] = 0.0
    table = summarise(make_draws(physical))
    assert np.isnan(table["mag_p50"][0])
    assert np.isfinite(table["flux_p50"]).all()
    assert np.isfinite(table["mag_p50"][1])


def test_no_galaxies():
    table = summarise(make_draws(np.zeros((0, 10, 3))))
    assert all(len(table[name]) == 0 for name in columns())


def test_columns_are_the_contracts():
    names = columns()
    assert len(names) == len(set(names)) == 4 * (8 + 6) + 3 + 3 + 1 + 1
    assert list(summarise(make_draws(random_posteriors(1, 20)))) == names


posteriors = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(2, 40), st.just(3)),
    elements=st.floats(0, 1, width=32),
).map(lambda a: a * np.array([1, 20, 1e6], dtype=np.float32) + np.array([0, 0, 1], dtype="f4"))


@settings(max_examples=60, deadline=None)
@given(posteriors)
def test_order_of_columns_and_ranges(physical):
    table = summarise(make_draws(physical))
    for i, quantity in enumerate(QUANTITIES):
        percentiles = np.stack([table[f"{quantity}_{name}"] for name in PERCENTILES])
        assert (np.diff(percentiles, axis=0) >= 0).all()
        mode = table[f"{quantity}_mode"]
        previous = mode, mode
        for name in LEVELS:
            lo, hi = table[f"{quantity}_{name}_lo"], table[f"{quantity}_{name}_hi"]
            assert (lo <= previous[0]).all()
            assert (hi >= previous[1]).all()
            previous = lo, hi
        if quantity != "mag":
            assert (previous[0] >= 0).all()
            # float32's sum of deviations: half a range is the most that two draws allow.
            spread = np.ptp(physical[..., i].astype(float), axis=1)
            assert (table[f"{quantity}_std"] <= spread * 0.70711 + 1e-6).all()
        else:
            assert np.isfinite(mode).all()
    assert (table["bt_ci99_hi"] <= 1).all()
    for name in ("corr_bt_r_e", "corr_bt_flux", "corr_r_e_flux"):
        assert ((np.abs(table[name]) <= 1) | np.isnan(table[name])).all()


@settings(max_examples=20, deadline=None)
@given(posteriors)
def test_same_bits_whoever_is_beside(physical):
    """Alone, among others, and with the others' order turned round."""
    together = summarise(make_draws(physical))
    turned = summarise(make_draws(physical[::-1].copy()))
    alone = summarise(make_draws(physical[:1]))
    for name in columns():
        np.testing.assert_array_equal(together[name][:1], alone[name])
        np.testing.assert_array_equal(together[name], turned[name][::-1])


@settings(max_examples=20, deadline=None)
@given(posteriors, st.randoms())
def test_order_of_passes_hardly_matters(physical, random):
    order = list(range(physical.shape[1]))
    random.shuffle(order)
    one, two = summarise(make_draws(physical)), summarise(make_draws(physical[:, order]))
    for name in columns():
        if not name.startswith("corr"):
            np.testing.assert_array_equal(one[name], two[name])


@settings(max_examples=30, deadline=None)
@given(hnp.arrays(np.float64, st.tuples(st.just(3), st.integers(1, 70)), elements=st.floats(-9, 9)))
def test_sums_of_rows(values):
    rows = torch.from_numpy(values)
    torch.testing.assert_close(row_sum(rows), rows.sum(-1), rtol=1e-12, atol=1e-11)
    mean, std = moments(rows)
    assert torch.equal(mean[:1], moments(rows[:1])[0])
    assert bool((std >= 0).all()) or values.shape[1] == 1
