"""Patience with services, and slots that several processes share."""

from __future__ import annotations

import pickle
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from traceback import TracebackException

import pytest
from catalogservers import WebServer
from dasserver import DasServer, Sky

from survey_gampen.credentials import Login
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.images.services.http import Client, Manners
from survey_gampen.net.body import Body
from survey_gampen.net.server import Server
from survey_gampen.net.slots import Slots
from survey_gampen.net.waiting import Backoff, Patience, Transient

QUICK = Manners(patience=Patience(0.3, 0.01, 0.02), silence=0.5)


@pytest.fixture(scope="module")
def sky() -> Sky:
    return Sky(200, 200)


def client(url: str, password: str = DasServer.password, manners: Manners = QUICK) -> Client:
    return Client("hsc", url, Login(DasServer.user, password), manners, Slots(None, 2))


def ask(one: Client, url: str) -> int:
    with one.ask("GET", url, one.backoff()) as response:
        return int(response.status_code)


def post(one: Client, url: str) -> None:
    with one.ask("POST", url, one.backoff(), files={"list": ("list.txt", "#?")}):
        pass


def test_a_refusal_shows_no_secret_wherever_one_looks(sky: Sky) -> None:
    with DasServer(sky) as server:
        assert ask(client(server.url), f"{server.url}/") == 200
        with pytest.raises(InputError, match="refuses name and password") as caught:
            # A trace shows this line too: the secret must not stand in it.
            ask(client(server.url, "-".join(("wrong", "secret"))), f"{server.url}/")
        error = caught.value
        trace = "".join(TracebackException.from_exception(error, capture_locals=True).format())
        assert "wrong-secret" not in trace
        assert "Basic" not in trace
        assert "SURVEY_GAMPEN_HSC_PASSWORD_FILE" in str(error)
        assert len(str(error).splitlines()) == 1
        # What an exception drags along travels with it from a worker to the client.
        assert error.__cause__ is None
        assert error.__context__ is None
        assert b"wrong-secret" not in pickle.dumps(error)


def test_the_secret_goes_to_its_own_service_only(sky: Sky) -> None:
    with DasServer(sky) as mine, DasServer(sky) as other:
        one = client(mine.url)
        assert ask(one, f"{mine.url}/") == 200
        with pytest.raises(InputError, match="refuses"):
            ask(one, f"{other.url}/")


def test_words_of_the_server_are_shown_without_the_secret(sky: Sky) -> None:
    with DasServer(sky) as server:
        one = client(server.url)
        with pytest.raises(InputError, match="404 Not Found: code 404 Basic \\.\\.\\.") as caught:
            post(one, f"{server.url}/elsewhere")
        assert DasServer.password not in str(caught.value)


@pytest.mark.parametrize(("fault", "said"), [("503", "503"), ("429", "429")])
def test_a_sick_service_stops_the_run_after_some_time(sky: Sky, fault: str, said: str) -> None:
    with DasServer(sky, faults=[fault] * 1000) as server:
        one = client(server.url)
        begun = time.monotonic()
        with pytest.raises(OutsideFault, match=said):
            post(one, f"{server.url}/cgi-bin/cutout")
        assert time.monotonic() - begun < 3
        assert 3 < len(server.posts) < 100


def test_nobody_there() -> None:
    one = client("http://127.0.0.1:9")
    with pytest.raises(OutsideFault, match="refused") as caught:
        ask(one, "http://127.0.0.1:9/")
    assert caught.value.__context__ is None


def test_waits_double_and_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    monkeypatch.setattr(time, "sleep", waited.append)
    backoff = Backoff(Patience(1000.0, first=1.0, most=8.0), "host")
    for _ in range(6):
        backoff.wait(Transient("sick"))
    for pause, longest in zip(waited, (1, 2, 4, 8, 8, 8), strict=True):
        assert longest / 2 <= pause <= longest
    backoff.progress()
    backoff.wait(Transient("sick again"))
    assert waited[-1] <= 1
    backoff.wait(Transient("busy", after=30.0))
    assert 30.0 < waited[-1] <= 30.2  # not all workers at once
    with pytest.raises(OutsideFault, match="host: busy "):
        backoff.wait(Transient("busy", after=2000.0))


def test_slots_are_shared_by_threads_and_processes(tmp_path: Path) -> None:
    slots = Slots(tmp_path, 2)
    now, most, guard = 0, 0, threading.Lock()

    def work() -> None:
        nonlocal now, most
        with slots.one():
            with guard:
                now += 1
                most = max(most, now)
            time.sleep(0.02)
            with guard:
                now -= 1

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 2
    code = (
        "import sys, time; from pathlib import Path; from survey_gampen.net.slots import Slots\n"
        f"with Slots(Path({str(tmp_path)!r}), 1).one(): print('in', flush=True); time.sleep(60)"
    )
    slots = Slots(tmp_path, 1)
    others = [subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)]
    try:
        for other in others:
            assert other.stdout is not None
            assert other.stdout.readline() == b"in\n"
        entered = threading.Event()

        def enter() -> None:
            with slots.one():
                entered.set()

        thread = threading.Thread(target=enter)
        thread.start()
        assert not entered.wait(0.5)  # the slot is the other's
        others[0].kill()
        assert entered.wait(10)  # the system gave back what the dead one held
        thread.join()
    finally:
        for other in others:
            other.kill()
            other.communicate()


def test_netrc_is_not_sent_unasked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither to the server itself nor to where it redirects."""
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password hunter2\n")
    netrc.chmod(0o600)
    monkeypatch.setenv("NETRC", str(netrc))
    (tmp_path / "t").write_bytes(b"there")
    with WebServer(tmp_path) as first, WebServer(tmp_path) as second:
        first.moved["/t"] = f"{second.url}/t"
        with Server("test", first.url).once("GET", f"{first.url}/t") as answer:
            assert Body(answer).read() == b"there"
        assert (len(first.requests), len(second.requests)) == (1, 1)
        assert not first.told
        assert not second.told
        first.login = "me:hunter2"  # now it asks
        with Server("test", first.url).once("GET", f"{first.url}/t") as answer:
            assert Body(answer).read() == b"there"
        assert first.told
        assert not second.told


class Doorkeeper:
    """A server that four threads ask at once, and that wants a login."""

    def __init__(self) -> None:
        self.strange = 0
        self.guard, self.here = threading.Lock(), threading.Event()
        self.strangers = threading.Barrier(4)
        keeper = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                code = 200
                if self.path != "/open":
                    code = keeper.code(bool(self.headers.get("Authorization")))
                self.send_response(code)
                self.send_header("Content-Length", "0")
                self.end_headers()

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def code(self, login: bool) -> int:
        """Turn all strangers away: one at first, the others when that one has found its login."""
        if not login:
            with self.guard:
                place, self.strange = self.strange, self.strange + 1
            self.strangers.wait(20)
            if place:
                self.here.wait(20)
            return 401
        self.here.set()
        time.sleep(0.2)
        return 200

    def close(self) -> None:
        self.http.shutdown()
        self.http.server_close()


def test_threads_that_ask_at_once_are_let_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever asked before the login was known was not refused with it."""
    monkeypatch.setenv("SURVEY_GAMPEN_TEST_USER", "me")
    monkeypatch.setenv("SURVEY_GAMPEN_TEST_PASSWORD", "hunter2")
    keeper = Doorkeeper()
    server = Server("test", keeper.url)

    def enter(_: int) -> int:
        def attempt() -> int:
            with server.once("GET", f"{keeper.url}/t") as answer:
                return int(answer.status_code)

        return Patience(10.0, 0.01, 0.02)("it", attempt)

    try:
        with server.once("GET", f"{keeper.url}/open"):  # it has let us in before
            pass
        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(enter, range(4))) == [200] * 4
    finally:
        keeper.close()
