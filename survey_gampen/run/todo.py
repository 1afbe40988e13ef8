"""What is left to do: the plan less what is published. Nothing else keeps count."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from survey_gampen import parquet
from survey_gampen.catalog.hats_out import Pixel, leaf_path, published, span
from survey_gampen.errors import InputError
from survey_gampen.images.status import Status
from survey_gampen.run import quarantine
from survey_gampen.run.groups import discard, is_cut
from survey_gampen.run.layout import RunDir
from survey_gampen.run.leaf import read_footer
from survey_gampen.run.plan import Partition, read_plan
from survey_gampen.run.spec import RunSpec


@dataclass
class Work:
    """A run in numbers.

    Attributes
    ----------
    partitions, rows : int
        Planned.
    published, published_rows : int
        Published, and not to be done again.
    cut, cut_rows : int
        Cutouts there, not published.
    quarantined, quarantined_rows : int
        Given up; what was published of them before is of earlier images.
    """

    partitions: int = 0
    rows: int = 0
    published: int = 0
    published_rows: int = 0
    cut: int = 0
    cut_rows: int = 0
    quarantined: int = 0
    quarantined_rows: int = 0

    @property
    def rows_left(self) -> int:
        """Galaxies not published, those of quarantined partitions too."""
        return self.rows - self.published_rows


def count(
    run: RunDir, spec: RunSpec, given_up: Collection[str], again: Collection[int] = ()
) -> Work:
    """Count what is done, in one pass over the plan.

    Parameters
    ----------
    run, spec
        The run.
    given_up : collection of str
        Names of the quarantined partitions.
    again : collection of int
        Published partitions that are to be done again.
    """
    done = published(run.posteriors)
    work = Work()
    for partition in read_plan(run.plan):
        work.partitions += 1
        work.rows += partition.rows
        leaf = done.leaf_of(partition)
        failed = partition.name in given_up and not (leaf and _of_today(run, spec, leaf))
        if leaf and not failed and partition.index not in again:
            work.published += 1
            work.published_rows += partition.rows
            continue
        if is_cut(run, spec, partition):
            work.cut += 1
            work.cut_rows += partition.rows
        if failed:
            work.quarantined += 1
            work.quarantined_rows += partition.rows
    return work


def left(run: RunDir, without: Collection[str], again: Collection[int] = ()) -> Iterator[Partition]:
    """Yield the partitions that are to be done, in order of the plan.

    Parameters
    ----------
    run : RunDir
    without : collection of str
        Names of partitions that are left alone.
    again : collection of int
        Published partitions that are to be done again.
    """
    done = published(run.posteriors)
    for partition in read_plan(run.plan):
        if partition.name in without:
            continue
        if partition.index in again or not done.covers(partition):
            yield partition


def drop_cutouts(run: RunDir, again: Collection[int], staging: Path) -> None:
    """Remove the cutouts of published partitions, which a worker that was killed left there.

    Parameters
    ----------
    run : RunDir
    again : collection of int
        Published partitions that are to be done again: they keep theirs.
    staging : Path
    """
    there = {path.name for path in run.cutouts.glob("*.zarr")}
    done = published(run.posteriors)
    for partition in read_plan(run.plan) if there else ():
        group = run.cutout_group(partition.name)
        if group.name in there and partition.index not in again and done.covers(partition):
            discard(group, staging)


def clear_notes(run: RunDir, spec: RunSpec) -> None:
    """Forget that partitions were given up which are published now: who was killed left a note."""
    given_up = quarantine.names(run)
    done = published(run.posteriors)
    for partition in read_plan(run.plan) if given_up else ():
        leaf = done.leaf_of(partition)
        if partition.name in given_up and leaf and _of_today(run, spec, leaf):
            quarantine.clear(run, partition)


def check_published(run: RunDir, spec: RunSpec) -> None:
    """Make sure that all published files are whole and of this run.

    Raises
    ------
    InputError
        For one that is not; names it.
    """

    def look(pixel: tuple[int, int]) -> None:
        path = leaf_path(run.posteriors, *pixel)
        found = _fingerprint(path)
        # A merged file of several fingerprints keeps them with its parts.
        if found is not None and found not in spec.fingerprints:
            raise InputError(f"{path} is of another run: remove it, or give another --out")

    with ThreadPoolExecutor(8) as pool:
        for _ in pool.map(look, published(run.posteriors)):
            pass


def flag_of(name: str) -> Status:
    """Return the status bit of a name.

    Raises
    ------
    InputError
        Where there is no such bit; names those there are.
    """
    known = [str(bit.name) for bit in Status]
    if name.upper() not in known:
        raise InputError(f"no status flag {name!r}: choose one of {', '.join(known)}")
    return Status[name.upper()]


def published_to_redo(
    run: RunDir, spec: RunSpec, given_up: Collection[str], flag: Status | None
) -> Iterator[Partition]:
    """Yield the published partitions, made with other images than today's, to be done again.

    What was made with today's images would come out the same, so it is left alone: that is also
    how a redo that was killed goes on.

    Parameters
    ----------
    run, spec
        The run.
    given_up : collection of str
        Names of partitions that were given up when they were to be done again.
    flag : Status or None
        Partitions that have rows with this flag are done again as well.
    """
    done = published(run.posteriors)
    for partition in read_plan(run.plan):
        leaf, failed = done.leaf_of(partition), partition.name in given_up
        if leaf is None or not (failed or flag) or _of_today(run, spec, leaf):
            continue
        path = leaf_path(run.posteriors, *leaf)
        if failed or (flag and _has(path, span(partition), flag)):
            yield partition


def _of_today(run: RunDir, spec: RunSpec, leaf: Pixel) -> bool:
    """Tell whether a published file was made with today's images."""
    return _fingerprint(leaf_path(run.posteriors, *leaf)) == spec.fingerprint


def _fingerprint(path: Path) -> str | None:
    """What a published file says of its run.

    Raises
    ------
    InputError
        Where it can't be read.
    """
    try:
        return read_footer(path).get("fingerprint")
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(
            f"{path} is damaged ({reason}): remove it and run the same command again"
        ) from None


def _has(path: Path, pixels: tuple[int, int], flag: Status) -> bool:
    """Tell whether a row within [first, end) of the order-29 pixels carries a flag."""
    table = parquet.read_table(
        path,
        columns=["status"],
        filters=(pc.field("_healpix_29") >= pixels[0]) & (pc.field("_healpix_29") < pixels[1]),
    )
    return bool(np.any(table.column("status").to_numpy() & int(flag)))
