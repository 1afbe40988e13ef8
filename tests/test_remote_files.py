"""Files of a server: asked for again where that helps, whole or not at all, shared by a node."""

from __future__ import annotations

import base64
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from faultyserver import PASSWORD, USER, Fault, FaultyServer, serving
from hypothesis import given
from hypothesis import strategies as st

from survey_gampen.errors import InputError, OutsideFault, UnreadableFile
from survey_gampen.images.places.cache import CONNECTIONS, TileCache, default_cache
from survey_gampen.images.places.remote import RemoteFiles
from survey_gampen.images.places.web import HttpStore
from survey_gampen.net import waiting
from survey_gampen.net.waiting import Patience, Transient, retry_after

QUICK = Patience(seconds=3.0, first=0.01, most=0.05)
CONTENT = b"SIMPLE  =" + bytes(range(256)) * 4000


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FaultyServer]:
    """A server with one file, ``a/t.fits``."""
    path = tmp_path / "served" / "a" / "t.fits"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    with serving(tmp_path / "served") as running:
        yield running


@pytest.fixture
def files(server: FaultyServer, tmp_path: Path) -> RemoteFiles:
    """Its files."""
    return remote(server, tmp_path / "cache")


def remote(server: FaultyServer, folder: Path, timeout: float = 2.0) -> RemoteFiles:
    store = HttpStore(server.url, "test", timeout=timeout)
    return RemoteFiles(store, TileCache(folder, grace=0.0), QUICK)


def leftovers(folder: Path) -> list[str]:
    """Names in a cache that are neither whole files nor about hosts."""
    names = [one.name for one in folder.glob("[0-9a-f][0-9a-f]/*")]
    return [name for name in names if not name.endswith("t.fits")]


def test_a_file_is_downloaded_once(server, files, tmp_path) -> None:
    path = files.local("a/t.fits")
    assert path.read_bytes() == CONTENT
    assert path.name.endswith("-t.fits")
    assert remote(server, tmp_path / "cache").local("a/t.fits") == path
    assert len(server.gets("t.fits")) == 1
    assert leftovers(tmp_path / "cache") == []


def test_many_threads_download_it_once(server, files) -> None:
    server.faults = [Fault("slow", seconds=0.2)]
    with ThreadPoolExecutor(8) as pool:
        paths = set(pool.map(lambda _: files.local("a/t.fits"), range(8)))
    assert len(paths) == len(server.gets("t.fits")) == 1


def test_a_node_opens_few_connections(server, tmp_path) -> None:
    for k in range(12):
        (tmp_path / "served" / f"{k}.fits").write_bytes(CONTENT)
    server.faults = [Fault("slow", times=12, seconds=0.1)]
    with ThreadPoolExecutor(
        12
    ) as pool:  # as many processes would: each with an interface of its own
        list(pool.map(lambda k: remote(server, tmp_path / "cache").local(f"{k}.fits"), range(12)))
    assert 1 < server.most <= CONNECTIONS


@pytest.mark.parametrize("kind", ["429", "503", "500", "502", "504", "drop", "cut", "slow"])
def test_trouble_that_passes_is_waited_for(server, files, kind) -> None:
    server.faults = [Fault(kind, times=2, seconds=2.5 if kind == "slow" else 0.0)]
    if kind == "slow":
        files = remote(server, files.cache.folder, timeout=0.3)
    assert files.local("a/t.fits").read_bytes() == CONTENT
    assert len(server.gets("t.fits")) == 3


def test_the_server_says_when_to_come_back(server, files) -> None:
    server.faults = [Fault("429", retry_after="1")]
    begun = time.monotonic()
    files.local("a/t.fits")
    assert time.monotonic() - begun >= 1.0
    server.faults = [Fault("503", retry_after="3600")]
    with pytest.raises(OutsideFault, match=r"answers 503 Service Unavailable \(for 0 s\)"):
        files.read("a/t.fits", 0, 10)


@pytest.mark.parametrize("kind", ["503", "drop"])
def test_a_server_that_is_down_stops_the_run(server, files, kind) -> None:
    server.faults = [Fault(kind, times=10_000)]
    with pytest.raises(OutsideFault, match=r"a/t\.fits: .*run the same command again"):
        files.local("a/t.fits")
    assert len(server.gets("t.fits")) > 3
    server.faults = []
    assert files.local("a/t.fits").read_bytes() == CONTENT


def test_nobody_listens(tmp_path) -> None:
    with serving(tmp_path) as server:
        gone = remote(server, tmp_path / "cache")
    with pytest.raises(OutsideFault, match="refused"):
        gone.local("t.fits")


@pytest.mark.parametrize("etags", [True, False])
@pytest.mark.parametrize("ranges", [True, False])
def test_a_cut_off_download_goes_on(server, files, ranges, etags) -> None:
    """Where the server knows ranges and says which version it has; else it begins again."""
    server.ranges, server.etags = ranges, etags
    server.faults = [Fault("cut", share=0.4), Fault("cut", share=0.9)]
    assert files.local("a/t.fits").read_bytes() == CONTENT
    spans = [one.range for one in server.gets("t.fits")]
    assert len(spans) == 3
    asked = f"bytes={int(len(CONTENT) * 0.4)}-" if etags else ""
    assert spans[:2] == ["", asked]


def test_a_file_that_changed_meanwhile_is_not_mixed(server, files, tmp_path) -> None:
    server.faults = [Fault("cut"), Fault("503", times=10_000)]
    with pytest.raises(OutsideFault):
        files.local("a/t.fits")
    server.faults = []
    other = b"SIMPLE  =" + b"other" * 200_000
    (tmp_path / "served" / "a" / "t.fits").write_bytes(other)
    assert files.local("a/t.fits").read_bytes() == other


def test_a_file_that_is_shorter_than_it_says(server, files) -> None:
    """Broken where it lies: its partition is quarantined, and the rest goes on."""
    server.faults = [Fault("cut", times=10_000, share=0.5)]
    server.ranges = False
    with pytest.raises(UnreadableFile, match=r"a/t\.fits: the server's file ends at byte 512004"):
        files.local("a/t.fits")


def test_a_wrong_file_is_not_kept(server, files, tmp_path) -> None:
    server.faults = [Fault("page")]
    with pytest.raises(OutsideFault, match="sends a page instead of the file"):
        files.local("a/t.fits")
    server.faults = [Fault("garbage")]
    with pytest.raises(UnreadableFile, match="is no FITS file"):
        files.local("a/t.fits")
    assert leftovers(tmp_path / "cache") == []
    assert files.local("a/t.fits").read_bytes() == CONTENT


def test_what_is_not_there_is_remembered_once_it_is_certain(server, files, tmp_path) -> None:
    for _ in range(2):
        with pytest.raises(FileNotFoundError):
            files.local("a/none.fits")
        assert not files.exists("a/none.fits")
        assert not files.is_absent("a/none.fits")  # a server without its disk has none either
    files.note_absent("a/none.fits")
    asked = len(server.seen)
    assert files.is_absent("a/none.fits")
    assert remote(server, tmp_path / "cache").is_absent("a/none.fits")  # another process
    assert len(server.seen) == asked
    assert not files.is_absent("a/t.fits")
    assert files.exists("a/t.fits")
    assert not [one for one in server.gets() if "t.fits" in one.path]  # not downloaded for that


@pytest.mark.parametrize("head", ["yes", "405", "501"])
def test_headers_are_read_in_pieces(server, files, head) -> None:
    """Also where a server does not know HEAD, and says so in one way or another."""
    if head != "yes":
        server.faults = [Fault(head, methods=("HEAD",), times=10_000)]
    with files.open("a/t.fits") as opened:
        opened.seek(500_000)
        assert opened.read(300) == CONTENT[500_000:500_300]
        opened.seek(-5, os.SEEK_END)
        assert opened.read() == CONTENT[-5:]
    assert all(one.range for one in server.gets("t.fits"))


def test_a_server_without_ranges_sends_it_whole(server, files) -> None:
    server.ranges = False
    with files.open("a/t.fits") as opened:
        assert isinstance(opened, Path)
        assert opened.read_bytes() == CONTENT


def test_another_version_than_at_planning_is_refused(server, files, tmp_path) -> None:
    found = files.find_all()
    assert [(one.path, one.size) for one in found] == [("a/t.fits", len(CONTENT))]
    (tmp_path / "served" / "a" / "t.fits").write_bytes(CONTENT[:-1] + b"!")
    worker = remote(server, tmp_path / "cache")
    worker.settle(files.address, found)
    with pytest.raises(OutsideFault, match="has changed since the run was planned"):
        worker.local("a/t.fits")


# --- Logins ---------------------------------------------------------------------------------------


def test_a_login_is_sent_when_it_is_asked_for(server, files, monkeypatch) -> None:
    server.login = True
    monkeypatch.setenv("SURVEY_GAMPEN_TEST_USER", USER)
    monkeypatch.setenv("SURVEY_GAMPEN_TEST_PASSWORD", PASSWORD)
    assert files.local("a/t.fits").read_bytes() == CONTENT
    assert [one.login for one in server.gets("t.fits")] == [False, True]
    assert files.has_folder("a")
    assert server.seen[-1].login


@pytest.mark.parametrize("given", [False, True])
@pytest.mark.parametrize("code", [401, 403])
def test_no_or_a_wrong_login_is_one_line(server, files, monkeypatch, tmp_path, given, code) -> None:
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    server.login = True
    if given:
        monkeypatch.setenv("SURVEY_GAMPEN_TEST_USER", USER)
        monkeypatch.setenv("SURVEY_GAMPEN_TEST_PASSWORD", "wr0ng-" + PASSWORD)
    if code == 403:
        server.faults = [Fault("403", times=9)]
    with pytest.raises(InputError, match=rf"\({code}\)") as caught:
        files.local("a/t.fits")
    assert "SURVEY_GAMPEN_TEST_PASSWORD" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_secret_gets_out(server, files, monkeypatch) -> None:
    """Not into messages, tracebacks, what is kept on the disk, or another server's log."""
    server.login = True
    monkeypatch.setenv("SURVEY_GAMPEN_TEST_USER", USER)
    monkeypatch.setenv("SURVEY_GAMPEN_TEST_PASSWORD", PASSWORD)
    files.local("a/t.fits")
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    words = []
    for kind in ("403", "503", "418", "cut"):
        server.faults = [Fault(kind, times=10_000)]
        with pytest.raises((InputError, OutsideFault)) as caught:
            files.read("a/t.fits", 5, 500)
        trace = traceback.TracebackException.from_exception(caught.value)
        words.append("".join(trace.format()))
    kept = [one for one in files.cache.folder.rglob("*") if one.is_file()]
    words += [one.name for one in kept]
    words += [one.read_bytes().decode("latin-1") for one in kept]
    for text in words:
        assert PASSWORD not in text
        assert secret not in text
    with serving(server.root) as other:
        server.faults, server.redirect = [], lambda path: f"{other.url}{path}"
        assert files.read("a/t.fits", 0, 9) == b"SIMPLE  ="
        assert [one.login for one in other.seen] == [False]


def test_an_address_with_a_password_is_refused() -> None:
    with pytest.raises(InputError, match="leave name and password out") as caught:
        HttpStore(f"https://{USER}:{PASSWORD}@example.org/x", "test")
    assert PASSWORD not in str(caught.value)


# --- The cache ------------------------------------------------------------------------------------

KILLED = """
import sys
from pathlib import Path
from survey_gampen.images.places.cache import TileCache
from survey_gampen.images.places.remote import RemoteFiles
from survey_gampen.images.places.web import HttpStore
RemoteFiles(HttpStore(sys.argv[1], "test"), TileCache(Path(sys.argv[2]))).local("a/t.fits")
"""


def test_a_kill_in_the_middle_of_a_download(server, files, tmp_path) -> None:
    """The next process goes on with what is there; nobody ever sees a part of a file."""
    server.faults = [Fault("stall", share=0.6)]
    command = [sys.executable, "-c", KILLED, server.url, str(tmp_path / "cache")]
    with subprocess.Popen(command) as process:
        parts: list[Path] = []
        while not (parts and parts[0].stat().st_size == int(len(CONTENT) * 0.6)):
            assert process.poll() is None
            parts = list((tmp_path / "cache").glob("*/*.part"))
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
    assert files.cache.find(files._key("a/t.fits")) is None
    assert files.local("a/t.fits").read_bytes() == CONTENT
    assert server.gets("t.fits")[-1].range == f"bytes={int(len(CONTENT) * 0.6)}-"
    left = [one for one in leftovers(tmp_path / "cache") if not one.endswith(".lock")]
    assert left == []


def test_the_folder_stays_small_and_open_files_stay_whole(tmp_path) -> None:
    cache = TileCache(tmp_path, limit=3500, grace=0.0)

    def content(k: int) -> bytes:
        return bytes([k]) * 1000

    paths = [cache.add("x/0.fits", lambda p: none(p.write_bytes(content(0))))]
    os.utime(paths[0], (0, 0))
    with paths[0].open("rb") as old:
        for k in range(1, 8):
            paths.append(cache.add(f"x/{k}.fits", lambda p, k=k: none(p.write_bytes(content(k)))))
            assert cache.find("x/1.fits") is not None  # used all the time
            os.utime(paths[-1], (k, k) if k != 1 else None)
            files = [one for one in tmp_path.glob("*/*") if one.is_file()]
            assert sum(one.stat().st_size for one in files) <= 3500
        assert cache.find("x/0.fits") is None
        assert old.read() == content(0)
    assert cache.find("x/2.fits") is None
    assert cache.find("x/7.fits").read_bytes() == content(7)


def none(_: object) -> None:
    """Forget a value."""


def fill(path: Path) -> None:
    """Write a file until the disk is full."""
    with path.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while True:
            file.write(b"x" * 5_000)


def test_no_more_than_half_of_what_is_free(tmp_path, small_disk) -> None:
    """A disk of 1 MiB, and files of 200 kB."""
    cache = TileCache(small_disk / "cache", grace=0.0)
    for k in range(9):
        cache.add(f"{k}.fits", lambda p: none(p.write_bytes(b"x" * 200_000)))
        kept = [one for one in (small_disk / "cache").glob("*/*") if one.suffix == ".fits"]
        assert 1 <= len(kept) <= 3
    # Somebody else fills the disk: all that is kept is given up for what is needed now.
    fill(small_disk / "other")
    added = cache.add("new.fits", lambda p: none(p.write_bytes(b"x" * 200_000)))
    assert added.stat().st_size == 200_000
    with pytest.raises(OutsideFault, match="No space left"):
        cache.add("large.fits", lambda p: none(p.write_bytes(b"x" * 2_000_000)))


def test_where_the_folder_is(tmp_path, monkeypatch) -> None:
    monkeypatch.setenv("SURVEY_GAMPEN_CACHE", str(tmp_path / "mine"))
    assert default_cache().folder == tmp_path / "mine"
    monkeypatch.delenv("SURVEY_GAMPEN_CACHE")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    folder = default_cache().folder
    assert folder == tmp_path / f"survey-gampen-tiles-{os.getuid()}"
    assert folder.stat().st_mode & 0o077 == 0
    folder.rmdir()
    folder.symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="somebody else's, or a link: set SURVEY_GAMPEN_CACHE"):
        default_cache()


# --- Waiting --------------------------------------------------------------------------------------


@given(st.integers(0, 40), st.floats(0.01, 5.0), st.floats(1.0, 300.0))
def test_pauses_grow_to_a_limit_and_end(failures, first, seconds) -> None:
    now, pauses = [0.0], []

    def sleep(pause: float) -> None:
        pauses.append(pause)
        now[0] += pause

    left = [failures]

    def attempt() -> str:
        if left[0]:
            left[0] -= 1
            raise Transient("busy")
        return "done"

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(waiting.time, "sleep", sleep)
        patch.setattr(waiting.time, "monotonic", lambda: now[0])
        try:
            assert Patience(seconds, first, 20.0)("it", attempt) == "done"
        except OutsideFault:
            assert sum(pauses) + 1.5 * min(first * 2.0 ** len(pauses), 20.0) >= seconds
    assert sum(pauses) <= seconds
    for k, pause in enumerate(pauses):
        assert 0.5 <= pause / min(first * 2.0**k, 20.0) <= 1.5


def test_retry_after_is_a_number_or_a_date() -> None:
    assert retry_after(None) == 0
    assert retry_after("7") == 7
    assert retry_after("-7") == 0
    assert retry_after("soon") == 0
    assert retry_after("Fri, 31 Dec 1999 23:59:59 GMT") == 0
    then = time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime(time.time() + 60))
    assert 50 < retry_after(then) <= 60


def test_locks_let_one_in(tmp_path) -> None:
    cache, inside, most = TileCache(tmp_path, grace=0.0), [0], [0]
    guard = threading.Lock()

    def enter(_: int) -> None:
        with cache.connection("host"):
            with guard:
                inside[0] += 1
                most[0] = max(most[0], inside[0])
            time.sleep(0.01)
            with guard:
                inside[0] -= 1

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(enter, range(64)))
    assert most[0] == CONNECTIONS
