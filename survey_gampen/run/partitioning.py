"""How many rows a partition should have, and what partitions cost beyond their rows."""

from __future__ import annotations

from survey_gampen.run.measure import Measured

#: A partition should take this long on its worker [s], and never less or more than these.
TARGET_SECONDS, LEAST_SECONDS, MOST_SECONDS = 180.0, 60.0, 600.0
#: And have so many batches where that may take longer: its last one is padded, by half on average,
#: and its pixel has about half of the rows that it might have. So 1 in 32 of a CPU's time is lost.
LEAST_BATCHES = 32
#: And no longer than such a part of the job that its worker runs in.
JOB_SHARE = 10.0


def partition_rows(
    measured: Measured, rows: int, workers: int, walltime: float | None = None
) -> int:
    """Return how many rows a partition should have: some minutes' work, whole batches.

    A small catalogue is cut finer, down to a minute, so that each of several workers has several;
    and where workers are jobs, each should do many before its own ends.
    """
    batch = int(measured.engine["batch"])
    seconds = max(measured.seconds_per_galaxy, 1e-6)
    wanted = max(TARGET_SECONDS, LEAST_BATCHES * batch * seconds)
    if workers > 1:
        wanted = min(wanted, rows * seconds / (4 * workers))
    wanted = min(max(wanted, LEAST_SECONDS), MOST_SECONDS)
    if walltime is not None:
        wanted = min(wanted, walltime / JOB_SHARE)
    wanted /= seconds
    return max(1, round(wanted / batch)) * batch


def places(rows: int, partitions: int, batch: int) -> float:
    """Return how many galaxies the network computes for so many rows, padding too.

    The last batch of a partition is padded, by half of it on average.
    """
    return max(partitions * batch, rows + partitions * batch / 2)
