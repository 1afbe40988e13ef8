"""An id comes out of a run as it went in, whatever kind of file it came from."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from smallrun import rows, write_model, write_sky

from survey_gampen.config import Settings
from survey_gampen.errors import InputError
from survey_gampen.images.store import open_cutouts
from survey_gampen.run import setup, task
from survey_gampen.run.folder import folder
from survey_gampen.run.layout import RunDir
from survey_gampen.run.measure import Measured
from survey_gampen.run.plan import read_plan

ENGINE = {"device": "cpu", "precision": "fp32", "batch": 8, "threads": 1}

UNSIGNED = np.array([2**64 - 1, 0, 2**63 - 1, 2**63, 2**53 + 1, 7], dtype=np.uint64)
SIGNED = np.array([2**63 - 1, 0, -1, -(2**63), 2**53 + 1, 7], dtype=np.int64)
TEXT = np.array(["18446744073709551615", "0", "007", "HSC J0959+0231", "J-5", "b"])


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """Images of six galaxies, a model, and settings that name them."""
    home = tmp_path_factory.mktemp("ids")
    images, catalog = write_sky(home, 6)
    return Settings(
        catalog=str(catalog),
        images=str(images),
        out="",
        band="g",
        model=str(write_model(home / "model.safetensors")),
        passes=2,
        partition_rows=8,
        keep_cutouts=True,
    )


def catalog(sky: Settings, folder: Path, kind: str, ids: np.ndarray) -> Path:
    """The galaxies of the sky under other ids, as a file of a kind."""
    table = pq.read_table(sky.catalog)
    columns = {"object_id": ids, "ra": table["ra"].to_numpy(), "dec": table["dec"].to_numpy()}
    path = folder / f"galaxies.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({name: pa.array(values) for name, values in columns.items()}), path)
    elif kind == "folder":
        for number in range(6):
            part = {name: pa.array(values[number : number + 1]) for name, values in columns.items()}
            path.mkdir(exist_ok=True)
            pq.write_table(pa.table(part), path / f"{number}.parquet")
    else:
        formats = {"fits": "fits", "vot": "votable", "ecsv": "ascii.ecsv", "csv": "ascii.csv"}
        Table(columns).write(path, format=formats[kind])
    return path


def measured(sky: Settings, source: Path, out: Path) -> RunDir:
    """A run from the catalogue to published leaves, in this process."""
    settings = replace(sky, catalog=str(source), out=str(out))
    with folder(out) as run:
        staging = run.staging("000001")
        inputs = setup.open_inputs(settings, run)
        n = setup.sort_rows(run, inputs, staging)
        setup.plan(run, inputs, n, Measured(ENGINE, 0.1), 1, staging)
    for partition in read_plan(run.plan):
        task.cut_partition(run.root, partition)
        assert task.infer_partition(run.root, partition)["published"]
    return run


@pytest.mark.parametrize(
    ("kind", "ids"),
    [
        *((kind, UNSIGNED) for kind in ("parquet", "folder", "fits", "ecsv", "csv")),
        *((kind, SIGNED) for kind in ("parquet", "fits", "vot", "ecsv", "csv")),
        *((kind, TEXT) for kind in ("parquet", "folder", "fits", "vot", "ecsv", "csv")),
    ],
    ids=lambda value: value if isinstance(value, str) else value.dtype.name,
)
def test_ids_come_out_as_they_went_in(
    sky: Settings, tmp_path: Path, kind: str, ids: np.ndarray
) -> None:
    run = measured(sky, catalog(sky, tmp_path, kind, ids), tmp_path / "run")
    found = rows(run.root)
    assert sorted(found["object_id"].to_pylist()) == sorted(ids.tolist())
    # Each beside its own position, not only among the others.
    source = pq.read_table(sky.catalog)
    place = dict(zip(found["object_id"].to_pylist(), found["ra"].to_pylist(), strict=True))
    assert [place[name] for name in ids.tolist()] == pytest.approx(source["ra"].to_pylist())
    stored = [open_cutouts(run.cutout_group(p.name)).n for p in read_plan(run.plan)]
    assert sum(stored) == 6
    shutil.rmtree(run.cutouts)


def test_the_same_number_gives_the_same_posterior_whatever_its_type(
    sky: Settings, tmp_path: Path
) -> None:
    """Random numbers of a galaxy hang on its id's value: not on how the file stores it."""
    small = np.array([3, 1, 4, 15, 9, 2])
    tables = []
    for kind, type_ in (("parquet", np.int64), ("parquet", np.uint64), ("csv", np.int16)):
        home = tmp_path / f"{kind}-{np.dtype(type_).name}"
        home.mkdir()
        run = measured(sky, catalog(sky, home, kind, small.astype(type_)), home / "run")
        tables.append(rows(run.root))
    assert tables[0]["bt_mean"].null_count < 6
    for other in tables[1:]:
        assert other["bt_mean"].equals(tables[0]["bt_mean"])


@pytest.mark.parametrize("ids", [UNSIGNED, TEXT], ids=["uint64", "text"])
@pytest.mark.parametrize("kind", ["parquet", "folder", "csv"])
def test_an_id_that_comes_twice_is_named(
    sky: Settings, tmp_path: Path, kind: str, ids: np.ndarray
) -> None:
    ids = ids.copy()
    ids[4] = ids[0]
    source = catalog(sky, tmp_path, kind, ids)
    settings = replace(sky, catalog=str(source), out=str(tmp_path / "run"))
    with folder(tmp_path / "run") as run:
        inputs = setup.open_inputs(settings, run)
        with pytest.raises(InputError, match=rf"1 object_id appears .*\(first: {ids[0]}\)"):
            setup.sort_rows(run, inputs, run.staging("000001"))
