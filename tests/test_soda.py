"""Rubin's cutouts by TAP, DataLink and SODA, against servers on this machine."""

from __future__ import annotations

import traceback
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from skytiles import crop, gather
from sodaserver import SodaServer, Tract

from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.images.pixels.grid import unit_vectors
from survey_gampen.images.services.http import Manners
from survey_gampen.images.services.open import open_service
from survey_gampen.images.services.regions import parse_region
from survey_gampen.images.services.source import ServiceSource
from survey_gampen.images.status import Status
from survey_gampen.net.waiting import Patience
from survey_gampen.survey import Survey

pytest.importorskip("pyvo")

SIZE = 121
QUICK = Manners(patience=Patience(20.0, 0.01, 0.05))
LSST = Survey(
    name="lsst",
    columns={"object_id": "objectId", "ra": "coord_ra", "dec": "coord_dec"},
    pixel_scale=0.2,
    bad_planes=("BAD",),
    saturated_planes=("SAT",),
)


@pytest.fixture(scope="module")
def tract() -> Tract:
    return Tract()


@pytest.fixture(autouse=True)
def known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SURVEY_GAMPEN_RUBIN_TOKEN", SodaServer.token)


def source(server: SodaServer, cache: Path | None = None, **options: Any) -> ServiceSource:
    return open_service(server.spec, LSST, "r", None, cache, manners=QUICK, **options)


def test_cutouts_join_across_patches_pixel_by_pixel(tract: Tract, tmp_path: Path) -> None:
    pytest.importorskip("pyvo")
    # Middle of a patch; around borders of two and of four; corner of the tract; off it.
    x = np.array([200.0, 349.0, 350.2, 652.0, 348.6, 351.0, 5.0, 3000.0])
    y = np.array([200.0, 200.0, 349.0, 352.0, 347.7, 120.0, 5.0, 100.0])
    ra, dec = tract.wcs.all_pix2world(x, y, 0)
    with SodaServer(tract) as server:
        one = source(server, tmp_path)
        image, status, note, _ = gather(one, ra, dec, SIZE)
        for i in range(6):
            wanted = crop(tract.image, round(x[i]), round(y[i]), SIZE)
            assert status[i] == 0, note[i]
            assert np.array_equal(image[i], wanted)
        assert status[6] & int(Status.EDGE)
        assert status[7] == int(Status.NO_IMAGE)
        # One query for all galaxies, one DataLink a patch; the first query looked at the token.
        assert len(server.queries) == 2
        links = [path for path in server.paths if "datalink" in path]
        assert len(links) == len(set(links)) <= 6
        # The token stands in no address, and did not follow to the cloud's storage.
        assert not any(server.token in path for path in server.paths)
        assert server.foreign
        assert not any("Authorization" in headers for headers in server.foreign)
    assert not list(tmp_path.rglob("*.tar"))


def test_faults(tract: Tract) -> None:
    x, y = np.full(12, 200.0), np.linspace(100, 190, 12)
    ra, dec = tract.wcs.all_pix2world(x, y, 0)
    with SodaServer(tract, ["503", "429", "short", "junk", "401"]) as server:
        image, status, note, _ = gather(source(server), ra, dec, SIZE)
    assert not status.any(), note
    for i in range(12):
        assert np.array_equal(image[i], crop(tract.image, 200, int(np.floor(y[i] + 0.5)), SIZE))


@pytest.mark.parametrize("junk", range(4))
def test_a_part_that_is_junk_is_asked_for_again(tract: Tract, junk: int) -> None:
    """A galaxy where four patches meet needs four answers, the deepest of them first."""
    ra, dec = tract.wcs.all_pix2world([350.2], [349.0], 0)
    faults = [""] * junk + ["junk"]
    one_by_one = replace(QUICK, connections=1)
    with SodaServer(tract, faults) as server:
        one = open_service(server.spec, LSST, "r", None, None, manners=one_by_one)
        image, status, note, _ = gather(one, ra, dec, SIZE)
        assert not server.faults
        assert len(server.results) == 8
    assert status[0] == 0, note[0]
    assert np.array_equal(image[0], crop(tract.image, 350, 349, SIZE))


@pytest.mark.parametrize("times", [1, 3])
def test_an_answer_of_no_bytes_is_no_sky_without_images(tract: Tract, times: int) -> None:
    ra, dec = tract.wcs.all_pix2world([200.0], [200.0], 0)
    with SodaServer(tract, ["empty"] * times) as server:
        image, status, note, _ = gather(source(server), ra, dec, SIZE)
    if times == 1:
        assert status[0] == 0, note[0]
        assert np.array_equal(image[0], crop(tract.image, 200, 200, SIZE))
    else:
        assert status[0] == int(Status.BAD_CUTOUT)
        assert "no image" in note[0]


def test_the_code_for_no_pixels_there(tract: Tract) -> None:
    ra, dec = tract.wcs.all_pix2world([200.0], [200.0], 0)
    with SodaServer(tract, ["204"]) as server:
        _, status, _, _ = gather(source(server), ra, dec, SIZE)
        assert not server.faults
    assert status[0] == int(Status.NO_IMAGE)


def test_a_galaxy_whose_answer_is_junk_is_flagged(tract: Tract) -> None:
    ra, dec = tract.wcs.all_pix2world([200.0], [200.0], 0)
    with SodaServer(tract, ["junk"] * 3) as server:
        _, status, note, _ = gather(source(server), ra, dec, SIZE)
    assert status[0] == int(Status.BAD_CUTOUT)
    assert "no image" in note[0]


@pytest.mark.parametrize(
    ("which", "how", "said"),
    [
        ("tap", "error", "the query for images failed: no, Bearer \\.\\.\\."),
        ("tap", "page", "answers with no table"),
        ("tap", "bare", "answers with no table"),
        ("tap", "overflow", "the query for images failed: there are more than the service tells"),
        ("datalink", "error", "the request for links failed: no, Bearer \\.\\.\\."),
        ("datalink", "page", "answers with no table"),
        ("datalink", "bare", "answers with no table"),
    ],
)
def test_tables_that_are_none_are_told_without_the_token(
    tract: Tract, which: str, how: str, said: str
) -> None:
    ra, dec = tract.wcs.all_pix2world([200.0], [200.0], 0)
    with (
        SodaServer(tract, tables={which: how}) as server,
        pytest.raises(InputError, match=said) as caught,
    ):
        gather(source(server), ra, dec, SIZE)
    told = "".join(traceback.format_exception(caught.value))
    assert server.token not in told


def test_galaxies_far_apart_are_asked_about_apart(tract: Tract) -> None:
    """A field that held them all would have more coadds than a service tells."""
    ra, dec = (np.atleast_1d(v) for v in tract.wcs.all_pix2world([200.0], [200.0], 0))
    others = np.linspace(0, 360, 15, endpoint=False)
    ra, dec = np.append(ra, others), np.append(dec, 40 * np.sin(others))
    with SodaServer(tract) as server:
        image, status, note, _ = gather(source(server), ra, dec, SIZE)
        queries = [query for query in server.queries if "CIRCLE" in query]
    radii = [float(query.partition("CIRCLE(")[2].split(",")[3].split(")")[0]) for query in queries]
    assert max(radii) < 5.0
    assert status.tolist() == [0] + [int(Status.NO_IMAGE)] * 15, note
    assert np.array_equal(image[0], crop(tract.image, 200, 200, SIZE))


def test_a_wrong_token(tract: Tract, monkeypatch: pytest.MonkeyPatch) -> None:
    with SodaServer(tract) as server:
        monkeypatch.setenv("SURVEY_GAMPEN_RUBIN_TOKEN", "gt-wrong.secret")
        with pytest.raises(InputError, match="refuses the token.*SURVEY_GAMPEN_RUBIN") as caught:
            source(server)
        assert "secret" not in str(caught.value)
        assert caught.value.__context__ is None
        monkeypatch.delenv("SURVEY_GAMPEN_RUBIN_TOKEN")
        monkeypatch.setattr("survey_gampen.credentials._TOKEN_FILES", {})
        with pytest.raises(InputError, match="a token is missing"):
            source(server)
        with pytest.raises(OutsideFault, match="on this worker: .*a token is missing"):
            source(server, frozen=True)


def test_specs() -> None:
    with pytest.raises(InputError, match="needs tap in \\[soda\\]"):
        open_service("soda", LSST, "r", None, None)
    with pytest.raises(InputError, match="say which collection"):
        open_service("soda+https://x.org/api/tap", LSST, "r", None, None)
    with pytest.raises(InputError, match="say which collection"):
        open_service("soda+https://x.org/api/tap?collection=a'b", LSST, "r", None, None)
    with pytest.raises(InputError, match="https only"):
        open_service("soda+http://x.org/api/tap?collection=a", LSST, "r", None, None)
    profile = replace(LSST, soda={"tap": "https://x.org/api/tap", "collection": "LSST.DP1"})
    one = open_service("soda", profile, "r", None, None, frozen=True)
    assert "lsst.deep_coadd of LSST.DP1, band r" in one.describe()


@given(
    ra=st.floats(0, 360),
    dec=st.floats(-88, 88),
    side=st.floats(0.01, 1.0),
    along=st.floats(-1, 1),
    across=st.floats(-1, 1),
    turned=st.booleans(),
)
def test_depth_in_a_square(
    ra: float, dec: float, side: float, along: float, across: float, turned: bool
) -> None:
    """A square around any place, its corners either way round, is as deep as a flat one."""
    middle = unit_vectors(ra, dec)
    east = np.array([-np.sin(np.radians(ra)), np.cos(np.radians(ra)), 0.0])
    north = np.cross(middle, east)

    def at(x: float, y: float) -> tuple[float, float]:
        vector = middle + np.radians(x) * east + np.radians(y) * north
        vector /= np.linalg.norm(vector)
        return float(np.degrees(np.arctan2(vector[1], vector[0])) % 360), float(
            np.degrees(np.arcsin(vector[2]))
        )

    half = side / 2
    corners = [at(x, y) for x, y in ((-half, -half), (half, -half), (half, half), (-half, half))]
    corners = corners[::-1] if turned else corners
    text = "POLYGON ICRS " + " ".join(f"{a!r} {d!r}" for a, d in corners)
    region = parse_region(text)
    assert region is not None
    x, y = along * side, across * side
    assert region.depth(*at(x, y)) == pytest.approx(
        half - max(abs(x), abs(y)), abs=1e-3 * side + 1e-9
    )


@pytest.mark.parametrize(
    "text", ["", "CIRCLE ICRS 1 2 3", "POLYGON ICRS 1 2 3 4", "POLYGON ICRS x y"]
)
def test_what_is_no_polygon(text: str) -> None:
    assert parse_region(text) is None
