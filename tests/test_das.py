"""HSC's cutout service, against a server on this machine that speaks its protocol."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from astropy.io import fits
from dasserver import DasServer, Sky, fits_bytes
from skytiles import SURVEY, crop, gather, write_tile
from smallrun import environment

from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.images import open_images
from survey_gampen.images.pixels.single import Seen
from survey_gampen.images.services.answers import Answer
from survey_gampen.images.services.collect import Ask, Member, judge
from survey_gampen.images.services.das import HEADER, LINES, Das
from survey_gampen.images.services.http import Manners
from survey_gampen.images.services.open import is_service, open_service
from survey_gampen.images.services.source import ServiceSource, fetched
from survey_gampen.images.stack import StackedSource
from survey_gampen.images.status import Status
from survey_gampen.net.waiting import Backoff, CutOff, Patience
from survey_gampen.survey import load_survey

SIZE = 21
QUICK = Manners(patience=Patience(20.0, 0.01, 0.05))
NJY = 10 ** (0.4 * (31.4 - 27.0))


@pytest.fixture(scope="module")
def sky() -> Sky:
    return Sky()


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURVEY_GAMPEN_HSC_USER", DasServer.user)
    monkeypatch.setenv("SURVEY_GAMPEN_HSC_PASSWORD", DasServer.password)


def source(server: DasServer, cache: Path | None = None, **options: Any) -> ServiceSource:
    return open_service(server.spec, SURVEY, "g", None, cache, manners=QUICK, **options)


def galaxies(
    sky: Sky, n: int, seed: int = 1, low: float = 15.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Pixels and positions, `low` pixels at least from the border."""
    rng = np.random.default_rng(seed)
    ny, nx = sky.image.shape
    x, y = rng.uniform(low, nx - 1 - low, n), rng.uniform(low, ny - 1 - low, n)
    return x, y, *sky.wcs.all_pix2world(x, y, 0)


def test_the_list_is_what_the_service_reads(sky: Sky) -> None:
    _, _, ra, dec = galaxies(sky, 7)
    with DasServer(sky) as server:
        gather(source(server), ra, dec, SIZE)
        (lines,) = server.lists
    assert lines[0] == HEADER
    assert len(lines) == 8
    words = lines[1].split()
    assert words[:4] == ["pdr3_wide", "coadd", "HSC-G", "any"]
    assert words[-3:] == ["true", "true", "false"]
    half = float(words[6].removesuffix("asec"))
    assert SIZE / 2 * 0.168 < half < (SIZE / 2 + 4) * 0.168
    asked = [[float(word.removesuffix("deg")) for word in line.split()[4:6]] for line in lines[1:]]
    assert np.allclose(sorted(asked), sorted(zip(ra, dec, strict=True)), rtol=0, atol=1e-9)


def test_requests_are_cut_and_follow_the_sky(sky: Sky, monkeypatch: pytest.MonkeyPatch) -> None:
    assert LINES == 990
    monkeypatch.setattr(Das, "lines", 20)
    _, _, ra, dec = galaxies(sky, 100)
    ra, dec = np.append(ra, ra[:5]), np.append(dec, dec[:5])  # twice in the catalogue: asked once
    with DasServer(sky) as server:
        gather(source(server), ra, dec, SIZE)
        lists = [lines[1:] for lines in server.lists]
    assert [len(lines) for lines in lists] == [20] * 5
    apart = []
    for lines in lists:
        where = np.array([[float(w[:-3]) for w in line.split()[4:6]] for line in lines])
        apart.append(np.linalg.norm(np.diff(where, axis=0), axis=1))
    rows = np.stack([ra[:100], dec[:100]], axis=1)
    anyhow = np.linalg.norm(np.diff(rows, axis=0), axis=1)
    assert np.concatenate(apart).mean() < 0.3 * anyhow.mean()


def test_cutouts_are_those_from_the_tile_itself(sky: Sky, tmp_path: Path) -> None:
    x, y, ra, dec = galaxies(sky, 30, low=-8)
    x[:4], y[:4] = [0, 1999, 400, 403], [700, 1499, 701, 690]  # corners, and on bad pixels
    ra, dec = sky.wcs.all_pix2world(x, y, 0)
    planes = {"BAD": 0, "SAT": 1}
    write_tile(
        tmp_path / "tiles" / "calexp-HSC-G.fits", sky.image, sky.wcs, mask=sky.mask, planes=planes,
        variance=True,
    )  # fmt: skip
    tiles = open_images(tmp_path / "tiles", SURVEY, "g", variance=True)
    for scale in (None, 0.25):
        tiles.pixel_scale = scale or 0.168
        with DasServer(sky) as server:
            service = open_service(
                server.spec, SURVEY, "g", scale, None, variance=True, manners=QUICK
            )
            found, wanted = gather(service, ra, dec, SIZE), gather(tiles, ra, dec, SIZE)
            (batch,) = service.cutouts(ra[:1], dec[:1], SIZE)
        assert (found[1] == wanted[1]).all()
        assert {int(s) for s in found[1]} >= {0, int(Status.BAD_PIXELS)}
        assert (found[1] & int(Status.EDGE)).any()
        # The scale is measured in the middle of the file: it differs by 1e-6 where it varies.
        exact = scale is None
        assert (
            np.array_equal(found[0], wanted[0])
            if exact
            else np.allclose(found[0], wanted[0], atol=0.01)
        )
        assert np.array_equal(found[3], wanted[3])
        assert batch.variance is not None
        assert batch.facts["tile"] == "HSC-G-9813-pdr3_wide"
        assert batch.facts["zero_point_from"] == "FLUXMAG0"


def test_where_the_survey_is_not(sky: Sky) -> None:
    ra, dec = sky.wcs.all_pix2world([100.0, 5000.0, -8.0, 300.0], [100.0, 5000.0, 100.0, 300.0], 0)
    ra[3] = np.nan
    with DasServer(sky) as server:
        image, status, _, _ = gather(source(server), ra, dec, SIZE)
        assert len(server.lists[0]) == 4  # the one without a position is not asked for
    # The third has a member that does not reach it.
    assert status.tolist() == [0, *[int(Status.NO_IMAGE)] * 3]
    assert not image[1:].any()


@pytest.mark.slow
def test_3000_objects_with_faults_arrive_once_and_the_rest_is_flagged(
    sky: Sky, tmp_path: Path
) -> None:
    n = 3000
    x, y, ra, dec = galaxies(sky, n)
    x[: n // 20] += 5000  # 5 % are off the survey
    ra, dec = sky.wcs.all_pix2world(x, y, 0)
    rng = np.random.default_rng(5)
    kinds = ["band", "place", "junk", "long"]
    once = {galaxy: kinds[k % 4] for k, galaxy in enumerate(rng.permutation(n)[: n // 20])}
    always = {galaxy: kinds[k % 4] for k, galaxy in enumerate(range(n - 8, n))}
    number = {(f"{a:.10f}", f"{d:.10f}"): i for i, (a, d) in enumerate(zip(ra, dec, strict=True))}

    def wrong(a: float, d: float, before: int) -> str:
        galaxy = number[f"{a:.10f}", f"{d:.10f}"]
        return always.get(galaxy) or ("" if before else once.get(galaxy, ""))

    faults = [
        "503",
        "cut",
        "429",
        "cut-between",
        "",
        "401",
        "slow",
        "stray",
        "503",
        "garbage",
        "cut",
    ]
    with DasServer(sky, faults, wrong) as server:
        image, status, note, _ = gather(source(server, tmp_path), ra, dec, SIZE)
        assert not server.faults, "not all faults came up"
        sent = np.array([server.sent[float(f"{a:.10f}"), float(f"{d:.10f}")]
                         for a, d in zip(ra, dec, strict=True)])  # fmt: skip
        assert server.most == 1
        assert len(server.posts) < 30
    off = x > 4000
    bad = np.isin(np.arange(n), list(always))
    assert (status[off] == int(Status.NO_IMAGE)).all()
    assert (status[bad & ~off] == int(Status.BAD_CUTOUT)).all()
    assert {str(note[i]).partition("(")[0] for i in always if not off[i]} >= {
        "the answer is of band i, not g",
        "the answer shows another place of the sky",
        "the answer is no image ",
    }
    good = ~off & ~bad
    assert (status[good] & ~int(Status.BAD_PIXELS) == 0).all()
    # What came once was not sent again, but for the last one before each of three cuts.
    assert (sent[good] >= 1).all()
    assert sent[good].sum() <= good.sum() + 3
    for i in np.nonzero(good & (status == 0))[0][::37]:
        wanted = crop(sky.image, int(np.floor(x[i] + 0.5)), int(np.floor(y[i] + 0.5)), SIZE)
        assert np.allclose(image[i], wanted * NJY, rtol=1e-6)
    assert not list(tmp_path.rglob("*.tar*"))


@pytest.mark.parametrize("fault", ["cut", "cut-between"])
def test_what_came_whole_is_kept_when_an_answer_is_cut_off(sky: Sky, fault: str) -> None:
    _, _, ra, dec = galaxies(sky, 20)
    with DasServer(sky, [fault]) as server:
        _, status, _, _ = gather(source(server), ra, dec, SIZE)
        # All but the last: it might have had another image, of another tract.
        assert [len(lines) - 1 for lines in server.lists] == [20, 13]
        assert sorted(server.sent.values()) == [1] * 19 + [2]
    assert not status.any()


def test_a_service_that_never_ends_an_answer_stops_the_run(sky: Sky) -> None:
    _, _, ra, dec = galaxies(sky, 2)
    hasty = replace(QUICK, patience=Patience(0.3, 0.01, 0.05))
    with DasServer(sky, ["garbage"] * 1000) as server:
        one = open_service(server.spec, SURVEY, "g", None, None, manners=hasty)
        with pytest.raises(OutsideFault, match="cut off"):
            gather(one, ra, dec, SIZE)


def test_a_page_is_no_answer(sky: Sky) -> None:
    with (
        DasServer(sky, ["html"]) as server,
        pytest.raises(InputError, match="answers with a page"),
    ):
        gather(source(server), [150.0], [2.2], SIZE)


def test_answers_are_kept_until_the_block_ends_well(sky: Sky, tmp_path: Path) -> None:
    _, _, ra, dec = galaxies(sky, 10)
    with DasServer(sky) as server:
        one = source(server, tmp_path)
        with contextlib.suppress(ZeroDivisionError), fetched(one, ra, dec, SIZE) as near:
            gather(near, ra[:3], dec[:3], SIZE)
            _ = 1 / 0
        (kept,) = tmp_path.rglob("*.tar")
        assert Answer(kept).places == 10
        kept.write_bytes(kept.read_bytes()[:5000])  # a broken one is asked for again
        for again in range(2):
            with fetched(one, ra, dec, SIZE) as near:
                gather(near, ra[3:], dec[3:], SIZE)
                gather(near, ra[:3], dec[:3], SIZE)
            assert not list(tmp_path.rglob("*.tar*"))
            assert len(server.posts) == 2 + again
        # Another source of images is not touched by it.
        with fetched(near, ra, dec, SIZE) as same:
            assert same is near


def test_each_of_several_bands_is_asked_for_at_once(sky: Sky, tmp_path: Path) -> None:
    _, _, ra, dec = galaxies(sky, 10)
    with DasServer(sky) as server:
        bands = ("g", "r")
        both = [
            open_service(server.spec, SURVEY, band, None, tmp_path, manners=QUICK) for band in bands
        ]
        with fetched(StackedSource(bands, both), ra, dec, SIZE) as near:
            for part in (slice(0, 4), slice(4, 10)):
                for batch in near.cutouts(ra[part], dec[part], SIZE):
                    assert batch.image.shape == (1, 2, SIZE, SIZE)
                    assert (batch.image[:, 0] != 0).any()
        asked = [{line.split()[2] for line in lines[1:]} for lines in server.lists]
    assert sorted(map(sorted, asked)) == [["HSC-G"], ["HSC-R"]]
    assert not list(tmp_path.rglob("*.tar*"))


def test_a_refusal_in_the_middle_stops_the_run(sky: Sky, tmp_path: Path) -> None:
    with DasServer(sky, ["401"] * 10) as server:
        with pytest.raises(InputError, match="refuses name and password"):
            gather(source(server), [150.0], [2.2], SIZE)
        worker = source(server, tmp_path, frozen=True)
        with pytest.raises(OutsideFault, match="refuses name and password") as caught:
            gather(worker, [150.0], [2.2], SIZE)
        assert caught.value.__context__ is None


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"SURVEY_GAMPEN_HSC_PASSWORD": "wrong-secret"}, "refuses name and password"),
        ({"SURVEY_GAMPEN_HSC_PASSWORD": "", "SURVEY_GAMPEN_HSC_USER": ""}, "password are missing"),
    ],
)
def test_a_login_is_looked_at_when_the_run_is_planned(
    sky: Sky,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    change: dict[str, str],
    said: str,
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    for name, value in change.items():
        monkeypatch.setenv(name, value)
    with DasServer(sky) as server:
        with pytest.raises(InputError, match=said) as caught:
            source(server)
        assert len(str(caught.value).splitlines()) == 1
        assert "wrong-secret" not in str(caught.value)
        if "missing" in said:
            with pytest.raises(OutsideFault, match="on this worker: .*missing"):
                source(server, frozen=True)


def test_specs(sky: Sky, tmp_path: Path) -> None:
    table = {"url": "https://hsc.example.org/das_cutout/pdr3", "rerun": "pdr3_wide"}
    profile = replace(SURVEY, das={**table, "filters": {"r": "HSC-R2"}})
    for spec, survey, band, said in [
        ("das", SURVEY, "g", "needs url in \\[das\\]"),
        ("das+ftp+http://x", SURVEY, "g", "needs url"),
        ("das+https://x.org/p", SURVEY, "g", "say which rerun"),
        ("das+https://x.org/p?rerun=a%0Ab", SURVEY, "g", "say which rerun"),
        ("das+https://x.org/p?rerun=a&tract=9", SURVEY, "g", "unknown word 'tract'"),
        ("das+https://x.org/p?rerun=a&type=warp", SURVEY, "g", "type must be one of"),
        ("das", profile, None, "give --band"),
        ("das+https://me:secret@x.org/p?rerun=a", SURVEY, "g", "leave name and password out"),
        ("das+http://x.org/p?rerun=a", SURVEY, "g", "https only"),
    ]:
        with pytest.raises(InputError, match=said) as caught:
            open_service(spec, survey, band, None, None)
        assert "secret" not in str(caught.value)
    with pytest.raises(InputError, match="pixel_scale"):
        open_service("das", replace(profile, pixel_scale=None), "g", None, None)
    one = open_service("das", profile, "r", None, tmp_path, frozen=True)
    assert "HSC-R2 of pdr3_wide" in one.describe()
    other = open_service("das", profile, "g", None, tmp_path, frozen=True)
    same = open_service("das", profile, "r", None, None, frozen=True)
    assert one.inventory() == same.inventory() != other.inventory()
    assert one.footprints().num_rows == 0
    assert is_service("das")
    assert not is_service("./das")
    assert not is_service(tmp_path)


SCRIPT = """
import sys
import numpy as np
from pathlib import Path
from skytiles import SURVEY, gather
from survey_gampen.images.services.das import Das
from survey_gampen.images.services.open import open_service
from survey_gampen.images.services.source import fetched
spec, cache, table, to, lines = sys.argv[1:]
Das.lines = int(lines)
ra, dec = np.load(table)
source = open_service(spec, SURVEY, "g", None, Path(cache), frozen=True)
with fetched(source, ra, dec, 21) as near:
    image, status, note, replaced = gather(near, ra, dec, 21)
np.save(to, image)
assert not status.any(), note
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lines", "requests", "killed_in"), [(40, 6, 4), (LINES, 3, 2)], ids=["small", "real"]
)
def test_a_kill_in_the_middle_costs_one_request(
    lines: int, requests: int, killed_in: int, sky: Sky, tmp_path: Path
) -> None:
    x, y, ra, dec = galaxies(sky, lines * requests)
    clean = Sky()
    clean.mask[:] = 0
    np.save(tmp_path / "where.npy", np.stack([ra, dec]))
    with DasServer(clean, [""] * (killed_in - 1) + ["silent"]) as server:
        words = [server.spec, tmp_path / "cache", tmp_path / "where.npy", tmp_path / "image.npy"]
        command = [sys.executable, "-c", SCRIPT, *map(str, words), str(lines)]
        path = os.pathsep.join([environment()["PYTHONPATH"], str(Path(__file__).parent)])
        env = {**environment(), "PYTHONPATH": path}
        first = subprocess.Popen(command, env=env)
        assert server.reached.wait(240)
        first.send_signal(signal.SIGKILL)
        first.wait()
        server.released.set()
        assert len(server.posts) == killed_in
        assert len(list((tmp_path / "cache").rglob("*.tar"))) == killed_in - 1
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=400)
        assert done.returncode == 0, done.stderr
        assert len(server.posts) == requests + 1  # those needed, and the one that was lost
        assert [len(each) - 1 for each in server.lists] == [lines] * (requests + 1)
        twice = sum(times > 1 for times in server.asked.values())
        assert twice <= lines
    image = np.load(tmp_path / "image.npy")
    assert len(image) == lines * requests
    for i in range(0, len(image), 29):
        wanted = crop(clean.image, int(np.floor(x[i] + 0.5)), int(np.floor(y[i] + 0.5)), SIZE)
        assert np.allclose(image[i], wanted * NJY, rtol=1e-6)
    assert not list((tmp_path / "cache").rglob("*.tar*"))


class OneFile:
    """A service that has one file for all galaxies."""

    name, lines, manners = "hsc", 10, QUICK

    def __init__(self, *contents: bytes) -> None:
        self.contents = contents

    def words(self, ask: Ask) -> str:
        return f"{ask.ra} {ask.dec} {ask.half}"

    def send(self, ask: Ask, places: Sequence[int], backoff: Backoff) -> Iterator[Member]:
        for place in places:
            for number, content in enumerate(self.contents):
                yield Member(place, f"tile {number}", content)

    def backoff(self) -> Backoff:
        return Backoff(self.manners.patience, "nowhere")

    def enter(self) -> None:
        pass

    def inventory(self) -> str:
        return "one"

    def describe(self) -> str:
        return "one file"


class Torn(OneFile):
    """One whose first answer ends after so many files of its first galaxy, one of which is junk."""

    def __init__(self, *contents: bytes, after: int, junk: int | None) -> None:
        super().__init__(*contents)
        self.after, self.junk = after, junk

    def send(self, ask: Ask, places: Sequence[int], backoff: Backoff) -> Iterator[Member]:
        after, junk, self.after, self.junk = self.after, self.junk, -1, None
        for number, member in enumerate(super().send(ask, places, backoff)):
            if number == after:
                raise CutOff("torn")
            yield replace(member, content=b"junk") if number == junk else member


@pytest.mark.parametrize("after", range(3))
@pytest.mark.parametrize("junk", [None, 0, 1])
def test_a_galaxy_of_two_tracts_has_both_wherever_an_answer_ends(
    sky: Sky, after: int, junk: int | None
) -> None:
    """A list for any tract gets an image from each that holds the galaxy."""
    ra, dec = sky.wcs.all_pix2world([100.0], [120.0], 0)
    parts = [slice(86, 105), slice(105, 115)]
    files = [
        fits_bytes([("IMAGE", sky.image[106:135, part]), ("MASK", sky.mask[106:135, part])],
                   sky.wcs, part.start, 106, "HSC-G")
        for part in parts
    ]  # fmt: skip
    one = ServiceSource(Torn(*files, after=after, junk=junk), SURVEY, "g", None, None)
    image, status, note, _ = gather(one, ra, dec, SIZE)
    assert status[0] == 0, note
    assert np.allclose(image[0], crop(sky.image, 100, 120, SIZE) * NJY, rtol=1e-6)


def test_what_is_wrong_is_not_asked_for_again_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """A service that is ill for a moment is no property of a galaxy."""
    waited: list[float] = []
    monkeypatch.setattr("survey_gampen.net.waiting.time.sleep", waited.append)
    one = ServiceSource(OneFile(b"junk"), SURVEY, "g", None, None)
    _, status, _, _ = gather(one, [150.0], [2.2], SIZE)
    assert status[0] == int(Status.BAD_CUTOUT)
    assert len(waited) == QUICK.tries - 1
    assert 2 * QUICK.patience.first >= waited[1] >= QUICK.patience.first >= waited[0] > 0


@pytest.mark.parametrize("where", ["in the header", "in the pixels", "in the last record"])
def test_an_answer_without_the_end_of_its_mask_is_none(sky: Sky, where: str) -> None:
    """Not a file without a mask, for which astropy takes it."""
    ra, dec = (float(v) for v in sky.wcs.all_pix2world(100.0, 120.0, 0))
    content = sky.cut(ra, dec, 2.0, False, "HSC-G")
    assert content is not None
    mask = content.rindex(b"XTENSION")
    stop = {"in the header": mask + 1000, "in the pixels": mask + 3000}.get(where, -2500)
    assert isinstance(judge(content, ra, dec, 2.0, SURVEY, "g", 0.168), Seen)
    said = judge(content[:stop], ra, dec, 2.0, SURVEY, "g", 0.168)
    assert "is cut off" in str(said) or "is no image" in str(said)


def test_real_answers_of_the_service(realdata: Path) -> None:
    survey = load_survey("hsc-wide")
    path = realdata / "hsc" / "slug_cutout-HSC-R-9071-s18a_wide.fits"
    with fits.open(path) as hdus:
        pixels = hdus[1].data
        from astropy.wcs import WCS

        ra, dec = (float(v) for v in WCS(hdus[1].header).all_pix2world(224, 233, 0))
    one = ServiceSource(OneFile(path.read_bytes()), survey, "r", None, None)
    # Larger than it is, as at an edge of the survey; and 239 pixels out of its middle.
    image, status, note, _ = gather(one, [ra], [dec], 501)
    assert status[0] & int(Status.EDGE), note
    image, status, note, _ = gather(one, [ra], [dec], 461)
    assert note == [None]
    assert np.allclose(image[0][230, 215:240], pixels[233, 209:234] * NJY, rtol=1e-5)
    stars = sorted((realdata / "hsc" / "hscstars").glob("*.fits"))
    assert len(stars) == 10
    for star in stars:
        content = star.read_bytes()
        with fits.open(star) as hdus:
            grid = WCS(hdus[1].header)
            ra, dec = (float(v) for v in grid.all_pix2world(12, 12, 0))
        half = 12.5 * 0.168
        assert isinstance(judge(content, ra, dec, half, survey, "i", 0.168), Seen)
        for said, file, there, band in [
            ("of band i", content, dec, "g"),
            ("another place", content, dec + 0.01, "i"),
            ("no image", content[:5000], dec, "i"),
        ]:
            assert said in str(judge(file, ra, there, half, survey, band, 0.168))
