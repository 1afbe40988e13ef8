"""Files over HTTP: asked for in ranges, with a password where the server wants one.

The names of such files are paths as they stand in the address, ``%2C`` and all, so that a name is
sent as it was got.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from urllib.parse import quote, unquote

from requests import Response

from survey_gampen.ahead import ahead
from survey_gampen.credentials import plain_url
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.images.places.listing import FileFacts, is_image_name
from survey_gampen.images.places.pages import find_images, links_of
from survey_gampen.images.places.remote import Ask, NoRanges, Stream
from survey_gampen.net.body import Body
from survey_gampen.net.faults import ABSENT, DENIED, Refused
from survey_gampen.net.server import PLAIN, Server
from survey_gampen.net.waiting import Transient

#: A server that sends nothing for so long is asked again, seconds.
TIMEOUT = 60.0


class HttpStore:
    """A folder of a server, or one of its files.

    The password is sent only to a server that asks for it, never to where it redirects, and it is
    no part of any message.

    Parameters
    ----------
    url : str
        Address of the folder, or of the only file wanted.
    service : str
        Name under which the login is kept, see :func:`survey_gampen.credentials.login`.
    timeout : float
        Seconds, see ``TIMEOUT``.

    Raises
    ------
    InputError
        The address holds a password.
    """

    def __init__(self, url: str, service: str, timeout: float = TIMEOUT) -> None:
        parts = plain_url(url)
        self.address, self._only = url.rstrip("/"), ""
        if is_image_name(unquote(parts.path)):
            self.address, _, self._only = self.address.rpartition("/")
        self.host = parts.netloc
        self._server = Server(service, f"{self.address}/", connect=timeout, silence=timeout)

    def where(self, name: str) -> str:
        """Address of a file, for messages and for the request."""
        return f"{self.address}/{quote(name, safe=_SAFE)}" if name else f"{self.address}/"

    # --- What a store offers ----------------------------------------------------------------------

    def facts(self, name: str) -> FileFacts | None:
        """Size and tag of a file, or None where there is none."""
        with self._request("HEAD", name) as answer:
            return None if answer is None else _facts(name, answer)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Bytes ``start`` to ``stop`` (excluded) of a file."""
        span = {"Range": f"bytes={start}-{stop - 1}"}
        with self._request("GET", name, span) as answer:
            if answer is None:
                raise FileNotFoundError(self.where(name))
            if answer.status_code != 206 or _first_byte(answer) != start:
                raise NoRanges(self.where(name))
            return b"".join(_body(answer))

    @contextlib.contextmanager
    def stream(self, name: str, start: int, tag: str) -> Iterator[Stream | None]:
        """A file from byte `start` on, if it still is that of `tag`; else from its beginning."""
        headers = {}
        if start and tag and not tag.startswith("W/"):  # a weak tag does not tell bytes apart
            headers = {"Range": f"bytes={start}-", "If-Range": tag}
        with self._request("GET", name, headers) as answer:
            if answer is None:
                yield None
                return
            first = _first_byte(answer) if answer.status_code == 206 else 0
            if first not in (0, start):
                raise Transient("the server sent another range than asked for")
            size = _facts(name, answer).size
            yield Stream(first, size, _tag(answer), _body(answer))

    def find_all(self, ask: Ask) -> list[FileFacts]:
        """All images that the pages below the address link to, or the one that it is.

        Raises
        ------
        InputError
            Nothing there, or no listing.
        """
        names = [self._only] if self._only else sorted(find_images(self.address, self._links, ask))
        found = list(ahead(lambda name: ask(name, lambda: self.facts(name)), names, threads=8))
        if not any(found):
            raise InputError(f"{self.where(names[0])}: nothing there; is the address right?")
        return [facts for facts in found if facts]

    def has_folder(self, name: str) -> bool:
        """Whether the server has such a folder, as far as it tells.

        Raises
        ------
        InputError
            It wants a login.
        """
        with self._request("GET", f"{name}/" if name else "") as answer:
            return answer is not None

    # --- Requests ---------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _request(
        self, method: str, name: str, headers: dict[str, str] | None = None
    ) -> Iterator[Response | None]:
        """Open an address; None where nothing is there.

        Raises
        ------
        Transient
            Asking again may help.
        InputError
            The server wants a login, or another.
        OutsideFault
            It answers what nobody can use.
        """
        answer = self._ask(method, name, headers or {})
        if answer is None:
            yield None
        else:
            with answer:
                yield answer

    def _ask(self, method: str, name: str, headers: dict[str, str]) -> Response | None:
        url = self.where(name)
        try:
            every = {**_HEADERS, **headers}
            return self._server.once(method, url, accept=(200, 206), headers=every)
        except Refused as refusal:
            code, said = refusal.status, str(refusal)
        if code in ABSENT:
            return None
        if code in DENIED:
            raise InputError(said)
        if code in (405, 501) and method == "HEAD":  # then the first byte tells as much
            return self._ask("GET", name, {"Range": "bytes=0-0"})
        if code == 416 and headers:
            return self._ask(method, name, {})
        raise OutsideFault(f"{url}: the server answers {code}; is the address right?")

    def _links(self, page: str) -> list[str] | None:
        """Where a page links to; None: there is no such page."""
        with self._request("GET", page) as answer:
            if answer is None:
                return None
            if "html" not in answer.headers.get("Content-Type", "html"):
                raise InputError(f"{self.where(page)}: no page with links to images")
            return links_of(b"".join(_body(answer)))


#: Characters of a path that are sent as they are; ``%`` because names are encoded already.
_SAFE = "/%:@!$&'()*+,;=~-._"
#: A connection is not kept after its request, or there would be more of them than slots.
_HEADERS = {**PLAIN, "Connection": "close"}


def _body(answer: Response) -> Iterator[bytes]:
    return Body(answer, unpack=False).chunks()


def _tag(answer: Response) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def _first_byte(answer: Response) -> int | None:
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else None


def _facts(name: str, answer: Response) -> FileFacts:
    """Size (-1: not told) and tag that the headers of an answer tell."""
    match = re.match(r"bytes .*/(\d+)$", answer.headers.get("Content-Range", ""))
    size = match.group(1) if match else answer.headers.get("Content-Length", "-1")
    return FileFacts(name, int(size), 0, _tag(answer))
