"""Files that lie elsewhere, read in ranges.

Two kinds: object stores, which know sizes and lists and are read through fsspec
(:class:`ObjectStore`), and web servers, which give a file's bytes and little else
(:class:`WebServer`).
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import urlsplit

from requests import Response

from survey_gampen.addresses import is_web, shown
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.net.body import Body
from survey_gampen.net.faults import SERVICE, Missing, Refused, sorted_faults
from survey_gampen.net.server import PLAIN, Server
from survey_gampen.net.waiting import CutOff, Patience
from survey_gampen.opening import open_filesystem

#: How a web server is waited for that did not answer well.
PATIENCE = Patience(seconds=15.0, first=0.5, most=8.0)
#: Seconds without a connection, and without a byte, after which a server counts as down.
CONNECT_SECONDS, SILENT_SECONDS = 30.0, 60.0
#: A web server that ignores ranges may send as much as this for one.
_MOST_UNASKED = 1 << 20

_Result = TypeVar("_Result")


class Store(Protocol):
    """What can be asked of a place that is not this machine."""

    def read(self, url: str, start: int, length: int) -> bytes:
        """Return `length` bytes of a file from `start` on."""

    def tail(self, url: str, length: int, size: int | None = None) -> tuple[bytes, int]:
        """Return the last bytes of a file, at most `length`, and its size, if it is not known."""

    def fetch(self, url: str, path: Path, at_most: int) -> None:
        """Copy a file of at most so many bytes to this machine."""

    def find(self, url: str) -> dict[str, int] | None:
        """Return the files of a folder, by name in it, and their sizes; None: no lists here."""

    def is_file(self, url: str) -> bool:
        """Return whether there is a file, or a folder; it is an error when there is neither."""


def open_store(url: str) -> Store:
    """The store of an address.

    Raises
    ------
    InputError
        For an unknown kind of address, or where a package for it is missing.
    """
    scheme = url.partition("://")[0]
    try:
        return WebServer() if is_web(url) else ObjectStore(scheme)
    except ImportError:
        if scheme in ("s3", "s3a"):
            how = 'pip install "survey-gampen[remote]"'
        else:
            how = f"the package that fsspec needs for {scheme}://"
        raise InputError(f"{shown(url)} lies elsewhere: install what reads it, {how}") from None
    except (ValueError, TypeError):  # fsspec knows of no such thing, or needs to be told more
        raise InputError(f"{shown(url)}: {scheme}:// is unknown; give https:// or s3://") from None


def read_text(store: Store, url: str, at_most: int = 1 << 28) -> str | None:
    """A text file as a whole; None where there is none.

    Raises
    ------
    InputError, OutsideFault
    """
    try:
        data, size = store.tail(url, at_most)
    except Missing:
        return None
    if size > at_most:
        raise InputError(f"{shown(url)} has {size / 1e6:.0f} MB: too much for what it should be")
    return data.decode("utf-8", errors="replace")


class ObjectStore:
    """``s3://`` and whatever else fsspec has a package for."""

    def __init__(self, scheme: str) -> None:
        self.fs = open_filesystem(scheme, skip_instance_cache=True)  # keys may be others now

    def read(self, url: str, start: int, length: int) -> bytes:
        with sorted_faults(url):
            data: bytes = self.fs.cat_file(url, start=start, end=start + length)
        if len(data) != length:
            raise OutsideFault(
                f"{shown(url)}: {len(data)} bytes came instead of {length}; run the same command"
                " again"
            )
        return data

    def tail(self, url: str, length: int, size: int | None = None) -> tuple[bytes, int]:
        if size is None:
            with sorted_faults(url):
                size = int(self.fs.size(url) or 0)
        wanted = min(length, size)
        return (self.read(url, size - wanted, wanted) if wanted else b""), size

    def fetch(self, url: str, path: Path, at_most: int) -> None:
        with sorted_faults(url):
            size = int(self.fs.size(url) or 0)
            _check_size(url, size, at_most)
            self.fs.get_file(url, str(path))

    def find(self, url: str) -> dict[str, int] | None:
        with sorted_faults(url):
            found = self.fs.find(url, detail=True)
            root = len(self.fs._strip_protocol(url)) + 1
            return {name[root:]: int(about["size"]) for name, about in found.items()}

    def is_file(self, url: str) -> bool:
        with sorted_faults(url):
            return bool(self.fs.info(url)["type"] == "file")


class WebServer:
    """``https://``: each request asks for a range and looks whether it got one.

    A password is looked for, and sent, only where a server asks for one.
    """

    def __init__(self) -> None:
        self._servers: dict[str, Server] = {}

    def read(self, url: str, start: int, length: int) -> bytes:
        def get() -> bytes:
            data, first, _ = self._range(url, f"{start}-{start + length - 1}", length)
            return _whole(data[start - first :][:length], length)

        return _patiently(url, get)

    def tail(self, url: str, length: int, size: int | None = None) -> tuple[bytes, int]:
        def get() -> tuple[bytes, int]:
            data, first, size = self._range(url, f"-{length}", length)
            wanted = min(length, size)
            return _whole(data[size - wanted - first :], wanted), size

        return _patiently(url, get)

    def fetch(self, url: str, path: Path, at_most: int) -> None:
        def get() -> None:
            with self._server(url).once("GET", url, headers=PLAIN) as answer:
                _check_size(url, _length(answer) or 0, at_most)
                size = 0
                with path.open("wb") as file:
                    for piece in Body(answer, unpack=False).chunks():
                        size += len(piece)
                        _check_size(url, size, at_most)
                        file.write(piece)

        _patiently(url, get)

    def find(self, url: str) -> dict[str, int] | None:
        return None

    def is_file(self, url: str) -> bool:
        self.tail(url, 1)
        return True

    def _range(self, url: str, wanted: str, length: int) -> tuple[bytes, int, int]:
        """Bytes, the place of the first of them, and the size of the file."""
        headers = {**PLAIN, "Range": f"bytes={wanted}"}
        with self._server(url).once("GET", url, accept=(200, 206, 416), headers=headers) as answer:
            told = answer.headers.get("Content-Range", "")
            body = Body(answer, unpack=False)
            if answer.status_code == 416:
                if told == "bytes */0":
                    return b"", 0, 0  # nothing can be a part of nothing
                raise Refused(f"{shown(url)}: no such part of it", 416)
            if answer.status_code == 206:
                # "bytes 0-99/1234" (RFC 9110, section 14.4).
                span, _, size = told.split()[-1].partition("/")
                return body.read(), int(span.partition("-")[0]), int(size)
            whole = _length(answer)
            if whole is None or whole > max(length, _MOST_UNASKED):
                raise InputError(
                    f"{shown(url)}: {urlsplit(url).hostname} gives no parts of files; download it "
                    "and give the path of your copy"
                )
            return body.read(), 0, whole

    def _server(self, url: str) -> Server:
        """The server of an address; one for each scheme, host and port."""
        parts = urlsplit(url)
        key = f"{parts.scheme}://{parts.netloc}"
        if key not in self._servers:
            server = Server(SERVICE, url, connect=CONNECT_SECONDS, silence=SILENT_SECONDS)
            self._servers.setdefault(key, server)
        return self._servers[key]


def _patiently(url: str, call: Callable[[], _Result]) -> _Result:
    """Do it again for a while where the server or the network may be better later."""
    with sorted_faults(url):
        return PATIENCE(f"{shown(url)} can't be read now", call)


def _length(answer: Response) -> int | None:
    told = answer.headers.get("Content-Length", "")
    return int(told) if told.isdigit() else None


def _whole(data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise CutOff(f"{len(data)} bytes came instead of {length}")
    return data


def _check_size(url: str, size: int, at_most: int) -> None:
    if size > at_most:
        raise InputError(
            f"{shown(url)}: more than {at_most / 1e9:.1f} GB is too large for this kind of file; "
            "convert it to Parquet first"
        )
