"""The rows of one partition on their way through the network, one batch at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from survey_gampen.catalog.ids import id_key
from survey_gampen.catalog.sorted import Cursor
from survey_gampen.images.status import NULL_BITS, Status
from survey_gampen.images.store import CutoutStore
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.samples import SampleFacts, SampleWriter
from survey_gampen.posterior.summary import summarise
from survey_gampen.run.leaf import make_batch
from survey_gampen.run.scope import out_of_range
from survey_gampen.run.spec import RunSpec
from survey_gampen.stages import Stages

Tick = Callable[[int], None]


@dataclass
class Inference:
    """The rows of one partition, their cutouts, and what turns these into posteriors.

    Attributes
    ----------
    spec : RunSpec
    engine : Engine
    trained_on : dict
        Ranges of the data that the model has seen.
    rows : callable
        Returns a cursor at the first row of the sorted catalogue.
    store : CutoutStore
        Cutouts of the same rows.
    schema : pyarrow.Schema
        Of the published file.
    tick : callable or None
        Called with the number of galaxies of each chunk that is done.
    stages : Stages
        Told how long ``reading``, ``inferring`` and ``summarising`` take.
    flagged : int
        Rows of the last walk with a status that is not 0.
    """

    spec: RunSpec
    engine: Engine
    trained_on: dict[str, Any]
    rows: Callable[[], Cursor]
    store: CutoutStore
    schema: pa.Schema
    tick: Tick | None
    stages: Stages
    flagged: int = field(default=0)

    def sample_facts(self) -> SampleFacts:
        """Return what the draws of this partition are draws of."""
        return SampleFacts(
            object_id=self.store.object_id,  # no list: of large ones NumPy makes floats
            passes=self.engine.passes,
            targets=self.engine.targets,
            fingerprint=self.spec.fingerprint,
            attributes={"seed": self.engine.seed, "model": self.spec.model["sha256"]},
        )

    def tables(self, sink: SampleWriter | None) -> Iterator[pa.Table]:
        """Yield the finished rows chunk by chunk.

        Raises
        ------
        ValueError
            Where the cutouts are not those of the rows.
        """
        self.flagged = 0
        cursor = self.rows()
        chunks = self.store.chunks(self.engine.settings.batch)
        for where, images in self.stages.each("reading", chunks):
            rows = cursor.take(len(images))
            if rows["object_id"].to_pylist() != self.store.object_id[where].tolist():
                raise ValueError(f"{self.store.path} holds other galaxies than its rows")
            table = self._chunk(where, images, rows, sink)
            self.flagged += int(np.count_nonzero(table.column("status").to_numpy()))
            yield table
            if self.tick is not None:
                self.tick(table.num_rows)
        if cursor.take(1).num_rows:
            raise ValueError(f"{self.store.path} holds fewer galaxies than there are rows")

    def _chunk(
        self,
        where: slice,
        images: NDArray[np.float32],
        rows: pa.Table,
        sink: SampleWriter | None,
    ) -> pa.Table:
        status = self._status(where)
        good = (status & int(NULL_BITS)) == 0
        columns: dict[str, NDArray[np.generic]] = {}
        if good.any():
            with self.stages("inferring"):
                draws = self.engine.draws(images[good], id_key(rows["object_id"])[good])
                finite = draws.finite.cpu().numpy()  # a GPU is done only now
            with self.stages("summarising"):
                columns = {name: values[finite] for name, values in summarise(draws).items()}
            if self.engine.novelty is not None and draws.novelty is not None:
                strange = (draws.novelty > self.engine.novelty.threshold).cpu().numpy()
                status[np.flatnonzero(good)[strange]] |= int(Status.OUT_OF_DISTRIBUTION)
            if sink is not None:
                sink.write(where.start + np.flatnonzero(good), draws)
            status[np.flatnonzero(good)[~finite]] |= int(Status.NONFINITE)
            good[good] = finite
        return make_batch(
            self.schema,
            rows,
            self.spec.settings.band,
            status,
            list(self.store.note[where]),
            self.store.extra["replaced"][where],
            good,
            columns,
        )

    def _status(self, where: slice) -> NDArray[np.int32]:
        """Return the flags of the cutouts, and whether the model knows such images."""
        status = np.array(self.store.status[where], np.int32)
        strange = out_of_range(
            self.trained_on,
            self.spec.model["pixel_scale"],
            self.store.sky_sigma[where],
            self.store.extra["psf_fwhm"][where],
            self.store.pixel_scale[where],
        )
        status[strange & ((status & int(NULL_BITS)) == 0)] |= int(Status.OUT_OF_RANGE)
        return status
