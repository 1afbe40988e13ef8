"""HATS catalogues read where they lie by whole runs, from servers, and in bounded memory."""

from __future__ import annotations

import json
import os
import shutil
import sys
import uuid
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from catalogservers import WebServer
from hatsinput import in_place, leaf_files, same_rows, write_hats
from peakmemory import peak_memory
from skies import patch_of_sky
from smallrun import Sky, call, leaves, rows, status, verb

from survey_gampen import storage, stores
from survey_gampen.catalog import (
    open_catalog,
    read_rows,
    sort_catalog,
)
from survey_gampen.catalog.hats_in import read_record
from survey_gampen.catalog.sorted import iter_index
from survey_gampen.errors import OutsideFault
from survey_gampen.net.waiting import Patience
from survey_gampen.run.plan import make_plan


@pytest.mark.slow
@pytest.mark.parametrize("small", [0, 1 << 20])
def test_from_a_web_server(tmp_path: Path, small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Faults of the server are faults outside, whatever it answers."""
    monkeypatch.setattr("survey_gampen.catalog.files._SMALL", small)
    monkeypatch.setattr(stores, "PATIENCE", Patience(0.5, 0.01, 0.05))
    hats = write_hats(tmp_path / "served" / "hats", patch_of_sky(900), 200, 60)
    sort_catalog(open_catalog(hats), tmp_path / "copy", tmp_path / ".staging")
    with WebServer(tmp_path / "served") as server:
        record = in_place(f"{server.url}/hats", tmp_path / "out")
        for each in make_plan(record, 200):
            pixel = each.norder, each.npix
            assert read_rows(record, *pixel).equals(read_rows(tmp_path / "copy", *pixel))
        path = "/" + str(leaf_files(hats)[0].relative_to(tmp_path / "served"))
        for statuses in ([403] * 99, [503] * 99, [404] * 99):
            server.statuses[path] = statuses
            with pytest.raises(OutsideFault, match="Npix="):
                list(iter_index(record))
        server.statuses.clear()
        assert sum(piece.size for piece in iter_index(record)) == 900


@pytest.mark.slow
def test_memory_does_not_grow_with_the_catalogue(tmp_path: Path) -> None:
    """Peak resident memory of a process that plans and reads five times the rows of another."""
    code = """
import sys
from pathlib import Path
from survey_gampen.catalog import buckets, open_catalog, iter_rows
from survey_gampen.catalog.hats_scan import use_in_place
from survey_gampen.run.plan import make_plan
buckets._BUCKET_ROWS = 50_000
catalog, out = open_catalog(sys.argv[1], extra=["name"]), Path(sys.argv[2])
use_in_place(catalog, out / "catalog", out / ".staging")
for partition in make_plan(out / "catalog", 5000):
    pass
found = sum(b.num_rows for npix in range(12) for b in iter_rows(out / "catalog", 0, npix))
assert found == catalog.num_rows
"""
    peaks = []
    for count in (200_000, 1_000_000):
        table = patch_of_sky(count).append_column("name", pa.array(["x" * 200] * count))
        hats = write_hats(tmp_path / f"{count}", table, 10**7, 50_000)
        peaks.append(peak_memory(code, hats, tmp_path / f"{count}.out"))
    assert peaks[1] < peaks[0] + 100


@pytest.fixture(scope="module")
def galaxies_as_hats(sky: Sky, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The catalogue of the sky that tests share."""
    place = tmp_path_factory.mktemp("hats") / "galaxies"
    return write_hats(place, pq.read_table(sky.catalog), 10, 4)


def words(sky: Sky, hats: Path | str, out: Path | str, *more: str) -> list[str]:
    return [str(hats) if word == str(sky.catalog) else word for word in sky.command(out, *more)]


def same_posteriors(out: Path, calm: Path) -> bool:
    return rows(out).equals(rows(calm))


@pytest.mark.slow
def test_a_run_from_end_to_end(
    sky: Sky, calm: Path, galaxies_as_hats: Path, tmp_path: Path
) -> None:
    """Each verb works; the posteriors are those of a run that has sorted the same rows."""
    hats = Path(shutil.copytree(galaxies_as_hats, tmp_path / "galaxies"))
    images = Path(shutil.copytree(sky.images, tmp_path / "images"))
    out = tmp_path / "run"
    command = [str(images) if w == str(sky.images) else w for w in words(sky, hats, out)]
    options = ("--images", images, "--survey", "hsc-wide", "--model", sky.model, "--passes", "4")
    looked = verb("inspect", hats, *options, "--out", tmp_path / "look")
    assert looked.returncode == 0, looked.stderr
    planned = call([*command, "--plan-only"])
    assert planned.returncode == 0, planned.stderr
    assert f"catalogue: {hats} is read where it lies" in planned.stdout
    assert read_record(out / "catalog") is not None

    away = hats.rename(tmp_path / "unmounted")
    stopped = verb("resume", out)
    assert stopped.returncode == 75
    assert "is away: bring the catalogue back" in stopped.stderr
    away.rename(hats)
    done = verb("resume", out)
    assert done.returncode == 0, done.stderr
    assert same_posteriors(out, calm)
    assert status(out)["galaxies"]["published"] == rows(calm).num_rows
    assert call(command).returncode == 0  # there is nothing left to do

    os.utime(next(images.iterdir()))  # images at another time are others
    file = leaf_files(hats)[0]
    whole = file.read_bytes()
    file.write_bytes(whole[:10] + bytes([whole[10] ^ 1]) + whole[11:])
    refused = verb("resume", out, "--redo", "NO_IMAGE")
    assert refused.returncode == 2
    assert f"{hats} has changed since the run was planned" in refused.stderr
    file.write_bytes(whole)
    redone = verb("resume", out, "--redo", "NO_IMAGE")
    assert redone.returncode == 0, redone.stderr
    assert "1 partitions with NO_IMAGE are done again" in redone.stdout
    assert same_posteriors(out, calm)

    shutil.rmtree(hats)  # what is done needs it no more
    for verb_and_words in (
        ("resume", out),
        ("compact", out),
        ("report", out, "--out", tmp_path / "page.html"),
        ("join", f"a={out}", f"b={calm}", "--out", tmp_path / "both"),
    ):
        done = verb(*verb_and_words)
        assert done.returncode == 0, done.stderr
    assert same_posteriors(out, calm)


@pytest.mark.slow
def test_what_a_run_publishes_can_be_read_in_place(calm: Path, tmp_path: Path) -> None:
    """It is a HATS catalogue like any other, with ids and positions."""
    record = in_place(calm / "posteriors", tmp_path / "out", select="status != 1")
    catalog = open_catalog(calm / "posteriors", select="status != 1")
    sort_catalog(catalog, tmp_path / "copy", tmp_path / ".staging")
    assert same_rows(tmp_path / "copy", record, 8) > 3


@pytest.mark.slow
def test_a_leaf_that_changes_under_workers_stops_the_run(
    sky: Sky, galaxies_as_hats: Path, tmp_path: Path
) -> None:
    """With 75, as any fault outside the data: nothing is quarantined. When resumed, with 2."""
    hats = Path(shutil.copytree(galaxies_as_hats, tmp_path / "galaxies"))
    out = tmp_path / "run"
    assert call(words(sky, hats, out, "--plan-only")).returncode == 0
    for file in leaf_files(hats):
        pq.write_table(pq.read_table(file).slice(0, 1), file)
    code = (
        "import sys; from survey_gampen.cli import main; from survey_gampen.run import runner\n"
        "runner.check_leaves = lambda *_: None  # they were still right when it was begun\n"
        "sys.exit(main(sys.argv[1:]))"
    )
    stopped = call([sys.executable, "-c", code, "resume", str(out)])
    assert stopped.returncode == 75, stopped.stderr
    assert "has changed since the run was planned" in stopped.stderr
    assert not list((out / "quarantine").glob("*"))
    refused = verb("resume", out)
    assert refused.returncode == 2
    assert "has changed since the run was planned (dataset/Norder=" in refused.stderr
    assert refused.stderr.count("\n") == 1


@pytest.mark.slow
def test_a_run_of_a_catalogue_in_a_bucket(
    sky: Sky, calm: Path, galaxies_as_hats: Path, bucket: str, tmp_path: Path
) -> None:
    """Its output in a bucket as well; and another, here, goes on with the same leaves on a disk."""
    place = storage.at(f"{bucket}/{uuid.uuid4().hex}")
    there = storage.filesystem(place)
    there.put(f"{galaxies_as_hats}/", storage.name_there(place / "galaxies"), recursive=True)
    done = call(words(sky, f"{place}/galaxies", f"{place}/run"))
    assert done.returncode == 0, done.stderr
    assert "is read where it lies" in done.stdout
    assert same_posteriors(place / "run", calm)
    names = {path.name for path in (place / "run" / "catalog").iterdir()}
    assert names == {"in-place.json", "rows.parquet", "pieces.parquet", "cells.parquet"}

    out = tmp_path / "run"
    assert call(words(sky, f"{place}/galaxies", out, "--plan-only")).returncode == 0
    there.rm(storage.name_there(place / "galaxies"), recursive=True)
    stopped = verb("resume", out)
    assert stopped.returncode == 75, stopped.stderr
    done = call(words(sky, galaxies_as_hats, out))
    assert done.returncode == 0, done.stderr
    assert json.loads((out / "catalog" / "in-place.json").read_text())["folder"] == str(
        galaxies_as_hats
    )
    assert leaves(out) == leaves(place / "run")
