"""Figures of merit of posteriors whose truth is known, with bootstrap errors.

Residuals are mode minus truth, as in Ghosh et al. 2021: in B/T as such, in R_e in arcsec, in flux
as a share of the true flux. Beside them those of the posterior's median, which scatter less where
posteriors are broad or have two peaks. Coverage can be had by wide posteriors; the CRPS and the
widths tell.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from survey_gampen.model.targets import PARAMETERS
from survey_gampen.posterior.summary import LEVELS

Array = NDArray[np.float64]
_BOOTSTRAPS = 200


def crps(draws: ArrayLike, truth: ArrayLike) -> Array:
    """Continuous ranked probability score of samples, in the unit of the parameter.

    ``E|X - y| - E|X - X'| / 2`` over the empirical distribution, the second term from the order
    statistics (Gneiting & Raftery 2007, JASA 102, 359, eq. 21).

    Parameters
    ----------
    draws : array_like, (n, passes)
    truth : array_like, (n,)

    Returns
    -------
    ndarray, (n,)
    """
    x = np.sort(np.asarray(draws, dtype=float), axis=1)
    m = x.shape[1]
    rank = 2 * np.arange(1, m + 1) - m - 1
    spread = (x * rank).sum(1) / m**2
    return np.asarray(np.abs(x - np.asarray(truth)[:, None]).mean(1) - spread)


def rank_of_truth(draws: ArrayLike, truth: ArrayLike) -> Array:
    """Share of the draws below the truth (ties count half), (n,)."""
    x, y = np.asarray(draws), np.asarray(truth)[:, None]
    return np.asarray((x < y).mean(1) + 0.5 * (x == y).mean(1))


def nmad(values: Array) -> float:
    """Normalised median absolute deviation: 1.4826 times the median distance to the median."""
    return float(1.4826 * np.median(np.abs(values - np.median(values))))


def residuals(
    columns: Mapping[str, Array], truth: Mapping[str, Array], estimate: str = "mode"
) -> dict[str, Array]:
    """A point estimate minus the truth: B/T, R_e [arcsec], and flux as a share of the truth."""
    found = {p: columns[f"{p}_{estimate}"] - truth[p] for p in PARAMETERS}
    found["flux"] = found["flux"] / truth["flux"]
    return found


def covered(
    columns: Mapping[str, NDArray[Any]], truth: Mapping[str, Array], p: str, level: str
) -> NDArray[np.bool_]:
    """Whether the interval of a level holds the truth of parameter `p`, (n,)."""
    low, high = columns[f"{p}_{level}_lo"], columns[f"{p}_{level}_hi"]
    # Columns are float32: a truth on the boundary must not fall outside by rounding.
    return (low <= truth[p] * (1 + 1e-6)) & (high >= truth[p] * (1 - 1e-6))


def figures(
    columns: Mapping[str, Array], truth: Mapping[str, Array], rows: NDArray[np.bool_]
) -> dict[str, Any]:
    """All figures of the galaxies `rows`.

    Parameters
    ----------
    columns : mapping of str to ndarray, (n,)
        Posterior columns, and ``{parameter}_crps``.
    truth : mapping of str to ndarray, (n,)
        ``bt``, ``r_e``, ``flux``.
    rows : ndarray of bool, (n,)

    Returns
    -------
    dict
        ``n`` and for each parameter mean, median, sigma, NMAD of the residuals, the last three also
        of the posterior's median (``p50_``), coverage of the three intervals, mean CRPS and median
        half width of the 68 % interval; each as [value, bootstrap error]. CRPS and width of the
        flux are shares of the true flux.
    """
    left, middle = residuals(columns, truth), residuals(columns, truth, "p50")
    result: dict[str, Any] = {"n": int(rows.sum())}
    for p in PARAMETERS:
        unit = truth["flux"] if p == "flux" else np.ones_like(truth["flux"])
        half = 0.5 * (columns[f"{p}_ci68_hi"] - columns[f"{p}_ci68_lo"]) / unit
        one: dict[str, Any] = {
            "mean": _with_error(np.mean, left[p][rows]),
            "median": _with_error(np.median, left[p][rows]),
            "sigma": _with_error(np.std, left[p][rows]),
            "nmad": _with_error(nmad, left[p][rows]),
            "p50_median": _with_error(np.median, middle[p][rows]),
            "p50_sigma": _with_error(np.std, middle[p][rows]),
            "p50_nmad": _with_error(nmad, middle[p][rows]),
            "crps": _with_error(np.mean, (columns[f"{p}_crps"] / unit)[rows]),
            "half_width_68": _with_error(np.median, half[rows]),
        }
        for level in LEVELS:
            inside = covered(columns, truth, p, level)
            one[f"coverage_{level}"] = _with_error(np.mean, inside[rows].astype(float))
        result[p] = one
    return result


def _with_error(statistic: Callable[[Array], Any], values: Array) -> list[float]:
    if not len(values):
        return [float("nan"), float("nan")]
    rng = np.random.default_rng(0)
    picks = rng.integers(0, len(values), size=(_BOOTSTRAPS, len(values)))
    return [float(statistic(values)), float(np.std([statistic(values[p]) for p in picks]))]
