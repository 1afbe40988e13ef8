"""Files that lie elsewhere, read in ranges through fsspec.

Two kinds: object stores, which know sizes and lists (:class:`ObjectStore`), and web servers, which
give a file's bytes and little else (:class:`WebServer`).
"""

from __future__ import annotations

import contextlib
import time
from base64 import b64encode
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

from survey_gampen.addresses import is_web, shown
from survey_gampen.credentials import login
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.net.faults import SERVICE, Denied, Missing, sorted_faults

#: Seconds to wait before each repetition of a request that a web server did not answer well.
WAITS = (0.5, 2.0, 8.0)
#: Seconds without a connection, and without a byte, after which a server counts as down.
CONNECT_SECONDS, SILENT_SECONDS = 30.0, 60.0
#: A web server that ignores ranges may send as much as this for one.
_MOST_UNASKED = 1 << 20
_PIECE = 1 << 20

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
        if scheme in ("http", "https", "s3", "s3a"):
            how = 'pip install "survey-gampen[remote]"'
        else:
            how = f"the package that fsspec needs for {scheme}://"
        raise InputError(f"{shown(url)} lies elsewhere: install what reads it, {how}") from None
    except ValueError:  # fsspec knows of no such thing
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
        import fsspec

        # Nothing is remembered of what was there: others may write.
        self.fs = fsspec.filesystem(scheme, use_listings_cache=False, skip_instance_cache=True)

    def read(self, url: str, start: int, length: int) -> bytes:
        with sorted_faults(url):
            data: bytes = self.fs.cat_file(url, start=start, end=start + length)
        return _complete(url, data, length)

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

    A password is looked for, and sent, only where a server asks for one. Proxies come from the
    environment, as for curl.
    """

    def __init__(self) -> None:
        import aiohttp
        import fsspec

        timeout = aiohttp.ClientTimeout(
            total=None, sock_connect=CONNECT_SECONDS, sock_read=SILENT_SECONDS
        )
        # Not with trust_env: aiohttp would send passwords of ~/.netrc unasked and unencrypted.
        self.fs = fsspec.filesystem(
            "https", skip_instance_cache=True, client_kwargs={"timeout": timeout}
        )
        self._logins: dict[str, str] = {}

    def read(self, url: str, start: int, length: int) -> bytes:
        async def get() -> bytes:
            data, first, _ = await self._range(url, f"{start}-{start + length - 1}", length)
            skip = start - first
            return data[skip : skip + length]

        return self._patiently(url, lambda: _complete(url, self._run(get), length))

    def tail(self, url: str, length: int, size: int | None = None) -> tuple[bytes, int]:
        async def get() -> tuple[bytes, int]:
            data, first, size = await self._range(url, f"-{length}", length)
            wanted = min(length, size)
            return _complete(url, data[size - wanted - first :], wanted), size

        return self._patiently(url, lambda: self._run(get))

    def fetch(self, url: str, path: Path, at_most: int) -> None:
        async def get() -> None:
            async with await self._get(url, _PLAIN) as answer:
                answer.raise_for_status()
                _check_size(url, answer.content_length or 0, at_most)
                size = 0
                with path.open("wb") as file:
                    async for piece in answer.content.iter_chunked(_PIECE):
                        size += len(piece)
                        _check_size(url, size, at_most)
                        file.write(piece)

        self._patiently(url, lambda: self._run(get))

    def find(self, url: str) -> dict[str, int] | None:
        return None

    def is_file(self, url: str) -> bool:
        self.tail(url, 1)
        return True

    async def _range(self, url: str, wanted: str, length: int) -> tuple[bytes, int, int]:
        """Bytes, the place of the first of them, and the size of the file."""
        async with await self._get(url, {**_PLAIN, "Range": f"bytes={wanted}"}) as answer:
            if answer.status == 416 and answer.headers.get("Content-Range") == "bytes */0":
                return b"", 0, 0  # nothing can be a part of nothing
            answer.raise_for_status()
            if answer.status == 206:
                # "bytes 0-99/1234" (RFC 9110, section 14.4).
                span, _, size = answer.headers["Content-Range"].split()[-1].partition("/")
                return await answer.read(), int(span.partition("-")[0]), int(size)
            size = answer.content_length
            if size is None or size > max(length, _MOST_UNASKED):
                raise InputError(
                    f"{shown(url)}: {urlsplit(url).hostname} gives no parts of files; download it "
                    "and give the path of your copy"
                )
            return await answer.read(), 0, size

    async def _get(self, url: str, headers: dict[str, str]) -> Any:
        session = await self.fs.set_session()
        parts = urlsplit(url)
        proxy = None
        if not proxy_bypass(parts.hostname or ""):
            proxy = getproxies().get(parts.scheme)
        # Only to this server: where it redirects to, aiohttp sends no password.
        secret = self._logins.get(parts.netloc)
        if secret:
            headers = {**headers, "Authorization": secret}
        return session.get(self.fs.encode_url(url), headers=headers, proxy=proxy)

    def _run(self, call: Callable[[], Awaitable[_Result]]) -> _Result:
        from fsspec.asyn import sync

        result: _Result = sync(self.fs.loop, call)
        return result

    def _patiently(self, url: str, call: Callable[[], _Result]) -> _Result:
        """Do it, with a password where it needs one that is known here."""
        try:
            return self._again(url, call)
        except Denied:
            if not self._knows_login(url):
                raise
        return self._again(url, call)

    def _knows_login(self, url: str) -> bool:
        """Look for the password of a server, once."""
        host = urlsplit(url).netloc
        if host in self._logins:
            return False
        found = login(SERVICE, url)
        words = "" if found is None else f"{found.user}:{found.password}"
        self._logins[host] = words and f"Basic {b64encode(words.encode()).decode()}"
        return found is not None

    def _again(self, url: str, call: Callable[[], _Result]) -> _Result:
        """Do it again for a while where the server or the network may be better later."""
        for seconds in WAITS:
            with contextlib.suppress(OutsideFault), sorted_faults(url):
                return call()
            time.sleep(seconds)
        with sorted_faults(url):
            return call()


#: Servers may pack what they send; then ranges and sizes would be those of the packed file.
_PLAIN = {"Accept-Encoding": "identity"}


def _complete(url: str, data: bytes, length: int) -> bytes:
    if len(data) != length:
        raise OutsideFault(
            f"{shown(url)}: {len(data)} bytes came instead of {length}; run the same command again"
        )
    return data


def _check_size(url: str, size: int, at_most: int) -> None:
    if size > at_most:
        raise InputError(
            f"{shown(url)}: more than {at_most / 1e9:.1f} GB is too large for this kind of file; "
            "convert it to Parquet first"
        )
