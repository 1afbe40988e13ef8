"""Broken images that are mended, and images that come later: `resume` reaches their rows."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from smallrun import Sky, call, rows, status, verb

from survey_gampen.catalog.hats_out import leaf_path
from survey_gampen.images.status import Status


@pytest.mark.slow
def test_a_broken_tile_quarantines_its_partitions_and_resume_heals(tmp_path: Path) -> None:
    sky = Sky(tmp_path, 20)
    far = Sky(tmp_path / "far", 6)  # the same spot of the sky, moved
    shift(far, 2.0)
    tile = next(far.images.iterdir())
    broken = sky.images / "calexp-HSC-G-0-1,0.fits"
    broken.write_bytes(tile.read_bytes())
    table = pa.concat_tables([pq.read_table(sky.catalog), pq.read_table(far.catalog)])
    ids = pa.array(np.arange(table.num_rows))
    pq.write_table(table.set_column(0, "object_id", ids), sky.catalog)
    out = tmp_path / "run"
    words = sky.command(out, rows=5)
    planned = call([*words, "--plan-only"])
    assert planned.returncode == 0
    assert "is faster than 5" in planned.stdout  # its batches are larger
    # Pixels that cannot be read, of a file whose name, size and time are those of the plan.
    whole, times = broken.read_bytes(), broken.stat()
    broken.write_bytes(b"\0" * len(whole))
    os.utime(broken, ns=(times.st_atime_ns, times.st_mtime_ns))

    done = call(words)
    assert done.returncode == 3, done.stderr
    report = status(out)
    assert report["state"] == "finished with quarantine"
    assert report["partitions"]["quarantined"] >= 1
    assert report["galaxies"]["published"] + report["galaxies"]["quarantined"] == table.num_rows
    assert all(broken.name in note["cause"] for note in report["quarantined"])
    assert call(words).returncode == 3  # `run` leaves them alone

    broken.write_bytes(whole)  # at another time: the images are others now
    refused = call(words)
    assert refused.returncode == 2
    assert f"survey-gampen resume {out}" in refused.stderr
    healed = verb("resume", out)
    assert healed.returncode == 0, healed.stderr
    assert rows(out).num_rows == table.num_rows
    assert not list((out / "quarantine").iterdir())

    # Who is killed right after a partition was published leaves its note; its cutouts stay.
    kept = {path.stem for path in (out / "cutouts").iterdir()}
    noted = report["quarantined"][0]["partition"]  # made with the images of today
    gone = min(kept - {noted})
    (out / "quarantine" / f"{noted}.json").write_text("{}")
    norder, npix = map(int, gone[1:].split("-p"))
    leaf_path(out / "posteriors", norder, npix).unlink()
    assert verb("resume", out).returncode == 0
    assert {path.stem for path in (out / "cutouts").iterdir()} == kept
    assert not list((out / "quarantine").iterdir())


def shift(sky: Sky, degrees: float) -> None:
    """Move a sky in right ascension."""
    from astropy.io import fits

    with fits.open(next(sky.images.iterdir()), mode="update") as hdus:
        for hdu in hdus[1:]:
            hdu.header["CRVAL1"] += degrees
    table = pq.read_table(sky.catalog)
    moved = pa.array(table["ra"].to_numpy() + degrees)
    pq.write_table(table.set_column(1, "ra", moved), sky.catalog)


@pytest.mark.slow
def test_images_that_come_later_reach_their_rows(sky: Sky, tmp_path: Path) -> None:
    """--redo: rows on no image are done again when there is one, and only their partitions."""
    late = Sky(tmp_path, 20)
    other = Sky(tmp_path / "other", 4)
    shift(other, 1.0)  # where the last but one galaxy lies
    out = tmp_path / "run"
    assert call(late.command(out, "--drop-cutouts")).returncode == 0
    assert not list((out / "cutouts").iterdir())
    before, times = (
        rows(out),
        {p: p.stat().st_mtime_ns for p in (out / "posteriors").rglob("Npix=*")},
    )
    next(other.images.iterdir()).rename(late.images / "calexp-HSC-G-0-1,0.fits")

    refused = verb("resume", out)
    assert refused.returncode == 2
    assert "--redo" in refused.stderr
    assert verb("resume", out, "--redo", "NO_IMAG").returncode == 2
    redone = verb("resume", out, "--redo", "no_image")
    assert redone.returncode == 0, redone.stderr
    after = rows(out)
    assert after["object_id"].equals(before["object_id"])
    assert sum(s & Status.NO_IMAGE for s in before["status"].to_pylist()) == 1
    assert not any(s & Status.NO_IMAGE for s in after["status"].to_pylist())
    changed = [p for p, t in times.items() if p.stat().st_mtime_ns != t]
    assert len(changed) == 1
    # And again there is nothing to do.
    assert verb("resume", out, "--redo", "no_image").returncode == 0
    assert call(late.command(out)).returncode == 0
