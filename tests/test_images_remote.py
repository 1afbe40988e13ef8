"""Tiles of servers, object stores and trees: the same cutouts as from a folder, bit for bit."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.io import fits
from astropy.wcs import WCS
from faultyserver import PASSWORD, USER, Fault, FaultyServer, serving
from skytiles import SURVEY, gather, noise, write_tile
from smallrun import Sky, call, rows

from survey_gampen.catalog import open_catalog
from survey_gampen.errors import InputError, OutsideFault, UnreadableFile
from survey_gampen.images import Status, open_images
from survey_gampen.images.places import remote
from survey_gampen.images.tiles import open as places
from survey_gampen.images.tiles.skymap import RingsSkymap
from survey_gampen.net.waiting import Patience
from survey_gampen.report.scan import scan
from survey_gampen.survey import load_survey

SIZE = 41
#: Tracts of 3 x 3 patches of 130 pixels, on the sky as large as HSC's.
TABLE = {"pixel_scale": 15.0, "patch_inner": 130, "patch_border": 30}
SKYMAP = RingsSkymap(**TABLE)
TRACT = 9813
TREE = {
    "path": "deepCoadd-results/{band}/{tract}/{patch}/calexp-{band}-{tract}-{patch}.fits",
    "rerun": "pdr9_wide",
    "filters": {"g": "HSC-G", "r": "HSC-R"},
}
HSC = replace(SURVEY, name="hsc-test", pixel_scale=15.0, skymap=TABLE, tree=TREE)
#: Not in the survey.
MISSING = (2, 2)


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A release's folder: one tract without a patch, and one patch of the next tract."""
    top = tmp_path_factory.mktemp("tree") / "pdr9_wide"
    mosaic = noise((SKYMAP.side, SKYMAP.side))
    for x in range(3):
        for y in range(3):
            if (x, y) != MISSING:
                write_patch(top, "HSC-G", TRACT, (x, y), mosaic)
    write_patch(top, "HSC-G", TRACT + 1, (2, 1), noise((SKYMAP.side, SKYMAP.side), 1))
    return top


def write_patch(
    top: Path, band: str, tract: int, patch: tuple[int, int], mosaic: np.ndarray, comma: str = ","
) -> Path:
    x0, y0, nx, ny = SKYMAP.bounds(patch)
    wcs = WCS(fits.Header.fromstring(SKYMAP.wcs(tract, patch)))
    word = f"{patch[0]}{comma}{patch[1]}"
    path = top / "deepCoadd-results" / band / str(tract) / word
    path /= f"calexp-{band}-{tract}-{word}.fits"
    mask = (np.random.default_rng(x0 + y0).random((ny, nx)) < 0.001).astype(np.int32)
    image = mosaic[y0 : y0 + ny, x0 : x0 + nx]
    cards = {"FLUXMAG0": 10 ** (0.4 * 27.0), "FILTER": band}
    return write_tile(path, image, wcs, mask=mask, variance=True, primary=cards)


def positions(n: int = 60, seed: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Positions all over the tract and somewhat beyond."""
    x, y = np.random.default_rng(seed).uniform(-40, SKYMAP.side + 40, (2, n))
    x[:4] = [SKYMAP.side - 1, 0, 200, 190]
    bounds = SKYMAP.bounds((0, 0))
    wcs = WCS(fits.Header.fromstring(SKYMAP.wcs(TRACT, (0, 0))))
    ra, dec = wcs.wcs_pix2world(x - bounds.x0, y - bounds.y0, 0)
    return ra, dec


@pytest.fixture(autouse=True)
def quick(monkeypatch, tmp_path: Path) -> None:
    """A cache of the test's own, and little patience."""
    monkeypatch.setenv("SURVEY_GAMPEN_CACHE", str(tmp_path / "tiles"))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setattr(remote, "Patience", lambda: Patience(3.0, 0.01, 0.05))


@pytest.fixture(scope="module")
def expected(tree: Path) -> tuple[np.ndarray, ...]:
    """Cutouts from the folder, by the index of all headers."""
    source = open_images(tree, HSC, "g", 15.0)
    assert "9 images in" in source.describe()
    return gather(source, *positions(), SIZE)


def same(source, expected) -> None:
    got = gather(source, *positions(), SIZE)
    assert np.array_equal(got[1], expected[1])
    assert np.array_equal(got[0], expected[0])
    assert np.array_equal(got[3], expected[3])
    assert got[2] == expected[2]


def test_the_test_has_all_cases(expected) -> None:
    """Galaxies inside, on borders, on none; none of them a copy of another."""
    _, status, _, replaced = expected
    assert (status == Status.NO_IMAGE).sum() > 2
    assert ((status & Status.EDGE) != 0).sum() > 2
    assert ((status == 0) | (status == Status.BAD_PIXELS)).sum() > 20
    assert replaced.any()


# --- Trees ----------------------------------------------------------------------------------------


def test_a_large_folder_is_taken_as_a_tree(tree, expected, monkeypatch) -> None:
    monkeypatch.setattr(places, "MANY", 5)
    source = open_images(tree, HSC, "g", 15.0)
    assert "patches found by the sky map" in source.describe()
    same(source, expected)
    assert len(source.footprints()) == 9
    # The same release below another name of its parent: the same images.
    assert open_images(tree.parent, HSC, "g", 15.0).inventory() == source.inventory()
    assert open_images(tree, HSC, "r", 15.0).inventory() != source.inventory()


def test_patches_that_would_be_used_are_counted(tree, expected, monkeypatch, tmp_path) -> None:
    """Before a run, by the sky map as by an index: no header is read for it."""
    ra, dec = positions()
    catalog = tmp_path / "c.parquet"
    pq.write_table(pa.table({"object_id": np.arange(len(ra)), "ra": ra, "dec": dec}), catalog)
    by_index = scan(open_catalog(catalog), open_images(tree, HSC, "g", 15.0), 5, 0)
    monkeypatch.setattr(places, "MANY", 5)
    source = open_images(tree, HSC, "g", 15.0)
    by_map = scan(open_catalog(catalog), source, 5, 0)
    assert by_map.with_image == by_index.with_image == (expected[1] != Status.NO_IMAGE).sum()
    assert (by_index.images, by_map.images) == (9, None)
    assert by_map.images_touched == by_index.images_touched
    assert by_map.sample.equals(by_index.sample)
    assert not len(source.footprints())


@pytest.mark.parametrize("how", ["top", "parent", "word"])
def test_a_tree_over_http(tree, expected, how, tmp_path) -> None:
    with serving(tree.parent) as server:
        spec = {"top": f"{server.url}/pdr9_wide/", "parent": server.url, "word": "tree"}[how]
        survey = replace(HSC, tree={**TREE, "url": f"{server.url}/pdr9_wide"})
        source = open_images(spec, survey, "g", 15.0, tmp_path / "index")
        same(source, expected)
        assert not [one for one in server.gets() if one.path.endswith("HSC-G/")]  # not listed
        heads = [one.path for one in server.seen if one.method == "HEAD"]
        assert len(heads) == len(set(heads))
        worker = open_images(spec, survey, "g", 15.0, tmp_path / "index", frozen=True)
        assert worker.inventory() == source.inventory()
        downloads = len(server.gets("calexp"))
        same(worker, expected)
        assert len(server.gets("calexp")) == downloads  # the node has them


@pytest.mark.parametrize("place", ["folder", "server"])
@pytest.mark.parametrize("comma", [",", "%2C"])
def test_both_spellings_of_a_patch(tmp_path, place, comma, monkeypatch) -> None:
    """As it is, and as programs save what they got under an address."""
    monkeypatch.setattr(places, "MANY", 1)
    mosaic = noise((SKYMAP.side, SKYMAP.side))
    for patch in ((0, 0), (1, 0)):
        write_patch(tmp_path / "t", "HSC-G", TRACT, patch, mosaic, comma)
    ra, dec = positions_in((0, 0), (1, 0), (1, 1))
    with serving(tmp_path / "t") as server:
        spec = server.url if place == "server" else tmp_path / "t"
        source = open_images(spec, HSC, "g", 15.0)
        status = gather(source, ra, dec, 11)[1]
        assert ((status & Status.NO_IMAGE) != 0).tolist() == [False, False, True]
        if place == "server":
            last = [one.path for one in server.seen if "1,1" in one.path or "C1" in one.path]
            assert len(last) == 1  # which spelling it is was known by then


def positions_in(*patches: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The middles of some patches."""
    ra, dec = [], []
    for patch in patches:
        _, _, nx, ny = SKYMAP.bounds(patch)
        wcs = WCS(fits.Header.fromstring(SKYMAP.wcs(TRACT, patch)))
        there = wcs.wcs_pix2world(nx / 2, ny / 2, 0)
        ra.append(float(there[0]))
        dec.append(float(there[1]))
    return np.array(ra), np.array(dec)


def test_the_newer_filter_has_a_folder_of_its_own(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(places, "MANY", 1)
    mosaic = noise((SKYMAP.side, SKYMAP.side))
    write_patch(tmp_path, "HSC-R", TRACT, (0, 0), mosaic)
    write_patch(tmp_path, "HSC-R2", TRACT, (2, 2), mosaic)
    source = open_images(tmp_path, HSC, "r", 15.0)
    tiles = [b.facts["tile"] for b in source.cutouts(*positions_in((0, 0), (2, 2)), 11)]
    assert [Path(tile).parts[1] for tile in tiles] == ["HSC-R", "HSC-R2"]
    numbered = {**TREE, "patch": "number"}
    assert places.Template(replace(HSC, tree=numbered), "g", SKYMAP).spellings(2, 1, True) == ["5"]


def test_a_file_of_another_patch_is_told(tree, tmp_path) -> None:
    top = tmp_path / "pdr9_wide"
    shutil.copytree(tree, top)
    folder = top / "deepCoadd-results" / "HSC-G" / str(TRACT)
    wrong = folder / "1,1" / f"calexp-HSC-G-{TRACT}-1,1.fits"
    shutil.copy(folder / "1,0" / f"calexp-HSC-G-{TRACT}-1,0.fits", wrong)
    with serving(top) as server:
        source = open_images(server.url, HSC, "g", 15.0)
        with pytest.raises(UnreadableFile, match=r"is not that of tract 9813, patch 1,1") as caught:
            gather(source, *positions_in((1, 1)), 11)
        assert server.url in str(caught.value)
        # Mended there: the copy is not kept.
        shutil.copy(tree / wrong.relative_to(top), wrong)
        again = open_images(server.url, HSC, "g", 15.0)
        assert gather(again, *positions_in((1, 1)), 11)[1].tolist() in ([0], [Status.BAD_PIXELS])


@pytest.mark.parametrize("place", ["folder", "server"])
def test_a_tree_that_is_gone_is_no_empty_sky(tree, tmp_path, monkeypatch, place) -> None:
    monkeypatch.setattr(places, "MANY", 1)
    top = tmp_path / "mount" / "pdr9_wide"
    shutil.copytree(tree, top)
    with serving(top) as server:
        source = open_images(server.url if place == "server" else top, HSC, "g", 15.0)
        shutil.rmtree(top / "deepCoadd-results")
        with pytest.raises(OutsideFault, match="is gone: put it back, or mount it again"):
            gather(source, *positions_in((1, 1)), 11)


def good(source, *patches: tuple[int, int]) -> bool:
    """Whether the middles of some patches have an image."""
    status = gather(source, *positions_in(*patches), 11)[1]
    return bool((status & ~int(Status.BAD_PIXELS) == 0).all())


@pytest.mark.parametrize("again", ["same", "another"])
def test_a_server_that_lost_its_tree_for_a_while_loses_no_galaxy(tree, tmp_path, again) -> None:
    """What it did not have meanwhile is asked for again: by the process that asked, by another."""
    top = tmp_path / "pdr9_wide"
    shutil.copytree(tree, top)
    disk, away = top / "deepCoadd-results", tmp_path / "away"
    with serving(top) as server:
        source = open_images(server.url, HSC, "g", 15.0)
        # The tree has just been seen to stand, for a patch that is not in the survey.
        assert gather(source, *positions_in(MISSING), 11)[1].tolist() == [Status.NO_IMAGE]
        disk.rename(away)
        for _ in range(2):
            with pytest.raises(OutsideFault, match="is gone: put it back, or mount it again"):
                gather(source, *positions_in((1, 1)), 11)
        away.rename(disk)
        if again == "another":
            source = open_images(server.url, HSC, "g", 15.0)
        assert good(source, (1, 1))
        asked = len(server.seen)
        assert gather(source, *positions_in(MISSING), 11)[1].tolist() == [Status.NO_IMAGE]
        assert len(server.seen) == asked  # that is still known


def test_a_patch_that_went_for_a_while_is_not_lost(tree, tmp_path) -> None:
    """It was there when it was looked for and not when it was downloaded."""
    top = tmp_path / "pdr9_wide"
    shutil.copytree(tree, top)
    with serving(top) as server:
        server.faults = [Fault("404", where="1,1.fits", methods=("GET",))]
        with pytest.raises(OutsideFault, match=r"1,1\.fits is gone: put it back"):
            gather(open_images(server.url, HSC, "g", 15.0), *positions_in((1, 1)), 11)
        assert not server.faults
        assert good(open_images(server.url, HSC, "g", 15.0), (1, 1))


def test_a_patch_that_the_disk_does_not_give_is_not_missing(tree, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(places, "MANY", 1)
    top = tmp_path / "pdr9_wide"
    shutil.copytree(tree, top)
    (path,) = (top / "deepCoadd-results/HSC-G" / str(TRACT) / "1,1").iterdir()
    path.unlink()
    path.symlink_to(path)  # which no system follows
    source = open_images(top, HSC, "g", 15.0)
    assert good(source, (0, 0))
    with pytest.raises(UnreadableFile, match=r"1,1\.fits: cannot be read \(.*symbolic links"):
        gather(source, *positions_in((1, 1)), 11)


def test_a_broken_patch_concerns_its_own_galaxies(tree, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(places, "MANY", 1)
    top = tmp_path / "pdr9_wide"
    shutil.copytree(tree, top)
    path = next((top / "deepCoadd-results/HSC-G" / str(TRACT) / "1,1").iterdir())
    path.write_bytes(path.read_bytes()[:100_000])
    source = open_images(top, HSC, "g", 15.0)
    assert gather(source, *positions_in((0, 0)), 11)[1].tolist() in ([0], [Status.BAD_PIXELS])
    with pytest.raises(UnreadableFile, match=r"1,1\.fits: cannot be read"):
        gather(source, *positions_in((1, 1)), 11)


def test_profiles_that_cannot_find_patches(tmp_path) -> None:
    with pytest.raises(InputError, match=r"no \[tree\] with a url, or no \[skymap\]"):
        open_images("tree", SURVEY, "g")
    bad = replace(HSC, tree={"path": "{tract}/{patch}/{visit}.fits", "url": "http://127.0.0.1:9"})
    with pytest.raises(InputError, match="may hold"):
        open_images("tree", bad, "g")
    with serving(tmp_path) as server:
        empty = replace(HSC, tree={**TREE, "url": server.url})
        with pytest.raises(InputError, match="no coadds as profile hsc-test lays them out"):
            open_images("tree", empty, "g")


# --- Servers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("ranges", [True, False])
def test_a_folder_of_a_server(tree, expected, tmp_path, ranges) -> None:
    """Found by its links; headers are read in pieces where the server can."""
    with serving(tree) as server:
        server.ranges = ranges
        plain = replace(HSC, tree={}, skymap={})
        source = open_images(f"{server.url}/", plain, "g", 15.0, tmp_path / "index")
        assert f"9 images in {server.url}, band g" in source.describe()
        whole = [one for one in server.gets("calexp") if not one.range]
        assert len(whole) == (0 if ranges else 9)
        same(source, expected)
        asked = len(server.seen)
        worker = open_images(f"{server.url}/", plain, "g", 15.0, tmp_path / "index", frozen=True)
        assert len(server.seen) == asked
        same(worker, expected)
        assert worker.inventory() == source.inventory()
        one = f"{server.url}/deepCoadd-results/HSC-G/{TRACT}/1,1/calexp-HSC-G-{TRACT}-1,1.fits"
        for frozen in (False, True):
            single = open_images(one, plain, "g", 15.0, tmp_path / "index", frozen=frozen)
            got = gather(single, *positions_in((1, 1)), SIZE)
            wanted = gather(source, *positions_in((1, 1)), SIZE)
            assert np.array_equal(got[0], wanted[0])


def test_a_broken_file_of_a_server_that_sends_whole_ones_is_told(tree, tmp_path) -> None:
    """As one of a folder is: it keeps nobody from the others."""
    shutil.copytree(tree, tmp_path / "t")
    (tmp_path / "t" / "broken.fits").write_bytes(b"no FITS file" * 1000)
    with serving(tmp_path / "t") as server:
        server.ranges = False
        source = open_images(f"{server.url}/", replace(HSC, tree={}, skymap={}), "g", 15.0)
        (said,) = source.warnings
        assert "broken.fits: its header cannot be read (is no FITS file" in said
        assert good(source, (1, 1))


def test_a_login_that_was_good_at_planning(tree, monkeypatch) -> None:
    """At planning a missing login is the user's to give; later the run stops and can go on."""
    with serving(tree) as server:
        server.login = True
        with pytest.raises(InputError, match=r"wants a login \(401\): set SURVEY_GAMPEN_HSC_USER"):
            open_images(server.url, HSC, "g", 15.0)
        with pytest.raises(OutsideFault, match="wants a login"):
            open_images(server.url, HSC, "g", 15.0, frozen=True)
        monkeypatch.setenv("SURVEY_GAMPEN_HSC_USER", USER)
        monkeypatch.setenv("SURVEY_GAMPEN_HSC_PASSWORD", PASSWORD)
        source = open_images(server.url, HSC, "g", 15.0)
        server.faults = [Fault("401", where="calexp", times=100)]
        with pytest.raises(OutsideFault, match=r"refuses name and password \(401\)"):
            gather(source, *positions_in((1, 1)), 11)


def test_places_with_nothing(tmp_path) -> None:
    (tmp_path / "empty").mkdir()
    with serving(tmp_path) as server:
        for where, words in (("empty", "links to no FITS file"), ("none", "nothing there")):
            with pytest.raises(InputError, match=words):
                open_images(f"{server.url}/{where}/", SURVEY, "g")
        with pytest.raises(InputError, match="nothing there"):
            open_images(f"{server.url}/none.fits", SURVEY, "g")
    with pytest.raises(InputError, match="stands alone"):
        open_images(["https://example.org/x"], SURVEY, "g")


# --- Object stores --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def s3(tree: Path) -> Iterator[str]:
    """An S3-compatible server that holds the tree."""
    server_module = pytest.importorskip("moto.server")
    pytest.importorskip("s3fs")
    import boto3

    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test-secret")
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        patch.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        client = boto3.client("s3")
        client.create_bucket(Bucket="survey")
        for path in tree.rglob("*.fits"):
            key = f"pdr9_wide/{path.relative_to(tree).as_posix()}"
            client.put_object(Bucket="survey", Key=key, Body=path.read_bytes())
        yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def faulty_s3(s3: str, monkeypatch) -> Iterator[FaultyServer]:
    """A server between us and it that can do wrong."""
    with serving(upstream=s3) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        yield server


@pytest.mark.parametrize("how", ["tree", "index", "pattern"])
def test_an_object_store(s3, expected, tmp_path, how) -> None:
    survey = HSC if how == "tree" else replace(HSC, tree={}, skymap={})
    spec = "s3://survey/pdr9_wide" + ("/deepCoadd-results/*/*/*/*.fits" if how == "pattern" else "")
    source = open_images(spec, survey, "g", 15.0, tmp_path / "index")
    assert ("sky map" in source.describe()) == (how == "tree")
    same(source, expected)
    worker = open_images(spec, survey, "g", 15.0, tmp_path / "index", frozen=True)
    assert worker.inventory() == source.inventory()
    same(worker, expected)


def test_an_object_that_changes_is_another_inventory(s3, tmp_path) -> None:
    import boto3

    client = boto3.client("s3")
    client.create_bucket(Bucket="changing")
    write_tile(
        tmp_path / "a.fits", noise((60, 60)), WCS(fits.Header.fromstring(SKYMAP.wcs(1, (0, 0))))
    )
    content = (tmp_path / "a.fits").read_bytes()
    seen = []
    for body in (content, content, content.replace(b"HSC-G", b"HSC-R")):
        client.put_object(Bucket="changing", Key="a.fits", Body=body)
        seen.append(open_images("s3://changing", SURVEY, None, 15.0).inventory())
    assert seen[0] == seen[1] != seen[2]


@pytest.mark.parametrize("kind", ["503", "500", "429", "cut", "drop"])
def test_trouble_of_an_object_store_that_passes(faulty_s3, expected, kind) -> None:
    source = open_images("s3://survey/pdr9_wide", HSC, "g", 15.0)
    faulty_s3.faults = [Fault(kind, where="calexp", times=3)]
    same(source, expected)
    assert not faulty_s3.faults


def test_an_object_store_that_is_down(faulty_s3) -> None:
    source = open_images("s3://survey/pdr9_wide", HSC, "g", 15.0)
    faulty_s3.faults = [Fault("503", times=10_000)]
    with pytest.raises(OutsideFault, match="run the same command again"):
        gather(source, *positions_in((1, 1)), 11)


def test_an_object_store_that_refuses(faulty_s3) -> None:
    faulty_s3.faults = [Fault("403", times=10_000)]
    with pytest.raises(InputError, match="may not be read .*AWS_PROFILE") as caught:
        open_images("s3://survey/pdr9_wide", HSC, "g", 15.0)
    assert "test-secret" not in str(caught.value)


def test_a_bucket_with_nothing(s3) -> None:
    for spec in ("s3://survey/none", "s3://no-such-bucket/x"):
        with pytest.raises(InputError, match="no FITS files there"):
            open_images(spec, SURVEY, "g")
    with pytest.raises(InputError, match="write s3://BUCKET"):
        open_images("s3://", SURVEY, "g")


# --- Real files, and a whole run ------------------------------------------------------------------


def test_a_real_cutout_in_a_tree(realdata: Path, tmp_path) -> None:
    """Part of patch 3,7 of tract 9071: the sky map finds it, its pixels are those of the file."""
    from astropy.table import Table

    real = realdata / "hsc" / "slug_cutout-HSC-R-9071-s18a_wide.fits"
    table = {"pixel_scale": 0.168, "patch_inner": 4000, "patch_border": 100}
    hsc = replace(load_survey("hsc-wide"), skymap=table, tree=TREE)
    path = tmp_path / "deepCoadd-results/HSC-R/9071/3,7/calexp-HSC-R-9071-3,7.fits"
    path.parent.mkdir(parents=True)
    shutil.copy(real, path)
    sources = Table.read(realdata / "hsc" / "slug_test_source_HSC-R-9071.fits")
    ra, dec = np.array(sources["ra"], float), np.array(sources["dec"], float)
    wanted = gather(open_images(real, hsc, "r", 0.168), ra, dec, 239)
    with serving(tmp_path) as server:
        got = gather(open_images(server.url, hsc, "r", 0.168), ra, dec, 239)
    for mine, theirs in zip(got, wanted, strict=True):
        assert np.array_equal(mine, theirs)


@pytest.mark.slow
def test_a_run_over_http_is_the_run_over_files(sky: Sky, calm: Path, tmp_path) -> None:
    with serving(sky.images.parent) as server:
        server.faults = [Fault("429"), Fault("cut", where="calexp"), Fault("503", where="calexp")]
        words = sky.command(tmp_path / "out", "--keep-samples")
        words[words.index("--images") + 1] = f"{server.url}/images/"
        done = call(words)
        assert done.returncode == 0, done.stderr
        assert not server.faults
    assert rows(tmp_path / "out").equals(rows(calm))
