"""One pass over the published files: all that the page says about galaxies, in bounded memory."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from survey_gampen import parquet
from survey_gampen.catalog.hats_out import leaf_path, published
from survey_gampen.catalog.leaves import ROWS_AT_ONCE
from survey_gampen.images.status import Status
from survey_gampen.report.picks import Picks
from survey_gampen.report.tally import Counts, Floats, Smallest, Trend, shuffled_keys
from survey_gampen.run.layout import RunDir
from survey_gampen.run.leaf import PREFIX

#: Points in a picture: more are a blot, and a megabyte.
POINTS = 4000
#: What a galaxy's card and the pictures are made of.
_QUANTITIES = ("bt", "r_e", "flux", "mag")
_STATISTICS = ("p2_5", "p16", "p50", "p84", "p97_5", "mode", "ci68_lo", "ci68_hi")
COLUMNS = (
    *("_healpix_29", "object_id", "ra", "dec", "status", "status_note"),
    *(f"{quantity}_{statistic}" for quantity in _QUANTITIES for statistic in _STATISTICS),
    *("stn_scale", "stn_dx", "stn_dy"),
)
#: Cells of magnitude of trends and of the choice of galaxies.
MAGNITUDES = np.arange(5.0, 35.1, 0.5)
#: quantity: edges of its histogram
CELLS = {
    "bt": np.linspace(0, 1, 51),
    "r_e": np.geomspace(0.01, 100, 161),
    "mag": np.arange(5.0, 35.01, 0.1),
}
#: half the 68 % interval of a quantity (of the flux, as a share of the median): edges of its cells
WIDTHS = {
    "bt": np.linspace(0, 0.5, 251),
    "r_e": np.geomspace(1e-4, 1e2, 601),
    "flux": np.geomspace(1e-4, 1e2, 601),
}


@dataclass
class Gathered:
    """What the published rows add up to.

    Attributes
    ----------
    rows, posteriors, clean : int
        Galaxies read; those with a posterior; of these, those without a flag.
    flags : Counter
        Galaxies with each bit of the status.
    medians, modes : dict of str to Counts
        Of B/T, R_e [arcsec] and magnitude of all posteriors.
    widths : dict of str to Trend
        Half the 68 % interval against magnitude.
    sample, flagged, without : Smallest
        Rows to draw as points: with a clean posterior, with a flagged one, with none.
    picks : Picks
        Candidates for the galaxies that are shown one by one.
    made : Counter
        Files by version, device, precision and batch.
    times, sizes : list
        When each file was published [s since 1970], and its rows.
    unread : list of str
        Files that could not be read, and why; the first few.
    unread_count : int
    """

    rows: int = 0
    posteriors: int = 0
    clean: int = 0
    flags: Counter[Status] = field(default_factory=Counter)
    medians: dict[str, Counts] = field(
        default_factory=lambda: {name: Counts(edges) for name, edges in CELLS.items()}
    )
    modes: dict[str, Counts] = field(
        default_factory=lambda: {name: Counts(edges) for name, edges in CELLS.items()}
    )
    widths: dict[str, Trend] = field(
        default_factory=lambda: {name: Trend(MAGNITUDES, edges) for name, edges in WIDTHS.items()}
    )
    sample: Smallest = field(default_factory=lambda: Smallest(POINTS))
    flagged: Smallest = field(default_factory=lambda: Smallest(POINTS))
    without: Smallest = field(default_factory=lambda: Smallest(POINTS))
    picks: Picks = field(default_factory=lambda: Picks(MAGNITUDES))
    made: Counter[tuple[str, ...]] = field(default_factory=Counter)
    times: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    unread: list[str] = field(default_factory=list)
    unread_count: int = 0

    def add(self, rows: pa.Table) -> None:
        """Take in some rows, with the columns of ``COLUMNS``."""
        status = rows["status"].to_numpy()
        keys = shuffled_keys(rows["object_id"])
        median = numbers(rows, "bt_p50")
        given = np.isfinite(median)
        clean = given & (status == 0)
        self.rows += rows.num_rows
        self.posteriors += int(given.sum())
        self.clean += int(clean.sum())
        for bit in Status:
            if count := int(np.count_nonzero(status & int(bit))):
                self.flags[bit] += count
        for name in CELLS:
            self.medians[name].add(numbers(rows, f"{name}_p50"))
            self.modes[name].add(numbers(rows, f"{name}_mode"))
        magnitude = numbers(rows, "mag_p50")
        for name, trend in self.widths.items():
            trend.add(magnitude, half_width(rows, name))
        self.sample.offer(keys, rows, clean)
        self.flagged.offer(keys, rows, given & (status != 0))
        self.without.offer(keys, rows, ~given)
        self.picks.add(keys, rows, magnitude, given, status)

    def miss(self, path: Path, error: Exception) -> None:
        """Take note of a file that could not be read."""
        self.unread_count += 1
        if len(self.unread) < 5:
            reason = " ".join(str(error).split()) or type(error).__name__
            self.unread.append(reason if path.name in reason else f"{path.name}: {reason}")


def gather(run: RunDir) -> Gathered:
    """Read all published files once, some thousand rows at a time.

    A file that cannot be read (damaged, or merged into another one meanwhile) is noted and left
    out.
    """
    found = Gathered()
    for pixel in published(run.posteriors):
        path = leaf_path(run.posteriors, *pixel)
        try:
            for batch in _batches(path, found):
                found.add(batch)
        except (OSError, pa.ArrowException, KeyError) as error:
            found.miss(path, error)
    return found


def _batches(path: Path, found: Gathered) -> Iterator[pa.Table]:
    when = path.stat().st_mtime
    with parquet.open_file(path) as file:
        said = file.schema_arrow.metadata or {}
        facts = ("version", "device", "precision", "batch")
        keys = [f"{PREFIX}{fact}".encode() for fact in facts]
        found.made[tuple(said.get(key, b"various").decode() for key in keys)] += 1
        found.times.append(when)
        found.sizes.append(file.metadata.num_rows)
        for batch in file.iter_batches(ROWS_AT_ONCE, columns=list(COLUMNS)):
            # The schemas of two files differ in what they say about themselves.
            yield pa.Table.from_batches([batch]).select(list(COLUMNS)).replace_schema_metadata(None)


def numbers(rows: pa.Table, name: str) -> Floats:
    """A column as float64, NaN for null."""
    values: NDArray[np.float64] = rows[name].to_numpy().astype(np.float64)
    return values


def half_width(rows: pa.Table, name: str) -> Floats:
    """Half the distance of the 16 and 84 % quantiles; of the flux, as a share of the median."""
    half = (numbers(rows, f"{name}_p84") - numbers(rows, f"{name}_p16")) / 2
    if name != "flux":
        return half
    median = numbers(rows, "flux_p50")
    return np.where(median > 0, half / np.where(median > 0, median, 1), np.nan)
