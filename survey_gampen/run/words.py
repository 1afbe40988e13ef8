"""What a run says on standard output: its plan at the start, its result at the end."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Console

from survey_gampen.run import quarantine, space, todo
from survey_gampen.run.layout import RunDir
from survey_gampen.run.partitioning import places
from survey_gampen.run.progress import duration, size
from survey_gampen.run.spec import RunSpec, cut_lines

_OUT = Console(highlight=False, markup=False, soft_wrap=True)


def say(line: str) -> None:
    """Print a line."""
    _OUT.print(line)


def warn(lines: Sequence[str]) -> None:
    """Print what the user should know."""
    for line in lines:
        say(f"warning: {line}")


def tell_plan(spec: RunSpec) -> None:
    """Print the plan in numbers."""
    facts = spec.plan
    cutouts = facts.rows * space.cutout_of(spec)
    fate = "" if facts.keep_cutouts else " in all, dropped as they are used"
    draws = 6 * spec.settings.passes * facts.rows if spec.settings.keep_samples else 0
    for line in cut_lines(facts.rows_read, facts.lost, facts.rows):
        say(line)
    say(f"rows: {facts.rows}")
    if spec.settings.channels:
        say(
            f"bands: {', '.join(spec.settings.channels)} together; measured is {spec.settings.band}"
        )
    say(f"partitions: {facts.partitions} of at most {facts.partition_rows} rows")
    say(f"cutouts: {size(cutouts)}{fate}")
    say(f"posteriors: {size(facts.rows * space.ROW_BYTES)}")
    if draws:
        say(f"samples: {size(draws)}")


def tell_time(spec: RunSpec, workers: int, rows: int, partitions: int) -> None:
    """Print how long so many workers take for so many rows in so many partitions."""
    facts, batch = spec.plan, spec.engine["batch"]
    seconds = places(rows, partitions, batch) * facts.seconds_per_galaxy
    seconds /= max(1, min(workers, partitions))
    if rows < facts.rows:
        say(f"left: {rows} rows in {partitions} partition{'s' if partitions > 1 else ''}")
    say(
        f"time: about {duration(seconds)} with {workers} worker{'s' if workers > 1 else ''}"
        f" ({spec.engine['device']}, {spec.engine['precision']},"
        f" {facts.seconds_per_galaxy:.3g} s a galaxy)"
    )
    if facts.partition_rows < min(batch, facts.rows):
        warn(
            [
                f"each partition costs a batch of {batch} galaxies or more: that of fewer rows is"
                f" padded, so --partition-rows {batch} is faster than {facts.partition_rows}"
            ]
        )


def tell_end(run_dir: RunDir, spec: RunSpec, warnings: Sequence[str] = ()) -> int:
    """Print how a run ended; return the exit code."""
    warn(warnings)
    work = todo.count(run_dir, spec, quarantine.names(run_dir))
    say(f"{work.published_rows} of {work.rows} galaxies are in {run_dir.posteriors}")
    if not work.quarantined:
        return 0
    many = "partition is" if work.quarantined == 1 else "partitions are"
    say(
        f"{work.quarantined} {many} quarantined: `survey-gampen status {run_dir.root}`"
        " says why, `survey-gampen resume` tries them again"
    )
    return 3
