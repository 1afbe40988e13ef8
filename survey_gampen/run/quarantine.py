"""Partitions that were given up: one JSON file each, with what, where, why and how often."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from survey_gampen import commit
from survey_gampen.run.layout import RunDir
from survey_gampen.run.plan import Partition
from survey_gampen.run.triage import Failure

#: What is said of a partition whose note can't be read: that it was given up, its name tells.
_UNREADABLE = {
    "index": -1,
    "rows": 0,
    "stage": "unknown",
    "kind": "unknown",
    "cause": "its note is damaged; `survey-gampen resume` tries the partition again",
    "attempts": 0,
    "when": "",
    "traceback": [],
}


def write(run: RunDir, partition: Partition, failure: Failure, staging: Path) -> None:
    """Note that a partition was given up; an older note is replaced."""
    note = {
        "partition": partition.name,
        "index": partition.index,
        "norder": partition.norder,
        "npix": partition.npix,
        "rows": partition.rows,
        "stage": failure.stage,
        "kind": failure.kind.value,
        "cause": failure.cause,
        "attempts": failure.attempts,
        "when": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "traceback": failure.trace.splitlines(),
    }
    text = json.dumps(note, indent=2) + "\n"

    def write_note(path: Path) -> None:
        path.write_text(text, encoding="utf-8")

    commit.replace(run.quarantine_file(partition.name), write_note, staging)


def clear(run: RunDir, partition: Partition) -> None:
    """Forget about a partition that is published now."""
    path = run.quarantine_file(partition.name)
    if path.exists():
        commit.remove(path)


def names(run: RunDir) -> set[str]:
    """Return the names of the partitions that were given up."""
    return {path.stem for path in run.quarantine.glob("*.json")}


def notes(run: RunDir) -> Iterator[dict[str, Any]]:
    """Yield what is known of each of them, in order of the plan."""
    found = []
    for path in run.quarantine.glob("*.json"):
        try:
            note = json.loads(path.read_text(encoding="utf-8"))
            int(note["index"])
        except FileNotFoundError:  # cleared meanwhile
            continue
        except (OSError, ValueError, TypeError, KeyError):
            note = {}
        found.append({"partition": path.stem} | _UNREADABLE | note)
    yield from sorted(found, key=lambda note: int(note["index"]))
