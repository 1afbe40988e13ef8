"""The verb `inspect`: what is said of catalogue, images and cost before any run."""

from __future__ import annotations

import itertools
import json
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hats.pixel_math.spatial_index import compute_spatial_index
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.image import imread
from networks import make_checkpoint, tiny
from skytiles import SCALE, SURVEY, blob, noise, sky_wcs, write_tile
from smallrun import Sky

from survey_gampen.catalog import open_catalog
from survey_gampen.catalog.hats_out import span
from survey_gampen.catalog.selection import Tally
from survey_gampen.cli import main
from survey_gampen.errors import InputError
from survey_gampen.images import Status, open_images
from survey_gampen.images.coverage import located
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.report import cells as covering
from survey_gampen.report import contact
from survey_gampen.report.cells import Cells, Images, cell_area, patches
from survey_gampen.report.cost import flop_per_pass
from survey_gampen.report.rowmap import row_map
from survey_gampen.report.scan import Scan, scan


def look(sky: Sky, *more: str) -> list[str]:
    """The command that inspects a small sky."""
    images, model = str(sky.images), str(sky.model)
    words = ["--images", images, "--survey", "hsc-wide", "--band", "g", "--model", model]
    return ["inspect", str(sky.catalog), *words, "--passes", "4", "--precision", "fp32", *more]


@pytest.mark.slow
def test_the_grey_scale_is_in_units_of_the_skys_noise() -> None:
    """Of a faint galaxy as of a bright one, whatever the unit of the pixels."""
    rng = np.random.default_rng(1)
    for sigma, peak in ((0.02, 8.0), (0.02, 4000.0), (3.0, 8.0)):
        image = rng.normal(0.1, 1.0, (101, 101))
        image[48:53, 48:53] += peak
        found = contact.in_noise(np.arcsinh(image * sigma).astype(np.float32))
        assert np.std(found[:40]) == pytest.approx(1.0, abs=0.05)
        assert np.median(found) == pytest.approx(0.0, abs=1e-6)
        assert found[48:53, 48:53].mean() == pytest.approx(peak, rel=0.05, abs=0.6)
    assert not contact.in_noise(np.zeros((5, 5), np.float32)).any()


def test_all_is_told_and_no_run_is_made(
    sky: Sky, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(path.name for path in sky.catalog.parent.iterdir())
    out = tmp_path / "a" / "look"
    assert main(look(sky, "--out", str(out))) == 0
    assert sorted(path.name for path in sky.catalog.parent.iterdir()) == before
    assert sorted(path.name for path in out.iterdir()) == ["cutouts.png", "inspect.json", "sky.png"]
    said = json.loads((out / "inspect.json").read_text())
    assert (said["rows"], said["rows_with_image"]) == (36, 35)
    assert (said["tiles"], said["tiles_touched"]) == (1, 1)
    assert said["cost"]["galaxies"] == 35
    assert said["cost"]["cutout_bytes"] == 35 * 4 * 239**2
    assert said["cost"]["keep_cutouts"] is True
    assert said["cost"]["seconds_per_galaxy"] > 0
    shown = said["contact_sheet"]
    # All but the one without an image, each once; one has a core of NaN.
    assert len({galaxy["object_id"] for galaxy in shown}) == 35
    assert sum("NO_DATA" in galaxy["flags"] for galaxy in shown) == 1
    assert any("EDGE" in galaxy["flags"] for galaxy in shown)
    for galaxy in shown:
        edge_or_hole = "EDGE" in galaxy["flags"] or "BAD_PIXELS" in galaxy["flags"]
        assert (galaxy["replaced"] > 0) == edge_or_hole
    console = capsys.readouterr().out
    for words in ("35 (97.22 %)", "1 of 1 hold", "deg²", "8 MB before compression", "not measured"):
        assert words in console
    assert str(out / "sky.png") in console
    assert not any(line.endswith(" ") for line in console.splitlines())
    for name in ("sky.png", "cutouts.png"):
        picture = imread(out / name)
        assert min(picture.shape[:2]) > 400
        assert picture[..., :3].std() > 0.05


@pytest.mark.slow
def test_the_same_again_and_beside_the_catalogue(
    sky: Sky, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    catalog = tmp_path / "few.parquet"
    pq.write_table(pq.read_table(sky.catalog), catalog)
    sixth = pq.read_table(catalog)["object_id"][5].as_py()
    words = look(sky, "--limit", "20", "--select", f"object_id != {sixth}")
    words[1] = str(catalog)
    folder = tmp_path / "few.inspect"
    assert main(words) == 0
    first = {name: (folder / name).read_bytes() for name in ("sky.png", "cutouts.png")}
    said = json.loads((folder / "inspect.json").read_text())
    assert said["rows"] == 20
    assert (said["rows_read"], said["rows_lost"]) == (21, {f"object_id != {sixth}": 1})
    assert f"1 lost by object_id != {sixth}" in capsys.readouterr().out
    assert main(words) == 0
    assert {name: (folder / name).read_bytes() for name in first} == first
    assert {path.name for path in tmp_path.iterdir()} == {"few.parquet", "few.inspect"}


def test_refusals_leave_nothing(
    sky: Sky, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(sky.catalog)
    bad = tmp_path / "bad.parquet"
    dec = table["dec"].to_numpy().copy()
    dec[3] = 91.0
    pq.write_table(table.set_column(2, "dec", pa.array(dec)), bad)
    words = look(sky)
    words[1] = str(bad)
    for more, said in (
        ([], "dec is outside -90 to 90 degrees in 1 row"),
        (["--out", str(bad)], "is a file: give --out a folder"),
        (["--select", "object_id < 0"], "no row passes --select"),
        (["--band", "r"], "no image in band r"),
        (["--model", "none"], "no model"),
    ):
        assert main([*words, *more]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
    assert list(tmp_path.iterdir()) == [bad]


def test_where_pictures_may_not_go(
    sky: Sky, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").touch()
    for place, said in ((str(tmp_path), "holds a run"), ("s3://b/x", "a folder of this machine")):
        assert main(look(sky, "--out", place)) == 2
        assert said in capsys.readouterr().err


@pytest.fixture
def tiles(tmp_path: Path) -> Path:
    """Two tiles side by side, a galaxy on each."""
    for k in range(2):
        image = noise((300, 300), k) + blob((300, 300), 150, 150, 4, 300)
        write_tile(tmp_path / "im" / f"{k}.fits", image, sky_wcs(290 * k))
    return tmp_path / "im"


def some_rows(x: list[float], y: list[float]) -> pa.Table:
    ra, dec = sky_wcs().wcs_pix2world(x, y, 0)
    return pa.table({"object_id": pa.array(range(len(x)), pa.int64()), "ra": ra, "dec": dec})


def test_frames_are_what_the_network_sees(tiles: Path) -> None:
    import torch

    checkpoint = make_checkpoint(tiny())
    source = open_images(tiles, SURVEY, "g", SCALE)
    rows = some_rows([150.0, 440.0, 25.0, 3000.0], [150.0, 150.0, 150.0, 0.0])
    shown = contact.frames(source, checkpoint, rows)
    assert [frame.object_id for frame in shown] == [0, 1, 2, 3]
    assert [frame.status for frame in shown] == [0, 0, int(Status.EDGE), int(Status.NO_IMAGE)]
    assert shown[0].replaced == 0
    assert 0.25 < shown[2].replaced < 0.3
    assert shown[3].crop is None
    size = checkpoint.config.size
    for batch in source.cutouts(rows["ra"].to_numpy(), rows["dec"].to_numpy(), size):
        for place, image in zip(batch.index, batch.image, strict=True):
            assert np.array_equal(shown[place].seen, np.arcsinh(image / np.float32(57.544))) or (
                np.allclose(shown[place].seen, np.arcsinh(image / 57.544), atol=1e-6)
            )
    # Pixels sampled at the corners' own places are the corners of the crop.
    network = checkpoint.network
    ramp = torch.stack(torch.meshgrid(*[torch.arange(size) * 1.0] * 2, indexing="ij"))
    theta = network.localisation(torch.from_numpy(shown[0].seen)[None, None])
    y, x = network.crop(ramp[:, None], theta.expand(2, 2, 3))[:, 0].detach().numpy()
    corners = shown[0].crop
    assert corners is not None
    middle = corners.mean(axis=0)
    assert np.allclose(middle, [x[size // 2, size // 2], y[size // 2, size // 2]], atol=1e-3)
    # Two pixels inwards, where nothing beyond the border has its say.
    step = (corners[2] - corners[0]) / size
    inside = corners[0] + 30.5 * step
    assert np.allclose(inside, [x[30, 30], y[30, 30]], atol=1e-3)


def test_a_broken_file_concerns_its_own_galaxies(tiles: Path) -> None:
    source = open_images(tiles, SURVEY, "g", SCALE)
    path = tiles / "1.fits"
    path.write_bytes(path.read_bytes()[:20_000])
    rows = some_rows([440.0, 150.0], [150.0, 150.0])
    broken, good = contact.frames(source, make_checkpoint(tiny()), rows)
    assert broken.status == int(Status.BAD_CUTOUT)
    assert broken.note is not None
    assert "1.fits" in broken.note
    assert (good.status, good.note) == (0, None)
    assert good.crop is not None


def test_nobody_to_show(tiles: Path) -> None:
    checkpoint = make_checkpoint(tiny())
    nobody = contact.frames(open_images(tiles, SURVEY, "g", SCALE), checkpoint, some_rows([], []))
    assert nobody == []
    assert contact.contact_sheet(nobody, checkpoint, "g").startswith(b"\x89PNG")


def test_flags_fit_below_a_picture() -> None:
    every = [str(flag.name) for flag in Status]
    line = contact._fitting(every)
    assert len(line) < 45
    assert line.endswith(" +6")
    assert contact._fitting(["EDGE", "SATURATED"]) == "EDGE, SATURATED"
    assert contact._fitting([]) == " "
    assert contact._short("x" * 40, 24) == "x" * 11 + "…" + "x" * 11


class Service:
    """A source that must be asked for each cutout."""

    pixel_scale, warnings = SCALE, ()

    def footprints(self) -> pa.Table:
        return pa.table({"tile": pa.array([], pa.string())})


def test_what_nobody_knows_is_not_told(sky: Sky) -> None:
    found = scan(open_catalog(sky.catalog), Service(), 5, 0)  # type: ignore[arg-type]
    assert (found.rows, found.with_image, found.images, found.images_touched) == (36,) + (None,) * 3
    assert found.sample.num_rows == 5
    assert set(patches(found.cells, False, 100).values()) == {Images.UNKNOWN}
    assert row_map(found).startswith(b"\x89PNG")


def test_the_sample_goes_by_the_seed_and_not_by_the_order(sky: Sky, tmp_path: Path) -> None:
    table = pq.read_table(sky.catalog)
    turned = tmp_path / "turned.parquet"
    pq.write_table(table.take(pa.array(range(table.num_rows)[::-1])), turned)
    source = open_images(sky.images, SURVEY, "g", SCALE)

    def ids(catalog: Path, seed: int) -> list[int]:
        return scan(open_catalog(catalog), source, 6, seed).sample["object_id"].to_pylist()

    assert ids(sky.catalog, 0) == ids(turned, 0)
    assert len({tuple(ids(sky.catalog, seed)) for seed in range(5)}) == 5
    chosen = Counter(name for seed in range(200) for name in ids(sky.catalog, seed))
    assert len(chosen) == 35  # all that have an image
    assert max(chosen.values()) < 80  # 34 are expected: nobody is a favourite


def test_where_a_galaxy_lies_is_known_without_pixels(tiles: Path, tmp_path: Path) -> None:
    rows = some_rows([150.0, 440.0, 3000.0], [150.0, 150.0, 0.0])
    ra, dec = rows["ra"].to_numpy(), rows["dec"].to_numpy()
    source = open_images(tiles, SURVEY, "g", SCALE)
    home = located(source, ra, dec, [1, 2, 3])
    assert home is not None
    assert source.footprints()["tile"].take(pa.array(home[:2])).to_pylist() == ["0.fits", "1.fits"]
    assert home[2] == -1
    folder = tmp_path / "gampen"
    write_tile(folder / "cutouts" / "7.fits", noise((50, 50)), sky_wcs())
    (folder / "info.csv").write_text("object_id\n7\n8\n")
    one_each = open_images(folder, SURVEY, "g", SCALE)
    there = located(one_each, ra, dec, [7, 8, 9])
    assert there is not None
    assert there.tolist() == [0, -1, -1]


PLACES = st.lists(st.tuples(st.integers(0, 12 * 4**4 - 1), st.booleans()), min_size=1, max_size=200)


@given(PLACES, st.integers(1, 40))
def test_patches_are_the_occupied_cells(places: list[tuple[int, bool]], most: int) -> None:
    """In whatever pixels they are drawn: the same part of the sky, and the right kind."""
    index = np.array([place << 2 * 25 for place, _ in places])
    seen = np.array([flag for _, flag in places])
    cells = Cells(most=64)
    cells.add(index, seen)
    pixels = patches(cells, True, most)
    ordered = sorted(span(pixel) for pixel in pixels)
    assert all(one[1] <= other[0] for one, other in itertools.pairwise(ordered))
    for pixel, kind in pixels.items():
        low, high = span(pixel)
        inside = seen[(index >= low) & (index < high)]
        assert inside.size
        wanted = Images.ALL if inside.all() else Images.SOME if inside.any() else Images.NONE
        assert kind == wanted
    inside_any = sum(((index >= low) & (index < high)).sum() for low, high in ordered)
    assert inside_any == len(index)


def test_the_area_of_a_square() -> None:
    """Ten square degrees, whatever the density, and where all cells don't fit as well."""
    rng = np.random.default_rng(0)
    for n, most in ((3_000, 1 << 20), (100_000, 1 << 20), (100_000, 800)):
        cells = Cells(most=most)
        for _ in range(4):
            ra, dec = rng.uniform(150, 150 + np.sqrt(10), n), rng.uniform(-1.58, 1.58, n)
            cells.add(compute_spatial_index(ra, dec), np.ones(n, bool))
        # No cell inside is empty; of those at the border some part lies outside.
        border = 4 * np.sqrt(10) * covering.cell_side(cells.order)
        assert 9.98 < cells.area < 10 + 1.2 * border
        assert cells.order >= 6
        assert len(cells.at(cells.order)[0]) <= most
    alone = Cells()
    alone.add(np.array([12345]), np.array([True]))
    assert alone.order == 0
    assert alone.area == pytest.approx(41252.96 / 12)
    assert covering.cell_side(0) == pytest.approx(np.sqrt(cell_area(0)))


def test_maps_of_all_sizes() -> None:
    """One place, and places all around the sky with a pole among them."""
    for ra, dec in (([10.0], [0.0]), ([10.0, 200.0, 359.9, 0.1], [89.9, -40.0, 5.0, 5.0])):
        cells = Cells()
        index = compute_spatial_index(np.repeat(ra, 20), np.repeat(dec, 20))
        cells.add(index, np.arange(len(index)) % 3 == 0)
        sample = pa.table({"object_id": range(len(ra)), "ra": ra, "dec": dec})
        assert row_map(Scan(20, Tally(), 3, 1, 1, cells, sample)).startswith(b"\x89PNG")


def test_operations_of_a_pass() -> None:
    """Two for each weight and place that it is used at: what docs/performance.md counts."""
    checkpoint = make_checkpoint(tiny())
    wanted = sum(
        2 * block.weight_layer.weight.numel() * int(np.prod(block.input_shape[1:]))
        for block in checkpoint.network.blocks
    )
    assert flop_per_pass(checkpoint) == wanted
    shipped = load_checkpoint("survey")
    assert 1000 * flop_per_pass(shipped) == pytest.approx(1.363e12, rel=1e-3)
    everywhere = make_checkpoint(tiny(dropout="everywhere"))
    assert flop_per_pass(everywhere) > 1.1 * wanted


def test_no_rows_no_table(sky: Sky) -> None:
    catalog = open_catalog(sky.catalog, select="object_id < 0")
    with pytest.raises(InputError, match="no row passes --select"):
        scan(catalog, Service(), 5, 0)  # type: ignore[arg-type]
