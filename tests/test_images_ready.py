"""Cutouts that are ready, in a Zarr group as xarray writes it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from survey_gampen import storage
from survey_gampen.config import Settings
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.images.open import open_images
from survey_gampen.images.ready.group import ReadySource
from survey_gampen.images.status import Status
from survey_gampen.run.layout import RunDir
from survey_gampen.run.setup import open_inputs
from survey_gampen.survey import load_survey

SIZE = 31
HSC = load_survey("hsc-wide")


def stack(folder: Path | str, ids: np.ndarray, side: int = 41, **more: object) -> xr.Dataset:
    """Images whose middle pixel is the galaxy's place in the stack."""
    rng = np.random.default_rng(0)
    image = rng.normal(0, 0.1, (len(ids), side, side)).astype(np.float32)
    image[:, side // 2, side // 2] = np.arange(len(ids)) + 100
    data = xr.Dataset(
        {"image": (("object", "y", "x"), image)},
        coords={"object_id": ("object", ids)},
        attrs={"pixel_scale": 0.168, "zero_point": 27.0},
    ).assign(more)
    data.to_zarr(str(folder), zarr_format=3, consolidated=True)
    return data


@pytest.mark.parametrize(
    "ids",
    [
        np.array([5, 0, 2**63 - 1], np.int64),
        np.array([2**64 - 1, 0, 2**63], np.uint64),
        np.array(["a", "galaxy 7", "b"]),
    ],
)
def test_galaxies_are_found_by_name(tmp_path: Path, ids: np.ndarray) -> None:
    data = stack(tmp_path / "ready.zarr", ids)
    source = open_images(tmp_path / "ready.zarr", HSC, "g", 0.168)
    wanted = [*ids.tolist()[::-1], "nobody" if ids.dtype.kind == "U" else 77]
    found = {}
    for batch in source.cutouts(np.zeros(4), np.zeros(4), SIZE, wanted):
        found |= {int(i): (batch.image[k], batch.status[k]) for k, i in enumerate(batch.index)}
    assert sorted(found) == [0, 1, 2, 3]
    for place in range(3):
        image, status = found[place]
        inner = data["image"].to_numpy()[2 - place, 5:36, 5:36]
        np.testing.assert_allclose(image, inner * 57.544, rtol=1e-4)
        assert status == 0
    assert found[3][1] == Status.NO_IMAGE


def test_numbers_and_their_digits_are_the_same_name(tmp_path: Path) -> None:
    stack(tmp_path / "texts.zarr", np.array(["12", "-7", "0", "007", "a"]), 31)
    stack(tmp_path / "numbers.zarr", np.array([12, -7, 0, 3]), 31)
    texts = open_images(tmp_path / "texts.zarr", HSC, "g", 0.168)
    numbers = open_images(tmp_path / "numbers.zarr", HSC, "g", 0.168)
    assert isinstance(texts, ReadySource)
    assert isinstance(numbers, ReadySource)
    assert texts.has([12, 7, -7, 0]).tolist() == [True, False, True, True]
    asked = ["12", "-7", "0", "007", "3.0", "a", "", "18446744073709551628", "+3", " 3"]
    assert numbers.has(asked).tolist() == [True] * 3 + [False] * 7
    (batch,) = numbers.cutouts([0.0], [0.0], SIZE, ["-7"])
    assert batch.image[0, SIZE // 2, SIZE // 2] == pytest.approx(101 * 57.544, rel=1e-4)


def test_names_of_another_kind_are_refused_when_none_is_the_same(
    tmp_path: Path, make_catalog: Callable[..., Path]
) -> None:
    stack(tmp_path / "named.zarr", np.array(["HSC-1", "HSC-2"]), 31)
    stack(tmp_path / "padded.zarr", np.array(["003", "3"]), 31)
    stack(tmp_path / "numbers.zarr", np.array([100, 101]), 31)
    catalogs = {
        "numbers": make_catalog("numbers.parquet", 5),
        "text": make_catalog("text.parquet", 5, object_id=["x-1", "x-2", "x-3", "x-4", "x-5"]),
    }

    def open_both(ready: str, rows: str) -> None:
        settings = Settings(
            catalog=str(catalogs[rows]), images=str(tmp_path / ready), out=str(tmp_path / "run"),
            band="g",
        )  # fmt: skip
        open_inputs(settings, RunDir(tmp_path / "run"))

    for ready, rows in [("named.zarr", "numbers"), ("numbers.zarr", "text")]:
        with pytest.raises(InputError, match="none is the same"):
            open_both(ready, rows)
    open_both("padded.zarr", "numbers")  # one is
    open_both("numbers.zarr", "numbers")  # of one kind: galaxies without an image are no error


@pytest.mark.parametrize(
    ("side", "said"),
    [(239, None), (240, None), (200, "missing, padded"), (161, "more than half: no galaxy gets a")],
)
def test_images_smaller_than_the_frame_are_warned_of(
    tmp_path: Path, make_catalog: Callable[..., Path], side: int, said: str | None
) -> None:
    stack(tmp_path / "ready.zarr", np.array([100, 101]), side)
    settings = Settings(
        catalog=str(make_catalog("numbers.parquet", 5)), images=str(tmp_path / "ready.zarr"),
        out=str(tmp_path / "run"), band="g",
    )  # fmt: skip
    warnings = open_inputs(settings, RunDir(tmp_path / "run")).warnings()
    assert len(warnings) == (said is not None)
    assert said is None or said in warnings[0]
    source = open_images(tmp_path / "ready.zarr", HSC, "g", 0.168)
    (batch,) = source.cutouts(np.zeros(2), np.zeros(2), 239, [100, 101])
    hopeless = said is not None and "no galaxy" in said
    assert [bool(flags & Status.NO_DATA) for flags in batch.status] == [hopeless] * 2


def test_small_images_are_padded_and_bad_pixels_flagged(tmp_path: Path) -> None:
    mask = np.zeros((2, 21, 21), np.int32)
    mask[1, 3, 4] = 4
    stack(tmp_path / "ready.zarr", np.arange(2), 21, mask=(("object", "y", "x"), mask))
    source = open_images(str(tmp_path / "ready.zarr"), HSC, "g", 0.168)
    (batch,) = source.cutouts(np.zeros(2), np.zeros(2), SIZE, [0, 1])
    assert [bool(s & Status.EDGE) for s in batch.status] == [True, True]
    assert [bool(s & Status.BAD_PIXELS) for s in batch.status] == [False, True]
    assert np.isfinite(batch.image).all()


def test_a_band_is_chosen(tmp_path: Path) -> None:
    image = np.arange(2 * 3 * 33 * 33, dtype=np.float32).reshape(2, 3, 33, 33)
    data = xr.Dataset(
        {"image": (("object", "band", "y", "x"), image)},
        coords={"object_id": ("object", [1, 2]), "band": ["g", "r", "i"]},
        attrs={"pixel_scale": 0.168},
    )
    data["image"].attrs["units"] = "nJy"
    data.to_zarr(str(tmp_path / "bands.zarr"), zarr_format=3)
    source = open_images(tmp_path / "bands.zarr", load_survey("generic"), "r", 0.168)
    (batch,) = source.cutouts([0.0], [0.0], SIZE, [2])
    np.testing.assert_array_equal(batch.image[0], image[1, 1, 1:32, 1:32])
    with pytest.raises(InputError, match="no image in band y; there is g, r, i"):
        open_images(tmp_path / "bands.zarr", load_survey("generic"), "y", 0.168)


def test_it_may_lie_in_an_object_store(tmp_path: Path, bucket: str) -> None:
    stack(tmp_path / "ready.zarr", np.arange(3))
    storage.put_folder(tmp_path / "ready.zarr", storage.at(f"{bucket}/ready.zarr"))
    here = open_images(tmp_path / "ready.zarr", HSC, "g", 0.168)
    there = open_images(f"{bucket}/ready.zarr", HSC, "g", 0.168)
    (one,) = here.cutouts(np.zeros(3), np.zeros(3), SIZE, [2, 1, 0])
    (other,) = there.cutouts(np.zeros(3), np.zeros(3), SIZE, [2, 1, 0])
    np.testing.assert_array_equal(one.image, other.image)


def test_what_lacks_something_is_refused(tmp_path: Path) -> None:
    data = xr.Dataset({"image": (("object", "y", "x"), np.zeros((1, 9, 9), np.float32))})
    data.to_zarr(str(tmp_path / "poor.zarr"), zarr_format=3)
    with pytest.raises(InputError, match="no array 'object_id'"):
        open_images(tmp_path / "poor.zarr", HSC, "g", 0.168)
    with pytest.raises(InputError, match="no Zarr group"):
        open_images(tmp_path / "nothing.zarr", HSC, "g", 0.168)
    named = data.assign_coords(object_id=("object", [1]))
    named.to_zarr(str(tmp_path / "unitless.zarr"), zarr_format=3)
    with pytest.raises(InputError, match="pixel_scale"):
        open_images(tmp_path / "unitless.zarr", load_survey("generic"), "g", 0.168)


def test_a_group_that_is_gone_is_none_of_empty_images(tmp_path: Path) -> None:
    """Zarr makes zeros of chunks that are missing: those of a lost mount are nobody's pixels."""
    stack(tmp_path / "ready.zarr", np.arange(2))
    source = open_images(tmp_path / "ready.zarr", HSC, "g", 0.168)
    (tmp_path / "ready.zarr").rename(tmp_path / "away")
    with pytest.raises(OutsideFault, match="is gone: put it back, or mount it again"):
        list(source.cutouts(np.zeros(2), np.zeros(2), SIZE, [0, 1]))
    (tmp_path / "away").rename(tmp_path / "ready.zarr")
    (batch,) = source.cutouts(np.zeros(2), np.zeros(2), SIZE, [0, 1])
    assert not batch.status.any()
