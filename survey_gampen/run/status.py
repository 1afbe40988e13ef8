"""The verb `status`: what a folder says about its run, while it works and after it was killed."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path
from typing import Any

from rich.console import Console

from survey_gampen.catalog.hats_out import leaf_path, published
from survey_gampen.errors import InputError
from survey_gampen.run import quarantine, todo
from survey_gampen.run.claim import holder_of
from survey_gampen.run.layout import RunDir
from survey_gampen.run.plan import read_plan
from survey_gampen.run.progress import duration
from survey_gampen.run.spec import RunSpec, cut_lines, read_spec
from survey_gampen.storage import at

#: The rate is that of the last so many seconds before the newest publication.
RATE_SECONDS = 1800.0


def print_status(out: str | Path, as_json: bool = False) -> int:
    """Print how far a run is.

    Parameters
    ----------
    out : path
        The run's folder.
    as_json : bool
        For programs.

    Returns
    -------
    int
        0.

    Raises
    ------
    InputError
        Where there is no run.
    """
    report = status(RunDir(at(out)))
    if as_json:
        print(json.dumps(report, indent=2))
    else:
        console = Console(highlight=False, markup=False, soft_wrap=True)
        for line in _lines(report):
            console.print(line)
    return 0


def status(run: RunDir) -> dict[str, Any]:
    """Return how far a run is, as plain values.

    Returns
    -------
    dict
        ``state`` (submitted, planning, running, stopped, complete, finished with quarantine),
        ``client``, ``partitions`` and ``galaxies`` (planned, cut, published, quarantined), ``rate``
        (galaxies/s), ``drivers`` (what submitted clients noted, line by line), ``quarantined``
        (a list of notes), ``cuts`` (rows read, lost by each cut of ``--select``, left).
    """
    alive = holder_of(run)
    client = str(alive[0]) if alive else None
    drivers = run.drivers.read_text().splitlines() if run.drivers.exists() else []
    if not run.run_toml.exists():
        if alive:
            planning = {"out": str(run.root), "state": "planning", "client": client}
            return planning | {"drivers": drivers}
        if drivers:
            return {"out": str(run.root), "state": "submitted", "client": None, "drivers": drivers}
        raise InputError(f"{run.root} holds no planned run: give the folder of one")
    spec = read_spec(run)
    notes = list(quarantine.notes(run))
    work = todo.count(run, spec, {n["partition"] for n in notes})
    if work.published == work.partitions:
        state = "complete"
    elif alive:
        state = "running"
    elif work.published + work.quarantined == work.partitions:
        state = "finished with quarantine"
    else:
        state = "stopped"
    return {
        "out": str(run.root),
        "state": state,
        "client": client,
        "partitions": {
            "planned": work.partitions,
            "cut": work.cut + work.published,
            "published": work.published,
            "quarantined": work.quarantined,
        },
        "galaxies": {
            "planned": work.rows,
            "cut": work.cut_rows + work.published_rows,
            "published": work.published_rows,
            "quarantined": work.quarantined_rows,
        },
        "rate": _rate(run, spec),
        "cuts": {"read": spec.plan.rows_read, "lost": spec.plan.lost, "left": spec.plan.rows},
        "drivers": drivers,
        "quarantined": [{k: v for k, v in n.items() if k != "traceback"} for n in notes],
    }


def _rate(run: RunDir, spec: RunSpec) -> float | None:
    """Return galaxies a second of late, from the times of the published files."""
    done = published(run.posteriors)
    seen = []
    for partition in read_plan(run.plan):
        leaf = done.leaf_of(partition)
        if leaf is not None:
            with contextlib.suppress(FileNotFoundError):  # compacted meanwhile
                seen.append((leaf_path(run.posteriors, *leaf).stat().st_mtime, partition.rows))
    if not seen:
        return None
    newest = max(when for when, _ in seen)
    late = sorted(pair for pair in seen if pair[0] > newest - RATE_SECONDS)
    seconds = late[-1][0] - late[0][0]
    # The first of them took time as well, which nobody knows: it is left out.
    return sum(rows for _, rows in late[1:]) / seconds if seconds > 0 else None


def _lines(report: dict[str, Any]) -> list[str]:
    client = report["client"]
    by = f", by {client}" if client else ""
    lines = [f"{report['out']}: {report['state']}{by}"]
    lines += [f"driver: {line}" for line in report["drivers"]]
    if "partitions" not in report:
        return lines
    lines.append(f"{'':12}{'planned':>12}{'cut':>12}{'published':>12}{'quarantined':>12}")
    for what in ("partitions", "galaxies"):
        counts = report[what]
        columns = ("planned", "cut", "published", "quarantined")
        lines.append(f"{what:12}" + "".join(f"{counts[c]:>12}" for c in columns))
    if report["rate"]:
        galaxies = report["galaxies"]
        left = galaxies["planned"] - galaxies["published"] - galaxies["quarantined"]
        rest = f", {duration(left / report['rate'])} left" if left and client else ""
        lines.append(f"{report['rate']:.3g} galaxies/s{rest}")
    lines += cut_lines(**report["cuts"])
    for note in report["quarantined"]:
        lines.append(
            f"quarantined {note['partition']} ({note['rows']} galaxies, failed at: {note['stage']},"
            f" attempts: {note['attempts']}): {note['cause']}"
        )
    if report["quarantined"]:
        lines.append(f"tried again by: survey-gampen resume {report['out']}")
    return lines
