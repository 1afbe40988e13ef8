"""A server on this machine that speaks HTTP well, and badly where a test wants it."""

from __future__ import annotations

import base64
import contextlib
import re
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from hashlib import sha256
from html import escape
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

USER, PASSWORD = "galaxy", "s3cret-wOrd"


@dataclass
class Fault:
    """What is done instead of a right answer, to so many requests whose path has `where` in it.

    Attributes
    ----------
    kind : str
        A status ("503"); "cut" (the body ends at `share`), "stall" (and does not go on), "slow"
        (nothing for `seconds`), "page" (HTML instead of the file), "garbage", "drop" (no answer).
    """

    kind: str
    where: str = ""
    times: int = 1
    retry_after: str = ""
    share: float = 0.5
    seconds: float = 0.5
    methods: tuple[str, ...] = ("GET", "HEAD")


@dataclass
class Seen:
    """A request."""

    method: str
    path: str
    range: str
    login: bool
    began: float = field(default_factory=time.monotonic)


class FaultyServer:
    """Serves a folder, or passes requests on to another server.

    Parameters
    ----------
    root : Path, optional
        The folder.
    upstream : str, optional
        Address of the other server.
    login : bool
        Whether USER and PASSWORD are wanted.
    ranges, etags : bool
        Whether these parts of the protocol are known.
    """

    def __init__(self, root: Path | None = None, upstream: str = "", login: bool = False) -> None:
        self.root, self.upstream, self.login = root, upstream, login
        self.ranges = self.etags = True
        self.faults: list[Fault] = []
        self.seen: list[Seen] = []
        self.redirect: Callable[[str], str | None] = lambda path: None
        self.released = threading.Event()
        self.now = self.most = 0
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            server_version, sys_version = "test", ""

            def log_message(self, *args: object) -> None:
                pass

            def do_GET(self) -> None:
                outer.serve(self)

            do_HEAD = do_POST = do_PUT = do_GET  # noqa: N815

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.http.server_address[1]}"
        threading.Thread(target=self.http.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        """Stop; requests that stall are let go."""
        self.released.set()
        self.http.shutdown()
        self.http.server_close()

    def gets(self, part: str = "") -> list[Seen]:
        """GET requests whose path has `part` in it."""
        return [one for one in self.seen if one.method == "GET" and part in one.path]

    def serve(self, request: BaseHTTPRequestHandler) -> None:
        """Answer one request."""
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
        try:
            with contextlib.suppress(ConnectionError):
                self._serve(request)
        finally:
            with self._lock:
                self.now -= 1

    def _serve(self, request: BaseHTTPRequestHandler) -> None:
        span = request.headers.get("Range", "")
        login = request.headers.get("Authorization", "")
        self.seen.append(Seen(request.command, request.path, span, bool(login)))
        fault = self._fault(request)
        if fault and fault.kind == "slow":
            self.released.wait(fault.seconds)
            fault = None
        if fault and fault.kind == "drop":
            request.close_connection = True
            return
        if fault and fault.kind.isdigit():
            headers = {"Retry-After": fault.retry_after} if fault.retry_after else {}
            _send(request, int(fault.kind), headers, b"no")
            return
        target = self.redirect(request.path)
        if target:
            _send(request, 302, {"Location": target}, b"")
            return
        wanted = "Basic " + base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        if self.login and login != wanted:
            _send(request, 401, {"WWW-Authenticate": 'Basic realm="test"'}, b"who are you?")
            return
        status, headers, body = self._answer(request)
        if fault and fault.kind == "page":
            status, headers, body = 200, {"Content-Type": "text/html"}, b"<!DOCTYPE html>Log in"
        if fault and fault.kind == "garbage":
            headers, body = {}, b"\0" * len(body)
        _send(request, status, headers, body, fault, self.released)

    def _fault(self, request: BaseHTTPRequestHandler) -> Fault | None:
        with self._lock:
            for fault in self.faults:
                if fault.where in request.path and request.command in fault.methods:
                    fault.times -= 1
                    if fault.times <= 0:
                        self.faults.remove(fault)
                    return fault
        return None

    def _answer(self, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
        if self.upstream:
            return _forward(self.upstream, request)
        assert self.root is not None
        path = self.root / unquote(urlsplit(request.path).path).lstrip("/")
        if path.is_dir():
            names = sorted(one.name + "/" * one.is_dir() for one in path.iterdir())
            links = "".join(f'<a href="{quote(n)}">{escape(n)}</a>\n' for n in ["../", *names])
            return 200, {"Content-Type": "text/html"}, f"<html>{links}</html>".encode()
        if not path.is_file():
            return 404, {}, b"not here"
        body = path.read_bytes()
        headers = {"Content-Type": "application/octet-stream"}
        tag = f'"{sha256(body).hexdigest()[:16]}"'
        if self.etags:
            headers["ETag"] = tag
        span = re.match(r"bytes=(\d+)-(\d*)", request.headers.get("Range", ""))
        if not span or not self.ranges or request.headers.get("If-Range", tag) != tag:
            return 200, headers, body
        first, last = int(span[1]), min(int(span[2] or len(body) - 1), len(body) - 1)
        if first >= len(body):
            return 416, {"Content-Range": f"bytes */{len(body)}"}, b""
        headers["Content-Range"] = f"bytes {first}-{last}/{len(body)}"
        return 206, headers, body[first : last + 1]


def _send(
    request: BaseHTTPRequestHandler,
    status: int,
    headers: dict[str, str],
    body: bytes,
    fault: Fault | None = None,
    released: threading.Event | None = None,
) -> None:
    request.send_response(status)
    length = headers.pop("Content-Length", str(len(body)))
    for name, value in {**headers, "Content-Length": length}.items():
        request.send_header(name, value)
    request.end_headers()
    if request.command == "HEAD":
        return
    if fault and fault.kind in ("cut", "stall"):
        request.wfile.write(body[: int(len(body) * fault.share)])
        request.wfile.flush()
        if fault.kind == "stall" and released:
            released.wait(60)
        request.close_connection = True
        return
    request.wfile.write(body)


def _forward(upstream: str, request: BaseHTTPRequestHandler) -> tuple[int, dict[str, str], bytes]:
    length = int(request.headers.get("Content-Length", 0))
    data = request.rfile.read(length) if length else None
    passed = {k: v for k, v in request.headers.items() if k.lower() not in ("connection",)}
    again = urllib.request.Request(
        upstream + request.path, data=data, headers=passed, method=request.command
    )
    try:
        with urllib.request.urlopen(again) as answer:
            status, headers, body = answer.status, answer.headers, answer.read()
    except urllib.error.HTTPError as error:
        status, headers, body = error.code, error.headers, error.read()
    drop = ("connection", "transfer-encoding", "date", "server")
    kept = {k: v for k, v in headers.items() if k.lower() not in drop}
    if request.command != "HEAD":
        kept.pop("Content-Length", None)
    return status, kept, body


@contextlib.contextmanager
def serving(root: Path | None = None, **options: object) -> Iterator[FaultyServer]:
    """A server for a block."""
    server = FaultyServer(root, **options)  # type: ignore[arg-type]
    try:
        yield server
    finally:
        server.close()
