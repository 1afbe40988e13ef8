"""The input catalogue in _healpix_29 order, sorted out of core.

Two passes over the data, both with bounded memory: rows are checked, sorted in runs of a fixed
size and spilled (:func:`_spill`); the runs are merged into the sorted files
(:mod:`survey_gampen.catalog.merge`). The sorted folder appears by one rename at the end, so a
catalogue that is refused leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hats.pixel_math.spatial_index import SPATIAL_INDEX_COLUMN

from survey_gampen import commit
from survey_gampen.catalog.duplicates import DuplicateFinder
from survey_gampen.catalog.merge import merge_runs, write_run
from survey_gampen.catalog.selection import Tally
from survey_gampen.catalog.shape import with_index
from survey_gampen.catalog.sorted import write_sorted
from survey_gampen.catalog.source import Catalog
from survey_gampen.errors import InputError
from survey_gampen.outside import outside_faults

#: Bytes of rows that are sorted in memory at once; the peak is about three times this.
RUN_BYTES = 128 << 20


def sort_catalog(
    catalog: Catalog,
    dest_dir: Path,
    scratch: Path,
    *,
    run_bytes: int = RUN_BYTES,
    tally: Tally | None = None,
) -> int:
    """Check every row of a catalogue and write it sorted by (_healpix_29, object_id).

    Parameters
    ----------
    catalog : Catalog
        The input.
    dest_dir : Path
        The folder to publish; read it with :mod:`survey_gampen.catalog.sorted`. When it is there
        already it is left as it is.
    scratch : Path
        Folder for the runs, on the file system of `dest_dir`; what is made in it is removed again.
        Needs about two and a half times the bytes of the rows.
    run_bytes : int
        Rows sorted in memory at once, in bytes.
    tally : Tally, optional
        Is told how many rows are read, and what each cut loses of them.

    Returns
    -------
    int
        Number of rows.

    Raises
    ------
    InputError
        For nulls, positions out of range, duplicated object_ids, no rows. Nothing is left then:
        neither `dest_dir` nor scratch.
    OutsideFault
        When the disk is full.
    """
    with outside_faults(scratch), scratch_folder(scratch, "sort-") as folder:
        runs = folder / "runs"
        runs.mkdir()
        rows = _spill(catalog, runs, folder / "ids", run_bytes, tally or Tally())
        schema = catalog.schema.insert(0, pa.field(SPATIAL_INDEX_COLUMN, pa.int64()))

        def write(staged: Path) -> None:
            write_sorted(staged, merge_runs(runs, run_bytes), schema)

        commit.publish_dir(dest_dir, write, folder)
    return rows


@contextlib.contextmanager
def scratch_folder(where: Path, prefix: str) -> Iterator[Path]:
    """A fresh folder in `where`; it goes at the end, and so do parents that were made for it."""
    made = []
    parent = where
    while not parent.exists():
        made.append(parent)
        parent = parent.parent
    where.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=prefix, dir=where))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        for path in made:
            with contextlib.suppress(OSError):
                path.rmdir()


def _spill(catalog: Catalog, runs: Path, ids: Path, run_bytes: int, tally: Tally) -> int:
    """Check all rows and write them as sorted runs; the number of rows."""
    check = RowCheck(catalog)
    pending: list[pa.RecordBatch] = []
    size = count = 0
    kind = catalog.schema.field("object_id").type
    with DuplicateFinder(kind, catalog.num_rows, ids) as finder:
        for batch in catalog.batches(tally=tally):
            check.look(batch)
            if check.bad:
                continue
            finder.add(batch["object_id"])
            pending.append(with_index(batch))
            # get_total_buffer_size would count the whole buffers behind a slice.
            size += pending[-1].nbytes
            if size >= run_bytes:
                write_run(runs, count, pending)
                count, size, pending = count + 1, 0, []
        check.report(tally)
        finder.refuse(catalog.path)
    if pending:
        write_run(runs, count, pending)
    return check.rows


class RowCheck:
    """Counts the rows that cannot be used and remembers the first of them."""

    REASONS = (
        ("object_id", "object_id is null"),
        ("ra", "ra is null or not finite"),
        ("dec", "dec is null or not finite"),
        ("ra_range", "ra is outside 0 to 360 degrees"),
        ("dec_range", "dec is outside -90 to 90 degrees"),
    )

    def __init__(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self.rows = 0
        self.counts = dict.fromkeys((key for key, _ in self.REASONS), 0)
        self.first: dict[str, list[str]] = {key: [] for key in self.counts}

    @property
    def bad(self) -> bool:
        return any(self.counts.values())

    def look(self, batch: pa.RecordBatch) -> None:
        ids = batch["object_id"]
        self._note("object_id", np.asarray(ids.is_null()), batch)
        for key, low, high in (("ra", 0.0, 360.0), ("dec", -90.0, 90.0)):
            values = pc.fill_null(batch[key], np.nan).to_numpy()
            finite = np.isfinite(values)
            self._note(key, ~finite, batch)
            self._note(f"{key}_range", finite & ((values < low) | (values > high)), batch)
        self.rows += batch.num_rows

    def _note(self, reason: str, wrong: np.ndarray, batch: pa.RecordBatch) -> None:
        where = np.flatnonzero(wrong)
        self.counts[reason] += where.size
        for row in where[: 5 - len(self.first[reason])].tolist():
            name = batch["object_id"][row].as_py()
            shown = f"row {self.rows + row}" if name is None else f"object_id {name}"
            self.first[reason].append(shown)

    def report(self, tally: Tally) -> None:
        """Raise the one line that names everything that is wrong, if anything is."""
        if self.bad:
            parts = [
                f"{words} in {self.counts[key]} row{'s' if self.counts[key] > 1 else ''} "
                f"(first: {', '.join(self.first[key])})"
                for key, words in self.REASONS
                if self.counts[key]
            ]
            raise InputError(
                f"{self.catalog.path}: {'; '.join(parts)}; put these rows right or leave them out "
                "with --select"
            )
        if self.rows == 0:
            raise InputError(
                f"{self.catalog.path}: no row passes --select: of {tally.read}, {tally.words()}"
            )
