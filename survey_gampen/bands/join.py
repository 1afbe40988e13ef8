"""`survey-gampen join`: runs of several bands as one HATS catalogue.

Rows are matched by object_id, in one pass along the sky over all runs at once: memory holds some
thousand rows of each. The new catalogue appears by one rename when all of it is there (in an object
store, see :mod:`survey_gampen.bands.begun`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import pyarrow as pa
from hats.pixel_math.spatial_index import SPATIAL_INDEX_COLUMN
from numpy.typing import NDArray

from survey_gampen import commit, storage
from survey_gampen.bands.begun import check_begun, is_begun, mark_of, put_joined
from survey_gampen.bands.columns import SHARED, Columns
from survey_gampen.bands.moved import FARTHEST, Unmatched, sort_anew
from survey_gampen.bands.rows import align, blocks, file_rows
from survey_gampen.bands.source import Source, check, footer, open_source, unfinished
from survey_gampen.catalog.compact import LARGEST
from survey_gampen.catalog.hats_out import leaf_path, span, write_index
from survey_gampen.catalog.leaves import check_leaf
from survey_gampen.catalog.sort import scratch_folder
from survey_gampen.errors import InputError
from survey_gampen.outside import outside_faults
from survey_gampen.run.leaf import write_leaf
from survey_gampen.run.plan import Partition, cut
from survey_gampen.run.progress import counting
from survey_gampen.run.space import check_space
from survey_gampen.run.words import say, warn
from survey_gampen.storage import at


@dataclass
class Tally:
    """What was joined: rows in all, rows in every run, rows that lay elsewhere."""

    rows: int = 0
    in_all: int = 0
    moved: int = 0


def main(words: Sequence[str], out: str | Path, leaf_rows: int = LARGEST) -> int:
    """Join runs.

    Parameters
    ----------
    words : sequence of str
        ``OUT`` or ``NAME=OUT`` each.
    out : Path
        The new catalogue.
    leaf_rows : int
        Most rows of one file.

    Returns
    -------
    int
        0.

    Raises
    ------
    InputError
        Where they can't be joined, or `out` is there already.
    UnreadableFile
        A published file can't be read.
    OutsideFault
        The disk is full.
    """
    final = at(out)
    if final.exists() and not is_begun(final):
        raise InputError(f"{final} is there already: give another --out")
    sources = [open_source(word) for word in words]
    check(sources)
    mark = mark_of(sources, leaf_rows)
    check_begun(final, mark)
    columns = Columns([source.columns for source in sources], footer(sources))
    warn(list(unfinished(sources)))
    here = storage.scratch(final) if storage.is_remote(final) else final.parent
    with outside_faults(final), scratch_folder(here, f".{final.name}-") as scratch:
        wanted = sum(file.stat().st_size for source in sources for file in source.files)
        check_space(scratch, wanted, can_drop=False)
        tally = Tally()
        write = partial(_write, sources, columns, tally, leaf_rows, final.name, scratch)
        if storage.is_remote(final):
            put_joined(final, mark, write, scratch)
        elif not commit.publish_dir(final, write, scratch):
            raise InputError(f"{final} was made by somebody else meanwhile: give another --out")
    for source in sources:
        say(f"{source.columns.name}: {source.rows} galaxies of {source.out}")
    if tally.moved:
        say(
            f"{tally.moved} rows lie up to {FARTHEST:g} arcsec from where a run named earlier has "
            "them: that position counts"
        )
    say(f"{tally.rows} galaxies, {tally.in_all} of them in every run, are in {final}")
    return 0


def _write(
    sources: Sequence[Source],
    columns: Columns,
    tally: Tally,
    leaf_rows: int,
    name: str,
    scratch: Path,
    staged: Path,
) -> None:
    """Write the whole catalogue into a folder."""
    files, plan = _matched(sources, tally, leaf_rows, scratch)
    schemas = [source.columns.schema for source in sources]
    streams = [file_rows(*each) for each in zip(files, schemas, strict=True)]
    with counting("joining", "rows") as tick:
        rows = _UpTo(columns.join(tables, align(tables)) for tables in blocks(streams))
        for partition in plan:
            published_now = commit.publish(
                leaf_path(staged, partition.norder, partition.npix),
                partial(_write_leaf, columns.schema, rows, span(partition)[1]),
                partial(check_leaf, pixel=partition, rows=partition.rows),
                scratch,
            )
            assert published_now
            tick(rows.taken)
    index = re.sub(r"\W", "_", name)
    write_index(staged, name=index, staging=scratch, schema=columns.schema)


def _write_leaf(schema: pa.Schema, rows: _UpTo, end: int, path: Path) -> None:
    write_leaf(path, schema, rows.up_to(end))


class _UpTo:
    """Rows of tables that come in order, up to one pixel and then to the next."""

    def __init__(self, tables: Iterator[pa.Table]) -> None:
        self._tables = tables
        self._held: pa.Table | None = None
        self.taken = 0

    def up_to(self, end: int) -> Iterator[pa.Table]:
        """The next rows whose order-29 pixel is below `end`."""
        while True:
            if self._held is None or not self._held.num_rows:
                self._held = next(self._tables, None)
                if self._held is None:
                    return
            stop = int(np.searchsorted(self._held[SPATIAL_INDEX_COLUMN].to_numpy(), end))
            if stop:
                self.taken += stop
                yield self._held.slice(0, stop)
            self._held = self._held.slice(stop)
            if self._held.num_rows:
                return


def _matched(
    sources: Sequence[Source], tally: Tally, leaf_rows: int, scratch: Path
) -> tuple[list[list[Path]], list[Partition]]:
    """Files of each run whose rows meet when they are read in order, and the leaves to make.

    Reads no more than keys and positions, unless positions differ.
    """
    names = [str(source.out) for source in sources]
    kind = sources[0].columns.schema.field("object_id").type
    rows = sum(source.rows for source in sources)
    files = [source.files for source in sources]
    unmatched = Unmatched(names, kind, rows, scratch)
    try:
        plan = list(cut(_keys(sources, files, tally, unmatched), leaf_rows))
        moved = unmatched.moved()
    finally:
        unmatched.close()
    if moved:
        for run, folder in moved.items():
            schema = sources[run].columns.schema
            files[run] = sort_anew(sources[run].files, schema, folder, scratch / f"anew-{run}")
        plan = list(cut(_keys(sources, files, tally), leaf_rows))
        tally.moved = unmatched.rows_moved
    return files, plan


def _keys(
    sources: Sequence[Source],
    files: Sequence[Sequence[Path]],
    tally: Tally,
    unmatched: Unmatched | None = None,
) -> Iterator[NDArray[np.int64]]:
    """The order-29 pixels of all galaxies in order; counts them, and hands on who stands alone."""
    tally.rows = tally.in_all = 0
    schemas = [
        pa.schema([source.columns.schema.field(name) for name in SHARED]) for source in sources
    ]
    streams = [file_rows(*each) for each in zip(files, schemas, strict=True)]
    with counting("matching", "rows") as tick:
        for tables in blocks(streams):
            places = align(tables)
            whole: NDArray[np.bool_] = np.all(places >= 0, axis=0)
            tally.rows += len(whole)
            tally.in_all += int(whole.sum())
            index = np.empty(len(whole), np.int64)
            for run, table in enumerate(tables):
                if table is None:
                    continue
                here = places[run] >= 0
                index[here] = table[SPATIAL_INDEX_COLUMN].to_numpy()[places[run][here]]
                alone = places[run][here & ~whole]
                if unmatched is not None and len(alone):
                    unmatched.add(run, table.take(pa.array(alone)))
            tick(tally.rows)
            yield index
