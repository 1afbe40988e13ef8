"""Servers for tests of catalogues that lie elsewhere: a web server with faults to order."""

from __future__ import annotations

import base64
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType


class WebServer:
    """Serves the files of a folder by HTTP on this machine.

    Attributes
    ----------
    url : str
    statuses : dict
        Statuses by path, one for each request to come; then it is served.
    cut : dict
        By path, how many answers to come break off in the middle.
    ranges : bool
        Whether parts of files are given.
    login : str
        ``user:password`` that is asked for; empty: nobody is asked.
    moved : dict
        Addresses that paths are sent on to.
    silent : str
        What lies below this path is not answered, until the server ends; empty: all is.
    asked : threading.Semaphore
        Counts requests that are not answered.
    told : list of str
        Passwords that came.
    sent : int
        Bytes of files that were sent.
    requests : list of (str, str)
        Path and range of each request.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.statuses: dict[str, list[int]] = {}
        self.cut: dict[str, int] = {}
        self.ranges = True
        self.login = ""
        self.moved: dict[str, str] = {}
        self.silent = ""
        self.asked = threading.Semaphore(0)
        self._over = threading.Event()
        self.told: list[str] = []
        self.sent = 0
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.Lock()
        ours = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *words: object) -> None:
                pass

            def do_GET(self) -> None:
                ours.answer(self)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> WebServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, wanted = request.path.partition("?")[0], request.headers.get("Range", "")
        with self.lock:
            self.requests.append((path, wanted))
            waiting = self.statuses.get(path)
            status = waiting.pop(0) if waiting else 200
            cut = self.cut.get(path, 0) > 0
            self.cut[path] = self.cut.get(path, 0) - 1
        if self.silent and path.startswith(self.silent):
            self.asked.release()
            self._over.wait(120)
            request.close_connection = True
            return
        right = "Basic " + base64.b64encode(self.login.encode()).decode()
        if self.login and request.headers.get("Authorization") != right:
            status = 401
        if "Authorization" in request.headers:
            self.told.append(request.headers["Authorization"])
        if status == 200 and path in self.moved:
            request.send_response(302)
            request.send_header("Location", self.moved[path])
            request.send_header("Content-Length", "0")
            request.end_headers()
            return
        file = self.folder / path.lstrip("/")
        if status == 200 and not file.is_file():
            status = 404
        data, headers = b"", {}
        if status == 200:
            data = file.read_bytes()
            if self.ranges and wanted:
                status, data, headers = _part(data, wanted)
        request.send_response(status)
        for key, value in headers.items():
            request.send_header(key, value)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        if cut:
            data = data[: len(data) // 2]
            request.close_connection = True
        with self.lock:
            self.sent += len(data)
        request.wfile.write(data)


def _part(data: bytes, wanted: str) -> tuple[int, bytes, dict[str, str]]:
    """RFC 9110, section 14: the first and the last byte, or so many from the end."""
    first, last = re.fullmatch(r"bytes=(\d*)-(\d*)", wanted).groups()
    if not data:
        return 416, b"", {"Content-Range": "bytes */0"}
    start = int(first) if first else max(0, len(data) - int(last))
    end = min(int(last) + 1, len(data)) if first and last else len(data)
    return 206, data[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(data)}"}
