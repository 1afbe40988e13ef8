"""The store of cutouts: whole or not there, in the table's order, read by xarray."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xarray as xr
import zarr
from skytiles import SCALE, SURVEY, gather, noise, sky_wcs, write_tile

from survey_gampen.errors import UnreadableFile
from survey_gampen.images import Status, is_complete, open_cutouts, open_images, write_cutouts
from survey_gampen.images.rounding import quanta, quantise
from survey_gampen.run.groups import discard

SIZE = 31
N = 150


@pytest.fixture
def source(tmp_path: Path):
    for k in range(2):
        write_tile(tmp_path / "im" / f"{k}.fits", noise((200, 200), k), sky_wcs(180 * k))
    return open_images(tmp_path / "im", SURVEY, "g", SCALE)


@pytest.fixture
def table() -> pa.Table:
    x, y = np.random.default_rng(0).uniform(-20, 390, (2, N))
    ra, dec = sky_wcs().wcs_pix2world(x, y / 2, 0)
    return pa.table({"object_id": np.arange(N) * 7 + (1 << 40), "ra": ra, "dec": dec})


def test_round_trip_in_the_tables_order(tmp_path, source, table) -> None:
    dest = tmp_path / "out" / "o5-p1.zarr"
    write_cutouts(dest, source, table, SIZE, staging=tmp_path / "staging", chunk=16)
    assert is_complete(dest)
    assert list((tmp_path / "staging").iterdir()) == []
    store = open_cutouts(dest)
    image, status, note, replaced = gather(
        source, table["ra"].to_numpy(), table["dec"].to_numpy(), SIZE
    )
    assert store.n == N
    assert store.size == SIZE
    assert np.array_equal(store.object_id, table["object_id"].to_numpy())
    assert np.array_equal(store.status, status)
    assert store.note == note
    share = store.extra["replaced"]
    assert np.allclose(share, replaced.mean(axis=(1, 2)))
    assert (share[status == Status.NO_IMAGE] == 1).all()
    assert (share[status == 0] == 0).all()
    assert ((share > 0) & (share < 1))[status == Status.EDGE].all()
    assert {int(Status.NO_IMAGE), 0} < set(status.tolist())
    rows, pixels = zip(*store.chunks(40), strict=True)
    assert [(r.start, r.stop) for r in rows] == [(0, 40), (40, 80), (80, 120), (120, 150)]
    assert np.array_equal(np.concatenate(pixels), image)
    here = status != Status.NO_IMAGE
    assert np.allclose(store.extra["zero_point"][here], 27.0)
    assert np.allclose(store.pixel_scale[here], SCALE, rtol=1e-3)
    assert set(store.extra["tile"]) == {"0.fits", "1.fits", ""}
    assert (store.extra["quantum"] == 0).all()


def test_xarray_opens_it(tmp_path, source, table) -> None:
    dest = tmp_path / "c.zarr"
    write_cutouts(dest, source, table, SIZE, staging=tmp_path / "staging")
    data = xr.open_zarr(dest)
    assert data["image"].dims == ("object", "y", "x")
    assert {"object_id", "ra", "dec"} <= set(data.coords)
    assert data["image"].attrs["units"] == "nJy"
    assert data.attrs["complete"] is True
    assert np.array_equal(data["object_id"].values, table["object_id"].to_numpy())


def test_cutouts_older_than_a_column(tmp_path, source, table) -> None:
    dest = tmp_path / "c.zarr"
    write_cutouts(dest, source, table, SIZE, staging=tmp_path / "staging")
    group = zarr.open_group(dest, mode="a", use_consolidated=False)
    del group["replaced"]
    zarr.consolidate_metadata(group.store)
    store = open_cutouts(dest)
    assert np.isnan(store.extra["replaced"]).all()
    assert len(store.status) == N


def test_text_names_and_one_galaxy(tmp_path, source, table) -> None:
    few = table.slice(0, 1).set_column(0, "object_id", pa.array(["HSC J1000+0200 é"]))
    write_cutouts(tmp_path / "c", source, few, SIZE, staging=tmp_path / "staging")
    assert open_cutouts(tmp_path / "c").object_id.tolist() == ["HSC J1000+0200 é"]


def test_sharded_and_compressed(tmp_path, source, table) -> None:
    write_cutouts(tmp_path / "c", source, table, SIZE, staging=tmp_path / "staging", chunk=8)
    array = zarr.open_group(tmp_path / "c", mode="r")["image"]
    assert array.metadata.zarr_format == 3
    assert array.shards == (32, SIZE, SIZE)
    assert array.chunks == (8, SIZE, SIZE)
    assert "zstd" in str(array.compressors)


def test_the_second_writer_changes_nothing(tmp_path, source, table) -> None:
    write_cutouts(tmp_path / "c", source, table, SIZE, staging=tmp_path / "staging")
    before = {p: p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*")}
    write_cutouts(tmp_path / "c", source, table.slice(3), SIZE, staging=tmp_path / "staging")
    assert before == {p: p.stat().st_mtime_ns for p in (tmp_path / "c").rglob("*")}


def test_a_broken_tile_leaves_nothing(tmp_path, source, table) -> None:
    path = tmp_path / "im" / "1.fits"
    path.write_bytes(path.read_bytes()[:20000])
    with pytest.raises(UnreadableFile, match="1.fits"):
        write_cutouts(tmp_path / "c", source, table, SIZE, staging=tmp_path / "staging")
    assert not (tmp_path / "c").exists()
    assert list((tmp_path / "staging").iterdir()) == []
    assert not is_complete(tmp_path / "c")
    with pytest.raises(FileNotFoundError):
        open_cutouts(tmp_path / "c")


def test_a_group_without_its_last_word_is_not_complete(tmp_path, source, table) -> None:
    write_cutouts(tmp_path / "c", source, table, SIZE, staging=tmp_path / "staging")
    group = zarr.open_group(tmp_path / "c", mode="r+")
    del group.attrs["complete"]
    assert not is_complete(tmp_path / "c")


def test_lossy_stays_below_the_sky_noise(tmp_path, source, table) -> None:
    write_cutouts(tmp_path / "a", source, table, SIZE, staging=tmp_path / "s")
    write_cutouts(tmp_path / "b", source, table, SIZE, staging=tmp_path / "s", lossy=0.25)
    exact, lossy = open_cutouts(tmp_path / "a"), open_cutouts(tmp_path / "b")
    seen = exact.status != Status.NO_IMAGE
    step = lossy.extra["quantum"]
    assert (step[seen] <= 0.25 * exact.sky_sigma[seen]).all()
    assert (step[seen] > 0.12 * exact.sky_sigma[seen]).all()
    assert (step[~seen] == 0).all()
    a = np.concatenate([image for _, image in exact.chunks()])
    b = np.concatenate([image for _, image in lossy.chunks()])
    assert (np.abs(a - b).max(axis=(1, 2)) <= step / 2 * 1.001).all()

    def size(folder: Path) -> int:
        return sum(p.stat().st_size for p in (folder / "image").rglob("*") if p.is_file())

    assert size(tmp_path / "b") < 0.5 * size(tmp_path / "a")


def test_quanta_and_rounding() -> None:
    sigma = np.array([3.0, np.nan, 0.0, 8.0], np.float32)
    assert quanta(sigma, 0.25).tolist() == [0.5, 0.0, 0.0, 2.0]
    assert quanta(sigma, 0.0).tolist() == [0.0] * 4
    image = np.array([[[1.3, -1.3]], [[np.pi, 1e-9]]], np.float32)
    assert quantise(image, np.array([0.5, 0.0], np.float32)).tolist() == [
        [[1.5, -1.5]],
        image[1].tolist(),
    ]


def test_memory_is_a_shard_and_not_the_partition(tmp_path, source, table) -> None:
    big = pa.concat_tables([table] * 8)
    tracemalloc.start()
    write_cutouts(tmp_path / "c", source, big, 61, staging=tmp_path / "s", chunk=16)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 0.5 * big.num_rows * 61 * 61 * 4


@pytest.mark.parametrize("anew", [False, True])
def test_pixels_of_cutouts_that_were_removed_are_no_zeros(tmp_path, source, table, anew) -> None:
    """Of a chunk that is missing Zarr makes zeros, and a worker given up for dead may read on."""
    dest, staging = tmp_path / "o5-p1.zarr", tmp_path / "s"
    write_cutouts(dest, source, table, SIZE, staging=staging, chunk=10)
    store = open_cutouts(dest)
    chunks = store.chunks(10)
    next(chunks)
    discard(dest, staging)
    if anew:
        write_cutouts(dest, source, table, SIZE, staging=staging, chunk=10)
    with pytest.raises(FileNotFoundError, match="removed"):
        next(chunks)
    with pytest.raises(FileNotFoundError, match="removed"):
        store.one(3)
