"""Groups of Zarr in an object store: two writers never mix, and nobody reads half of one."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import zarr
from skytiles import SCALE, SURVEY, noise, sky_wcs, write_tile

from survey_gampen import commit, generations, storage
from survey_gampen.generations import open_group, publish_group, remove_group
from survey_gampen.images import is_complete, open_cutouts, open_images, write_cutouts

N = 40


@pytest.fixture
def final(bucket: str) -> Path:
    return storage.at(f"{bucket}/{uuid.uuid4().hex}/cutouts/o5-p1.zarr")


def writer(value: float) -> commit.Writer:
    """Of a group with ten chunks that all hold one value."""

    def write(folder: Path) -> None:
        group = zarr.open_group(folder, mode="w", zarr_format=3)
        data = np.full(N, value)
        group.create_array("image", data=data, chunks=(N // 10,), fill_value=0.0)
        zarr.consolidate_metadata(group.store)
        group.attrs["of"] = value
        group.attrs["complete"] = True

    return write


@pytest.fixture
def halfway(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], object]], None]:
    """Let something happen once, when the next writer has put half of its group."""
    put = storage.put_folder

    def arrange(happens: Callable[[], object]) -> None:
        def put_half(source: Path, place: Path) -> None:
            monkeypatch.setattr(storage, "put_folder", put)
            files = sorted(path for path in source.rglob("*") if path.is_file())
            for path in files[: len(files) // 2]:
                storage.put(path, place / path.relative_to(source).as_posix())
            happens()
            put(source, place)

        monkeypatch.setattr(storage, "put_folder", put_half)

    return arrange


def test_a_writer_that_is_late_changes_nothing(
    final: Path, halfway: Callable[..., None], tmp_path: Path
) -> None:
    halfway(lambda: publish_group(final, writer(2.0), tmp_path / "new"))
    assert not publish_group(final, writer(1.0), tmp_path / "late")
    group = open_group(final)
    assert group.attrs["of"] == 2.0
    assert group["image"][:].tolist() == [2.0] * N
    assert set(storage.names_in(final)) == {"zarr.json", generations.generation(final)}
    assert is_complete(final, of=2.0)
    assert not publish_group(final, writer(3.0), tmp_path / "new")


def test_one_that_is_late_to_remove_takes_nothing_from_a_writer(
    final: Path, halfway: Callable[..., None], tmp_path: Path
) -> None:
    assert publish_group(final, writer(1.0), tmp_path)
    remove_group(final)
    assert not final.exists()
    halfway(lambda: remove_group(final))
    assert publish_group(final, writer(2.0), tmp_path)
    assert open_group(final)["image"][:].tolist() == [2.0] * N


def test_a_writer_that_was_killed_is_in_nobodys_way(
    final: Path, halfway: Callable[..., None], tmp_path: Path
) -> None:
    def die() -> None:
        raise RuntimeError("killed")

    halfway(die)
    with pytest.raises(RuntimeError, match="killed"):
        publish_group(final, writer(1.0), tmp_path)
    assert final.exists()
    assert not is_complete(final)
    with pytest.raises(FileNotFoundError):
        open_group(final)
    assert publish_group(final, writer(2.0), tmp_path)
    assert open_group(final)["image"][:].tolist() == [2.0] * N
    remove_group(final)
    assert not is_complete(final)
    assert publish_group(final, writer(3.0), tmp_path)
    assert open_group(final)["image"][:].tolist() == [3.0] * N


def test_groups_from_before_there_were_generations(final: Path, tmp_path: Path) -> None:
    writer(1.0)(tmp_path / "group")
    storage.put_folder(tmp_path / "group", final)
    assert is_complete(final, of=1.0)
    assert open_group(final)["image"][:].tolist() == [1.0] * N
    assert not publish_group(final, writer(2.0), tmp_path / "staging")
    remove_group(final)
    assert not final.exists()


def test_cutouts_that_are_removed_while_they_are_read_are_no_zeros(
    final: Path, tmp_path: Path
) -> None:
    write_tile(tmp_path / "im" / "0.fits", noise((200, 200), 0), sky_wcs())
    source = open_images(tmp_path / "im", SURVEY, "g", SCALE)
    x, y = np.random.default_rng(0).uniform(20, 180, (2, N))
    ra, dec = sky_wcs().wcs_pix2world(x, y, 0)
    table = pa.table({"object_id": np.arange(N), "ra": ra, "dec": dec})

    def write(images: str) -> None:
        write_cutouts(
            final, source, table, 21, staging=tmp_path / "s", chunk=8,
            attributes={"images": images},
        )  # fmt: skip

    write("old")
    store = open_cutouts(final, images="old")
    chunks = store.chunks(20)
    _, first = next(chunks)
    assert first.any(axis=(1, 2)).all()
    assert np.array_equal(store.one(3), first[3])
    with pytest.raises(FileNotFoundError, match="no complete cutouts"):
        open_cutouts(final, images="new")
    remove_group(final)
    write("new")
    with pytest.raises(FileNotFoundError, match="removed while"):
        next(chunks)
    with pytest.raises(FileNotFoundError, match="removed while"):
        store.one(3)
    assert open_cutouts(final, images="new").n == N
