"""One pass over a catalogue before a run: what there is, where, and which rows have images."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pyarrow as pa
from hats.pixel_math.spatial_index import compute_spatial_index
from numpy.typing import NDArray

from survey_gampen.catalog.selection import Tally
from survey_gampen.catalog.sort import RowCheck
from survey_gampen.catalog.source import Catalog
from survey_gampen.images.base import ImageSource
from survey_gampen.images.coverage import located
from survey_gampen.images.stack import StackedSource
from survey_gampen.images.tiles.source import TileSource
from survey_gampen.report.cells import Cells
from survey_gampen.report.tally import Smallest, shuffled_keys


@dataclass
class Scan:
    """What the rows add up to.

    Attributes
    ----------
    rows : int
    tally : Tally
        Rows that were looked at, and what each cut lost of them.
    with_image : int or None
        Rows whose centre lies on an image; None where nobody knows before asking.
    images, images_touched : int or None
        Tiles there are, and those that some row would be cut from; None where nobody knows, or
        where there are no tiles. Of several bands those of the first.
    cells : Cells
        Where the rows lie.
    sample : pyarrow.Table
        object_id, ra, dec of some rows that may have an image, chosen by the seed.
    """

    rows: int
    tally: Tally
    with_image: int | None
    images: int | None
    images_touched: int | None
    cells: Cells = field(repr=False)
    sample: pa.Table = field(repr=False)


def scan(
    catalog: Catalog,
    source: ImageSource,
    sample: int,
    seed: int,
    tick: Callable[[int], None] | None = None,
) -> Scan:
    """Read a catalogue once, some ten thousand rows at a time.

    Parameters
    ----------
    catalog : Catalog
    source : ImageSource
    sample : int
        Rows to choose.
    seed : int
        Another seed chooses others; the order of the rows does not matter.
    tick : callable, optional
        Called with the number of rows read so far.

    Raises
    ------
    InputError
        For rows that a run would refuse, all named in one line.
    """
    check, cells, chosen = RowCheck(catalog), Cells(), Smallest(sample)
    first = source.sources[0] if isinstance(source, StackedSource) else source
    tiled = isinstance(first, TileSource)
    tiles = first.footprints().num_rows  # of a tree by a sky map none is known before it is asked
    touched: set[int] = set()
    known, with_image = True, 0
    turn = shuffled_keys(pa.array([seed]))[0]
    tally = Tally()
    for batch in catalog.batches(tally=tally):
        check.look(batch)
        if check.bad:
            continue
        ra, dec = batch["ra"].to_numpy(), batch["dec"].to_numpy()
        home = located(source, ra, dec, batch["object_id"].to_pylist())
        known = known and home is not None
        there: NDArray[np.bool_] = np.ones(len(ra), bool) if home is None else home >= 0
        if home is not None and tiled:
            touched.update(np.unique(home[there]).tolist())
        with_image += int(there.sum())
        cells.add(np.asarray(compute_spatial_index(ra, dec), np.int64), there)
        names = pa.Table.from_batches([batch.select(["object_id", "ra", "dec"])])
        chosen.offer(shuffled_keys(batch["object_id"]) ^ turn, names, there)
        if tick is not None:
            tick(check.rows)
    check.report(tally)
    rows = chosen.table()
    return Scan(
        rows=check.rows,
        tally=tally,
        with_image=with_image if known else None,
        images=tiles if tiled and tiles else None,
        images_touched=len(touched) if tiled else None,
        cells=cells,
        sample=rows if rows is not None else catalog.schema.empty_table(),
    )
