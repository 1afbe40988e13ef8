"""`survey-gampen demo`: the real thing, on a small simulated sky whose truth is known."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from survey_gampen.config import resolve
from survey_gampen.images.store import open_cutouts
from survey_gampen.model.targets import PARAMETERS
from survey_gampen.paths import data_dir, data_file
from survey_gampen.posterior.samples import read_samples
from survey_gampen.report.gallery import Portrait, gallery
from survey_gampen.run.layout import RunDir

#: Galaxies in the picture and in the table.
SHOWN, LISTED = 6, 12


def main(out: Path) -> int:
    """Run the shipped model on ``catalogs/demo.parquet`` with 1000 passes, and show the result.

    Returns
    -------
    int
        The run's exit code.
    """
    from survey_gampen.run.runner import run

    catalog = data_file("catalogs", "demo.parquet")
    run_out = out / "demo.gampen"
    # A demonstration starts from nothing: an older one may have had another model or sky.
    shutil.rmtree(run_out, ignore_errors=True)
    settings = resolve({"catalog": catalog, "out": str(run_out), "keep_samples": True})
    code = run(settings)
    if code:
        return code
    posteriors = ds.dataset(run_out / "posteriors" / "dataset", format="parquet").to_table()
    truth = pq.read_table(data_dir("catalogs") / "demo" / "truth.parquet")
    joined = posteriors.join(
        truth.select(["object_id", *PARAMETERS]), "object_id", right_suffix="_true"
    ).sort_by("flux")
    rows = joined.to_pylist()[::-1]  # brightest first
    picture = out / "demo.png"
    gallery(_portraits(run_out, rows), picture)
    console = Console(width=None if Console().is_terminal else 130)
    console.print(_table(rows))
    console.print(
        f"catalogue  {run_out / 'posteriors'}\n"
        f"picture    {picture}\n"
        f'open it    lsdb.open_catalog("{run_out / "posteriors"}")\n'
        f"           duckdb: SELECT * FROM '{run_out}/posteriors/dataset/**/*.parquet'",
        highlight=False,
        soft_wrap=True,
    )
    return 0


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(title="median and 68 % interval of the posterior, and the truth")
    for head in ("object", "mag", "B/T", "true", 'R_e ["]', "true", "flux [nJy]", "true", "status"):
        table.add_column(head, justify="right", no_wrap=True)
    chosen = [r for r in rows if r["bt_p50"] is not None][:: max(1, len(rows) // LISTED)]
    for row in chosen:
        cells = [str(row["object_id"]), f"{row['mag_p50']:.2f}"]
        for p, form in zip(PARAMETERS, (".2f", ".2f", ".3g"), strict=True):
            low, middle, high = (row[f"{p}_{q}"] for q in ("p16", "p50", "p84"))
            cells += [f"{middle:{form}} [{low:{form}}, {high:{form}}]", f"{row[p]:{form}}"]
        table.add_row(*cells, str(row["status"]))
    return table


def _portraits(run_out: Path, rows: list[dict[str, Any]]) -> list[Portrait]:
    """Galaxies over the whole range of flux, with their cutouts and draws."""
    good = [r for r in rows if r["bt_p50"] is not None]
    chosen = [good[i] for i in np.linspace(0, len(good) - 1, SHOWN).astype(int)]
    wanted = {r["object_id"]: r for r in chosen}
    found: dict[int, Portrait] = {}
    folders = RunDir(run_out)
    for path in sorted(folders.cutouts.glob("*.zarr")):
        store = open_cutouts(path)
        for where, images in store.chunks():
            for place, image in zip(range(where.start, where.stop), images, strict=True):
                key = int(store.object_id[place])
                if key not in wanted:
                    continue
                _, draws = read_samples(folders.samples / path.name, slice(place, place + 1))
                found[key] = _portrait(wanted[key], image, draws[0])
    return [found[r["object_id"]] for r in chosen]


def _portrait(
    row: dict[str, Any], image: NDArray[np.float32], draws: NDArray[np.float32]
) -> Portrait:
    return Portrait(
        name=f"{row['object_id']}: mag {row['mag_p50']:.1f}",
        image=image,
        crop=(row["stn_scale"], row["stn_dx"], row["stn_dy"]),
        draws=draws,
        truth=tuple(row[p] for p in PARAMETERS),
    )
