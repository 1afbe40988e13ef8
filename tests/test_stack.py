"""Images of several bands: the same galaxies from all, whatever order their tiles give them in."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import xarray as xr
import zarr
from astropy.io import fits
from hypothesis import given
from hypothesis import strategies as st
from skytiles import SCALE, SURVEY, blob, crop, gather, noise, sky_wcs, write_tile

from survey_gampen.errors import InputError
from survey_gampen.images import Status, open_cutouts, open_images, write_cutouts
from survey_gampen.images.base import Cutouts
from survey_gampen.images.coverage import located
from survey_gampen.images.open import open_bands
from survey_gampen.images.stack import StackedSource
from survey_gampen.images.store import CHUNKS_A_SHARD
from survey_gampen.images.tiles.source import TileSource

SIZE = 31
BANDS = ("r", "g", "i")
NJY = 57.544


class Numbers:
    """A source whose pixels are the names of the galaxies, plus an offset; some have no image."""

    pixel_scale = SCALE

    def __init__(self, offset: float, groups: list[list[int]], gone: set[int]) -> None:
        self.offset, self.groups, self.gone, self.warnings = offset, groups, gone, ["mind"]

    def cutouts(self, ra, dec, size, object_id) -> Iterator[Cutouts]:
        """Each group of names together, in its order."""
        place = {name: i for i, name in enumerate(object_id)}
        assert [self.offset_of(name) for name in object_id] == list(ra)
        for group in self.groups:
            here = [name for name in group if name in place]
            if not here:
                continue
            batch = Cutouts.empty(np.array([place[name] for name in here]), size)
            batch.image += np.array(here, np.float32)[:, None, None] + self.offset
            batch.replaced[:] = False
            batch.replaced[:, 0, 0] = self.offset > 0
            batch.sky_sigma[:] = self.offset + np.array(here)
            batch.facts = {"tile": f"{self.offset}", "psf_fwhm": None, "pixel_scale": 0.2}
            lost = np.isin(here, list(self.gone))
            batch.status[lost] = int(Status.NO_IMAGE)
            batch.image[lost] = 0
            yield batch

    @staticmethod
    def offset_of(name: int) -> float:
        """The right ascension of a galaxy."""
        return name / 7


@st.composite
def grouped(draw: st.DrawFn) -> list[list[int]]:
    """Twelve galaxies in some order, cut into groups."""
    order = draw(st.permutations(range(12)))
    cuts = sorted(draw(st.sets(st.integers(1, 11), max_size=6)))
    return [order[a:b] for a, b in zip([0, *cuts], [*cuts, 12], strict=True)]


@given(st.lists(grouped(), min_size=3, max_size=3), st.permutations(range(12)), st.data())
def test_each_galaxy_has_its_own_pixels_in_each_band(groups, asked, data) -> None:
    gone = [data.draw(st.sets(st.integers(0, 11), max_size=3)) for _ in BANDS]
    sources = [Numbers(100.0 * k, groups[k], gone[k]) for k in range(3)]
    source = StackedSource(BANDS, sources)
    ra = np.array([Numbers.offset_of(name) for name in asked])
    seen = np.zeros(12, int)
    for batch in source.cutouts(ra, ra, 3, asked):
        seen[batch.index] += 1
        names = [asked[i] for i in batch.index]
        assert batch.image.shape == (len(names), 3, 3, 3)
        for row, name in enumerate(names):
            lost = [band for band, lacks in zip(BANDS, gone, strict=True) if name in lacks]
            for k in range(3):
                value = 0 if name in gone[k] else name + 100 * k
                assert (batch.image[row, k] == value).all()
                assert batch.sky_sigma[row, k] == name + 100 * k
                assert batch.facts["tile"][row, k] == f"{100.0 * k}"
            assert batch.status[row] == (int(Status.NO_IMAGE) if lost else 0)
            told = "; ".join(f"{band}: NO_IMAGE" for band in lost)
            assert batch.note[row] == (told or None)
            assert batch.replaced[row].sum() == 1  # of the two bands that have it
        assert np.isnan(batch.facts["psf_fwhm"]).all()
        assert (batch.facts["pixel_scale"] == np.float32(0.2)).all()
    assert (seen == 1).all()
    assert source.warnings == ["mind"]


@pytest.fixture
def mosaics() -> dict[str, np.ndarray]:
    """A sky in three bands, 380 px wide."""
    return {
        band: noise((200, 380), k) + blob((200, 380), 60, 80, 3, 100.0 * (k + 1))
        for k, band in enumerate(BANDS)
    }


@pytest.fixture
def folder(tmp_path: Path, mosaics) -> Path:
    """Two tiles in r, one in g that is shorter, one in i."""
    for band, x, width in (("r", 0, 200), ("r", 180, 200), ("g", 0, 300), ("i", 0, 380)):
        image = mosaics[band][:, x : x + width]
        path = tmp_path / "im" / f"{band}{x}.fits"
        told = {"FLUXMAG0": 10 ** (0.4 * 27.0), "FILTER": f"HSC-{band.upper()}", "PSF_FWHM": 0.6}
        write_tile(path, image, sky_wcs(x), primary=told)
    return tmp_path / "im"


def stacked(folder: Path) -> StackedSource:
    source = open_bands(str(folder), SURVEY, BANDS, SCALE, None)
    assert isinstance(source, StackedSource)
    return source


def at(*places: tuple[float, float]) -> tuple[np.ndarray, np.ndarray]:
    x, y = np.transpose(places)
    return sky_wcs().wcs_pix2world(x, y, 0)


def test_tiles_of_several_bands(folder: Path, mosaics) -> None:
    places = [(60, 80), (350, 100), (190, 100), (289, 100), (500, 500)]
    with closing(stacked(folder)) as source:
        ra, dec = at(*places)
        image, status, note = xy_gather(source, ra, dec)
        home = located(source, ra, dec, range(5))
        assert (home >= 0).tolist() == [True, False, True, True, False]  # g ends at 300
        reference = located(source.sources[0], ra, dec, range(5))
        assert (home[[0, 2, 3]] == reference[[0, 2, 3]]).all()
        assert source.footprints().num_rows == 4
        assert all(f"{band}: " in source.describe() for band in BANDS)
        other = StackedSource(BANDS[::-1], source.sources[::-1])
        assert other.inventory() != source.inventory() == stacked(folder).inventory()
    for row in (0, 2):
        for k, band in enumerate(BANDS):
            expected = crop(mosaics[band], *places[row], SIZE) * NJY
            np.testing.assert_allclose(image[row, k], expected, rtol=1e-5, atol=1e-5)
    edge, gone = Status.EDGE | Status.NO_DATA, Status.NO_IMAGE  # part of the central 5" is missing
    assert status.tolist() == [0, gone, 0, edge, gone]
    everywhere = "r: NO_IMAGE; g: NO_IMAGE; i: NO_IMAGE"
    assert note == [None, "g: NO_IMAGE", None, "g: NO_DATA", everywhere]


def xy_gather(source, ra, dec):
    """All batches as arrays in the order of the request: image, status, note."""
    n = len(ra)
    image, status = np.zeros((n, 3, SIZE, SIZE), np.float32), np.full(n, -1)
    note: list[str | None] = ["?"] * n
    for batch in source.cutouts(ra, dec, SIZE):
        image[batch.index], status[batch.index] = batch.image, batch.status
        for i, words in zip(batch.index, batch.note, strict=True):
            note[i] = words
    return image, status, note


def test_images_must_tell_their_band(folder: Path, tmp_path: Path) -> None:
    """Else one and the same image would be all bands."""
    assert {source.most_open for source in stacked(folder).sources} == {2}
    told = {"FLUXMAG0": 10 ** (0.4 * 27.0)}
    write_tile(folder / "nameless.fits", noise((50, 50)), sky_wcs(), primary=told)
    with pytest.raises(InputError, match="do not tell their band would be taken for each of r, g"):
        stacked(folder)
    for name in ("cutouts", "ready.zarr"):
        (tmp_path / name).mkdir()
    (tmp_path / "info.csv").write_text("object_id,file_name\n1,1.fits\n")
    write_tile(tmp_path / "cutouts" / "1.fits", noise((31, 31)), sky_wcs())
    ready = xr.Dataset(
        {"image": (("object", "y", "x"), np.zeros((2, 31, 31), np.float32))},
        coords={"object_id": ("object", [1, 2])},
    )
    ready.to_zarr(tmp_path / "ready.zarr", zarr_format=3, mode="w")
    for place in (tmp_path, tmp_path / "ready.zarr"):
        with pytest.raises(InputError, match="do not tell their band"):
            open_bands(str(place), SURVEY, BANDS, SCALE, None)


def test_a_band_without_images_is_named_with_all_that_are_needed(folder: Path) -> None:
    with pytest.raises(InputError, match=r"no image in band z; .* takes r, z together") as caught:
        open_bands(str(folder), SURVEY, ("r", "z"), SCALE, None)
    assert "--band" not in str(caught.value)


def test_one_band_is_not_stacked(folder: Path) -> None:
    alone = open_bands(str(folder), SURVEY, ("g",), SCALE, None)
    assert isinstance(alone, TileSource)
    ra, dec = at((60, 80))
    image, *_ = gather(alone, ra, dec, SIZE)
    wanted, *_ = gather(open_images(folder, SURVEY, "g", SCALE), ra, dec, SIZE)
    assert np.array_equal(image, wanted)


def test_planes_of_one_cube(tmp_path: Path, mosaics) -> None:
    cube = np.stack([mosaics[band] for band in ("g", "r", "i")])
    fits.PrimaryHDU(cube, sky_wcs().to_header()).writeto(tmp_path / "cube.fits")
    survey = replace(SURVEY, cube_bands=("g", "r", "i"))
    source = open_bands(str(tmp_path), survey, BANDS, SCALE, None)
    image, status, _ = xy_gather(source, *at((60, 80)))
    assert status.tolist() == [0]
    for k, band in enumerate(BANDS):
        expected = crop(mosaics[band], 60, 80, SIZE) * NJY
        np.testing.assert_allclose(image[0, k], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("lossy", [0.0, 0.25])
def test_the_store_has_an_axis_for_them(folder: Path, tmp_path: Path, lossy: float) -> None:
    source, dest = stacked(folder), tmp_path / "c.zarr"
    rng = np.random.default_rng(1)
    ra, dec = sky_wcs().wcs_pix2world(rng.uniform(0, 400, 40), rng.uniform(0, 200, 40), 0)
    table = pa.table({"object_id": np.arange(40) + 5, "ra": ra, "dec": dec})
    write_cutouts(dest, source, table, SIZE, staging=tmp_path / "s", chunk=8, lossy=lossy)
    image, status, note = xy_gather(source, ra, dec)
    store = open_cutouts(dest)
    assert (store.n, store.size) == (40, SIZE)
    assert store.status.tolist() == status.tolist()
    assert store.note == note
    pixels = np.concatenate([chunk for _, chunk in store.chunks(16)])
    assert pixels.shape == (40, 3, SIZE, SIZE)
    here = status == 0
    quantum = store.extra["quantum"]
    assert quantum.shape == store.sky_sigma.shape == store.pixel_scale.shape == (40, 3)
    if lossy:
        assert (quantum[here] > 0).all()
        assert np.abs(pixels - image).max() <= quantum.max() / 2
        assert not np.array_equal(pixels, image)
    else:
        assert np.array_equal(pixels, image)
    assert np.array_equal(store.one(3), pixels[3, 0])
    assert np.allclose(store.extra["psf_fwhm"][here], 0.6)
    assert store.extra["tile"][here][0].tolist()[1:] == ["g0.fits", "i0.fits"]

    data = xr.open_zarr(dest)
    assert data["image"].dims == ("object", "band", "y", "x")
    assert data["sky_sigma"].dims == ("object", "band")
    assert data["band"].values.tolist() == list(BANDS)
    assert np.array_equal(data["image"].sel(band="i").values, pixels[:, 2])
    # It is a group of ready images, too; and its writer holds no more than one of a single band.
    ready = open_bands(str(dest), SURVEY, BANDS, SCALE, None)
    again = np.zeros_like(pixels)
    for batch in ready.cutouts(ra, dec, SIZE, table["object_id"].to_pylist()):
        again[batch.index] = batch.image
    assert np.allclose(again[here], pixels[here], rtol=1e-5)
    shards = zarr.open_group(str(dest), mode="r")["image"].shards
    assert shards[0] * shards[1] <= CHUNKS_A_SHARD * 8
