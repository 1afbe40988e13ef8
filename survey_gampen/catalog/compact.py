"""Small published leaves merged into bigger ones, and back.

Order of steps, for a bigger leaf P that takes the place of the leaves inside it:

1. P is published by the commit rule. ``partition_info.csv`` still names the small leaves.
2. ``partition_info.csv`` is replaced: it names P and not the small leaves.
3. The small leaves are removed.

A reader that follows ``partition_info.csv`` so sees each row once at any moment; one that takes all
files it finds may see rows twice while this works. Killed after 1 or 2, P is a whole leaf and the
small ones are shadowed (see :mod:`survey_gampen.catalog.hats_out`): whoever makes the index next
finishes the work. P is only made when *every* partition of the plan inside it is published, so a
partition is published exactly when some leaf holds its pixel.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from pathlib import Path

import numpy as np

from survey_gampen import commit, parquet
from survey_gampen.catalog.hats_out import (
    FINEST,
    HasPixel,
    Pixel,
    PublishedSet,
    leaf_path,
    published,
    remove_shadowed,
    span,
    write_partition_info,
)
from survey_gampen.catalog.leaves import check_leaf
from survey_gampen.catalog.merged import read_parts, write_merged, write_part
from survey_gampen.errors import InputError

#: A leaf is made to hold at least this many rows,
SMALLEST = 100_000
#: but none is made larger than this for the sake of a small one beside it (HATS' own default).
LARGEST = 1_000_000
#: Merged leaves between two changes of the index: more need more space, fewer more time.
_AT_ONCE = 64


def compact(out: Path, staging: Path, *, smallest: int = SMALLEST, largest: int = LARGEST) -> int:
    """Merge the small leaves of a run's posteriors.

    For the client that holds the claim on OUT. It may be killed at any moment and run again; a
    later ``run`` or ``resume`` knows the merged partitions as published. Call
    :func:`survey_gampen.catalog.hats_out.write_index` afterwards, as at every exit.

    Parameters
    ----------
    out : Path
        The run's folder, with ``plan.parquet`` and ``posteriors/``.
    staging : Path
        The corner of the staging area that belongs to this client.
    smallest, largest : int
        A pixel is split only where each part would hold `smallest` rows, or where it holds more
        than `largest`.

    Returns
    -------
    int
        How many merged leaves were made.

    Raises
    ------
    InputError
        When OUT has no plan.
    OutsideFault
        When the disk is full; what was merged until then stays.
    """
    plan, posteriors = out / "plan.parquet", out / "posteriors"
    if not plan.is_file():
        raise InputError(f"{out} holds no run (no plan.parquet); give the folder of one")
    _settle(posteriors, staging)  # what a compaction that was killed left over
    leaves = published(posteriors)
    groups = list(_groups(_Plan(plan, leaves), leaves, smallest, largest))
    for count, (target, members) in enumerate(groups, start=1):
        files = [leaf_path(posteriors, *member) for member in members]
        rows = sum(parquet.read_metadata(file).num_rows for file in files)
        commit.publish(
            leaf_path(posteriors, *target),
            partial(write_merged, files=files, pixels=members),
            partial(check_leaf, pixel=target, rows=rows),
            staging,
        )
        if count % _AT_ONCE == 0 or count == len(groups):
            _settle(posteriors, staging)
    return len(groups)


def expand(out: Path, partitions: Iterable[HasPixel], staging: Path) -> int:
    """Split the merged leaves that hold one of these partitions into one leaf a partition again.

    For partitions that are to be done again; call it before. The small leaves are published inside
    the big one, shadowed; then the index names them; then the big one is removed.

    Parameters
    ----------
    out : Path
        The run's folder.
    partitions : iterable
        Partitions of the plan; those published as leaves of their own, or not at all, are left.
    staging : Path
        The corner of the staging area that belongs to this client.

    Returns
    -------
    int
        How many merged leaves were split.
    """
    posteriors = out / "posteriors"
    leaves = published(posteriors)
    held = {Pixel(p.norder, p.npix): leaves.leaf_of(p) for p in partitions}
    merged = {leaf for pixel, leaf in held.items() if leaf is not None and leaf != pixel}
    for leaf in sorted(merged):
        source = leaf_path(posteriors, *leaf)
        parts = read_parts(source)
        for part in parts:
            commit.publish(
                leaf_path(posteriors, part.norder, part.npix),
                partial(write_part, merged=source, part=part),
                partial(check_leaf, pixel=Pixel(part.norder, part.npix), rows=part.rows),
                staging,
            )
        others = [pixel for pixel in published(posteriors) if pixel != leaf]
        small = [Pixel(part.norder, part.npix) for part in parts]
        write_partition_info(posteriors, PublishedSet([*others, *small]), staging)
        commit.remove(source)
    return len(merged)


def _settle(posteriors: Path, staging: Path) -> None:
    """Steps 2 and 3, for all leaves that are shadowed."""
    leaves = published(posteriors)
    if leaves.shadowed:
        write_partition_info(posteriors, leaves, staging)
        remove_shadowed(posteriors, leaves)


class _Plan:
    """The plan as arrays in order of position, to ask what lies inside a pixel."""

    def __init__(self, path: Path, leaves: PublishedSet) -> None:
        table = parquet.read_table(path, columns=["norder", "npix", "rows"])
        norder, npix = table["norder"].to_numpy().astype(np.int64), table["npix"].to_numpy()
        pixels = map(Pixel, norder.tolist(), npix.tolist())
        done = np.fromiter((leaves.covers(pixel) for pixel in pixels), dtype=np.int64)
        self._start = npix << (2 * (FINEST - norder))
        self._rows = np.concatenate([[0], np.cumsum(table["rows"].to_numpy())])
        self._done = np.concatenate([[0], np.cumsum(done)])

    def inside(self, pixel: Pixel) -> tuple[int, bool]:
        """Rows planned inside a pixel, and whether all of them are published."""
        first, last = np.searchsorted(self._start, span(pixel))
        rows = int(self._rows[last] - self._rows[first])
        return rows, bool(self._done[last] - self._done[first] == last - first)


def _groups(
    plan: _Plan, leaves: PublishedSet, smallest: int, largest: int
) -> Iterator[tuple[Pixel, list[Pixel]]]:
    """The bigger leaves to make and the leaves that each is made of, from the whole sky down."""
    everything = list(leaves)
    starts = np.array([span(leaf)[0] for leaf in everything], dtype=np.int64)
    waiting = [Pixel(0, npix) for npix in reversed(range(12))]
    while waiting:
        pixel = waiting.pop()
        first, last = np.searchsorted(starts, span(pixel))
        if last - first < 2:
            continue
        rows, complete = plan.inside(pixel)
        children = [Pixel(pixel.norder + 1, 4 * pixel.npix + quarter) for quarter in range(4)]
        sizes = [size for size, _ in map(plan.inside, children) if size]
        if complete and rows <= largest and min(sizes) < smallest:
            yield pixel, everything[first:last]
        else:
            waiting.extend(reversed(children))
