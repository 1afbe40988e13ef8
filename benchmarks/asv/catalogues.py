"""From a catalogue to a plan, and from a tile to cutouts."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from survey_gampen.catalog import open_catalog, sort_catalog
from survey_gampen.images.open import open_images
from survey_gampen.paths import data_dir, data_file
from survey_gampen.run.plan import make_plan, write_plan
from survey_gampen.survey import load_survey

ROWS, PARTITION_ROWS = 100_000, 500


class Plan:
    """A shuffled catalogue, sorted on the sky and cut into partitions."""

    timeout = 300
    number = 1  # what is sorted already is not sorted again

    def setup(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="survey-gampen-"))
        rng = np.random.default_rng(0)
        table = pa.table(
            {
                "object_id": rng.permutation(ROWS),
                "ra": rng.uniform(129.0, 225.0, ROWS),
                "dec": rng.uniform(-2.0, 5.0, ROWS),
            }
        )
        pq.write_table(table, self.folder / "catalog.parquet")
        self.catalog = open_catalog(self.folder / "catalog.parquet")
        self._sort("sorted")

    def teardown(self) -> None:
        shutil.rmtree(self.folder)

    def _sort(self, name: str) -> None:
        sort_catalog(self.catalog, self.folder / name, self.folder / ".staging")

    def time_sort(self) -> None:
        self._sort("again")

    def time_plan(self) -> None:
        partitions = make_plan(self.folder / "sorted", PARTITION_ROWS)
        write_plan(
            self.folder / "plan.parquet", partitions, PARTITION_ROWS, self.folder / ".staging"
        )

    def peakmem_sort_and_plan(self) -> None:
        self._sort("again")
        self.time_plan()


class Cut:
    """The 48 galaxies of the demonstration catalogue, from its tile."""

    def setup(self) -> None:
        rows = pq.read_table(data_file("catalogs", "demo.parquet"))
        self.ra, self.dec = rows["ra"].to_numpy(), rows["dec"].to_numpy()
        survey = load_survey("hsc-wide")
        self.source = open_images(data_dir("catalogs") / "demo" / "tiles", survey)

    def teardown(self) -> None:
        self.source.close()

    def time_cut(self) -> None:
        """The tile is read anew."""
        self.source.close()
        for _ in self.source.cutouts(self.ra, self.dec, 239):
            pass

    def peakmem_cut(self) -> None:
        self.time_cut()
