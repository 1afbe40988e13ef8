"""Galaxies whose position is not the same to the last digit in all runs.

Catalogues that went through other formats differ by some milliarcseconds, and then rows of one
galaxy lie in different order-29 pixels (0.4 milliarcseconds). Rows whose key is not found in every
run are therefore matched once more, by object_id alone, in buckets on the disk; where they are of
one galaxy, the position in the first run counts, and the rows of the others are sorted anew by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hats.pixel_math.spatial_index import SPATIAL_INDEX_COLUMN
from numpy.typing import NDArray

from survey_gampen.bands.rows import TableRows, align, blocks, file_rows, take
from survey_gampen.catalog.buckets import Buckets
from survey_gampen.catalog.merge import merge_runs, write_run
from survey_gampen.catalog.sort import RUN_BYTES
from survey_gampen.catalog.sorted import write_sorted
from survey_gampen.errors import InputError
from survey_gampen.images.pixels.grid import unit_vectors

#: Arcsec between two positions of one galaxy, at most.
FARTHEST = 1.0


class Unmatched:
    """Rows whose key is not in every run.

    Parameters
    ----------
    names : sequence of str
        What to call the runs.
    kind : pyarrow.DataType
        Of the object_ids.
    rows : int
        How many will come, at most.
    folder : Path
        Where they are kept; made here.
    """

    def __init__(self, names: Sequence[str], kind: pa.DataType, rows: int, folder: Path) -> None:
        self._names, self._folder = names, folder
        self._schema = pa.schema(
            [
                ("object_id", kind), ("run", pa.int16()), (SPATIAL_INDEX_COLUMN, pa.int64()),
                ("ra", pa.float64()), ("dec", pa.float64()),
            ]
        )  # fmt: skip
        self._buckets = Buckets(self._schema, rows, folder / "unmatched")
        self._far = 0
        #: Rows that were found to lie elsewhere than in the first run that has them.
        self.rows_moved = 0
        self._first_far: list[str] = []

    def close(self) -> None:
        """Close all files."""
        self._buckets.close()

    def add(self, run: int, rows: pa.Table) -> None:
        """Take rows of a run, with key and position."""
        values = [rows[name] for name in self._schema.names if name != "run"]
        values.insert(1, pa.array(np.full(rows.num_rows, run, np.int16)))
        for batch in pa.Table.from_arrays(values, schema=self._schema).to_batches():
            self._buckets.add(batch)

    def moved(self) -> dict[int, Path]:
        """Match them by object_id.

        Returns
        -------
        dict of int to Path
            Runs with rows that must move; in the folder are sorted runs of the rows' keys with the
            column ``there``, the order-29 pixel where they belong.

        Raises
        ------
        InputError
            Where positions of one galaxy are more than an arcsec apart.
        """
        out: dict[int, Path] = {}
        for number, bucket in enumerate(self._buckets.read()):
            for run, rows in self._of_bucket(bucket):
                folder = out.setdefault(run, self._folder / f"moved-{run}")
                folder.mkdir(exist_ok=True)
                self.rows_moved += rows.num_rows
                write_run(folder, number, rows.to_batches())
        if self._far:
            more = f" (and {self._far - 1} more)" if self._far > 1 else ""
            raise InputError(f"{self._first_far[0]}{more}: join runs of one catalogue")
        return out

    def _of_bucket(self, bucket: pa.Table) -> Iterator[tuple[int, pa.Table]]:
        bucket = bucket.take(
            pc.sort_indices(bucket, [("object_id", "ascending"), ("run", "ascending")])
        ).combine_chunks()
        if not bucket.num_rows:
            return
        names = bucket["object_id"].combine_chunks()
        again = np.zeros(len(names), bool)  # of the galaxy of the row before
        again[1:] = np.asarray(pc.equal(names[1:], names[:-1]))
        first = np.maximum.accumulate(np.where(again, 0, np.arange(len(names))))
        ra, dec = (bucket[name].to_numpy() for name in ("ra", "dec"))
        apart = _arcsec(ra, dec, ra[first], dec[first])
        for row in np.flatnonzero(apart > FARTHEST).tolist():
            self._far += 1
            if not self._first_far:
                one, other = (
                    self._names[int(bucket["run"][r].as_py())] for r in (int(first[row]), row)
                )
                self._first_far.append(
                    f"object_id {names[row]} lies at {ra[first[row]]:.6f} {dec[first[row]]:+.6f} in"
                    f" {one} and {apart[row]:.3g} arcsec from there in {other}"
                )
        index = bucket[SPATIAL_INDEX_COLUMN].to_numpy()
        moves = index != index[first]
        run = bucket["run"].to_numpy()
        for number in np.unique(run[moves]).tolist():
            which = np.flatnonzero(moves & (run == number))
            rows = bucket.select([SPATIAL_INDEX_COLUMN, "object_id"]).take(pa.array(which))
            yield number, rows.append_column("there", pa.array(index[first[which]]))


def _arcsec(
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    other_ra: NDArray[np.float64],
    other_dec: NDArray[np.float64],
) -> NDArray[np.float64]:
    """Angle between positions in degrees, by the chord: exact for small ones."""
    chord = np.linalg.norm(unit_vectors(ra, dec) - unit_vectors(other_ra, other_dec), axis=-1)
    angle: NDArray[np.float64] = np.degrees(2 * np.arcsin(np.minimum(chord / 2, 1))) * 3600
    return angle


def sort_anew(files: Sequence[Path], schema: pa.Schema, moved: Path, folder: Path) -> list[Path]:
    """Write the rows of a run again, in order, those that move in their new place.

    Parameters
    ----------
    files : sequence of Path
        What was published.
    schema : pyarrow.Schema
        Of its rows.
    moved : Path
        From :meth:`Unmatched.moved`.
    folder : Path
        Where to; made here.

    Returns
    -------
    list of Path
        Files that follow each other on the sky.
    """
    runs = folder / "runs"
    runs.mkdir(parents=True)
    held: list[pa.RecordBatch] = []
    count = size = 0
    streams = [file_rows(files, schema), TableRows(merge_runs(moved, RUN_BYTES))]
    for rows, moves in blocks(streams):
        assert rows is not None  # what moves is among the rows
        if moves is not None:
            there = take(moves["there"], align([rows, moves])[1])
            rows = rows.set_column(0, schema.field(0), pc.coalesce(there, rows[0]))
        held += rows.combine_chunks().to_batches()
        size += rows.nbytes
        if size >= RUN_BYTES:
            write_run(runs, count, held)
            held, count, size = [], count + 1, 0
    if held:
        write_run(runs, count, held)
    write_sorted(folder / "rows", merge_runs(runs, RUN_BYTES), schema)
    return sorted((folder / "rows").glob("*.parquet"))
