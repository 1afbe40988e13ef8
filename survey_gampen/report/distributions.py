"""What the whole catalogue looks like: histograms, widths of posteriors, size and magnitude."""

from __future__ import annotations

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from survey_gampen.report.gather import Gathered, half_width, numbers
from survey_gampen.report.style import BLUE, LABELS, ORANGE, PALE, picture
from survey_gampen.report.tally import Counts

#: Galaxies in a cell of magnitude before its quantiles are drawn.
_LEAST = 8
#: Most bars in a histogram of few galaxies: the root of their number, and at least so many.
_FEWEST = 12


def histograms(found: Gathered) -> bytes:
    """Medians and modes of B/T, R_e and magnitude."""

    def draw(figure: Figure) -> None:
        for k, (axis, name) in enumerate(zip(figure.subplots(1, 3), found.medians, strict=True)):
            edges, medians, modes = _coarse(found.medians[name], found.modes[name])
            axis.stairs(medians, edges, fill=True, color=PALE, label="medians")
            axis.stairs(modes, edges, color=BLUE, lw=1.1, label="modes")
            axis.set_xlabel(LABELS[name])
            axis.set_ylim(0, None)
            if name == "r_e":
                _log_ticks(axis, "x")
            if k == 0:
                axis.set_ylabel("galaxies")
                axis.legend(loc="upper center", ncols=2, bbox_to_anchor=(0.5, 1.14))

    return picture(draw, 9.6, 2.9)


def _coarse(medians: Counts, modes: Counts) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Cells put together until the bars fit the number of galaxies."""
    both = medians.counts + modes.counts
    some = np.flatnonzero(both)
    whole = len(medians.edges) == 51  # B/T is shown from 0 to 1 whatever it holds
    first, last = (0, len(both)) if whole or not some.size else (some[0], some[-1] + 1)
    wanted = max(_FEWEST, int(np.sqrt(medians.counts.sum()) * 2))
    step = max(1, round((last - first) / min(wanted, 60)))
    if whole:
        step = next(s for s in (1, 2, 5) if s >= min(step, 5))
    first -= first % step
    starts = np.arange(first, last, step)
    edges = medians.edges[np.append(starts, min(starts[-1] + step, len(both)))]
    return edges, np.add.reduceat(medians.counts, starts), np.add.reduceat(modes.counts, starts)


def widths(found: Gathered) -> bytes:
    """Half the 68 % interval against magnitude: points of a sample, the median of all."""

    def draw(figure: Figure) -> None:
        labels = {
            "bt": "half-width of B/T",
            "r_e": r"half-width of $R_e$ [arcsec]",
            "flux": "half-width of flux / flux",
        }
        limits = _magnitudes(found)
        for axis, (name, trend) in zip(figure.subplots(1, 3), found.widths.items(), strict=True):
            for sample, colour in ((found.flagged, ORANGE), (found.sample, BLUE)):
                rows = sample.table()
                if rows is not None:
                    axis.plot(
                        *(numbers(rows, "mag_p50"), half_width(rows, name)),
                        *(".",),
                        color=colour,
                        ms=_dot(len(sample)),
                        mew=0,
                        alpha=0.55,
                    )
            middle, bands = trend.quantiles([0.16, 0.5, 0.84], _LEAST)
            axis.plot(middle, bands[1], color="k", lw=1.3)
            axis.plot(middle, bands[0], color="k", lw=0.8, ls=":")
            axis.plot(middle, bands[2], color="k", lw=0.8, ls=":")
            axis.set(xlabel=LABELS["mag"], ylabel=labels[name], xlim=limits)
            if name == "bt":
                axis.set_ylim(0, None)
            else:
                _log_ticks(axis, "y")

    return picture(draw, 9.6, 2.9)


def size_magnitude(found: Gathered) -> bytes:
    """R_e against magnitude, coloured by B/T, of the sample without flags, or of the flagged."""
    rows = found.sample.table() if len(found.sample) else found.flagged.table()
    assert rows is not None

    def draw(figure: Figure) -> None:
        axis = figure.subplots()
        points = axis.scatter(
            numbers(rows, "mag_p50"),
            numbers(rows, "r_e_p50"),
            c=numbers(rows, "bt_p50"),
            s=_dot(rows.num_rows) ** 2 * 0.8,
            cmap="cividis",
            vmin=0,
            vmax=1,
            linewidths=0,
        )
        axis.set(xlabel=LABELS["mag"], ylabel=LABELS["r_e"], xlim=_magnitudes(found))
        _log_ticks(axis, "y")
        bar = figure.colorbar(points, ax=axis, label=LABELS["bt"], aspect=30, pad=0.02)
        bar.outline.set_linewidth(0)

    return picture(draw, 6.4, 3.6)


def pace(hours: np.ndarray, galaxies: np.ndarray, bins: int = 40) -> bytes:
    """Galaxies published over time, and how many a second.

    Parameters
    ----------
    hours : ndarray, (files,)
        When each file was published, sorted; the first at 0.
    galaxies : ndarray, (files,)
        Rows of each.
    """

    def draw(figure: Figure) -> None:
        total, speed = figure.subplots(1, 2)
        minutes = hours[-1] < 2
        times, unit = (hours * 60, "min") if minutes else (hours, "h")
        total.step(times, np.cumsum(galaxies), where="post", color=BLUE, lw=1.3)
        total.set(xlabel=f"time since the first file [{unit}]", ylabel="galaxies published")
        total.set_ylim(0, None)
        edges = np.linspace(0, times[-1], min(bins, max(4, len(times) // 2)) + 1)
        # What the first file took nobody knows: it is left out, as in `status`.
        counts, _ = np.histogram(times[1:], edges, weights=galaxies[1:])
        seconds = np.diff(edges) * (60 if minutes else 3600)
        speed.stairs(counts / seconds, edges, fill=True, color=PALE)
        speed.stairs(counts / seconds, edges, color=BLUE, lw=1)
        speed.set(xlabel=f"time since the first file [{unit}]", ylabel="galaxies / s")
        speed.set_ylim(0, None)

    return picture(draw, 9.6, 2.7)


def _magnitudes(found: Gathered) -> tuple[float, float] | None:
    """The range of magnitudes of all galaxies, bright to faint, but for a few at the ends."""
    counts = found.medians["mag"]
    total = counts.counts.sum()
    if not total:
        return None
    sums = np.concatenate([[0], np.cumsum(counts.counts)])
    few = total * 0.0005
    first, last = np.searchsorted(sums, [few, total - few], side="right")
    top = len(counts.edges) - 1
    return float(counts.edges[max(first - 2, 0)]), float(counts.edges[min(last + 1, top)])


def _dot(count: int) -> float:
    return float(np.clip(60 / np.sqrt(max(count, 1)), 2, 7))


def _log_ticks(axis: Axes, which: str) -> None:
    """A logarithmic axis with plain numbers."""
    getattr(axis, f"set_{which}scale")("log")
    one = getattr(axis, f"{which}axis")
    low, high = one.get_view_interval()
    decades = np.log10(max(high, 1e-300) / max(low, 1e-300))
    subs: tuple[float, ...] = (
        (1.0,) if decades > 2.5 else (1.0, 3.0) if decades > 1.2 else (1.0, 2.0, 5.0)
    )
    if decades < 0.7:
        subs = (1.0, 1.5, 2.0, 3.0, 4.0, 5.0, 7.0)
    one.set_major_locator(LogLocator(subs=subs))
    one.set_major_formatter(lambda value, _: f"{value:g}")
    one.set_minor_formatter(NullFormatter())
