"""Files over HTTP: asked for in ranges, with a password where the server wants one.

The names of such files are paths as they stand in the address, ``%2C`` and all, so that a name is
sent as it was got.
"""

from __future__ import annotations

import base64
import contextlib
import http.client
import re
import socket
import ssl
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from html.parser import HTMLParser
from urllib.error import HTTPError, URLError
from urllib.parse import quote, unquote, urljoin, urlsplit

from survey_gampen import __version__
from survey_gampen.credentials import how_to, login, plain_url
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.images.listing import FileFacts, is_image_name
from survey_gampen.images.remote import Ask, NoRanges, Stream
from survey_gampen.images.waiting import CutOff, Transient, retry_after

#: A server that sends nothing for so long is asked again, seconds.
TIMEOUT = 60.0
#: Answers that mean "later", RFC 9110 and RFC 6585.
_LATER = frozenset({408, 425, 429, 500, 502, 503, 504})
_ABSENT = frozenset({404, 410})
#: Pages of listings that are read, at most: a folder with more is no folder of images.
_PAGES = 2_000


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
        self.service, self.timeout = service, timeout
        self._authorization: str | None = None
        self._opener = urllib.request.build_opener()

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
            if answer.status != 206 or _first_byte(answer) != start:
                raise NoRanges(self.where(name))
            return b"".join(self._chunks(answer))

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
            first = _first_byte(answer) if answer.status == 206 else 0
            if first not in (0, start):
                raise Transient("the server sent another range than asked for")
            size = _facts(name, answer).size
            yield Stream(first, size, _tag(answer), self._chunks(answer))

    def find_all(self, ask: Ask) -> list[FileFacts]:
        """All images that the pages below the address link to, or the one that it is.

        Raises
        ------
        InputError
            Nothing there, or no listing.
        """
        names = [self._only] if self._only else sorted(self._crawl(ask))
        with ThreadPoolExecutor(max_workers=8) as pool:
            found = list(pool.map(lambda n: ask(n, lambda: self.facts(n)), names))
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
    ) -> Iterator[http.client.HTTPResponse | None]:
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
        try:
            yield answer
        finally:
            if answer is not None:
                answer.close()

    def _ask(
        self, method: str, name: str, headers: dict[str, str]
    ) -> http.client.HTTPResponse | None:
        url = self.where(name)
        request = urllib.request.Request(url, method=method, headers=headers)
        request.add_header("User-Agent", f"survey-gampen/{__version__}")
        request.add_header("Accept-Encoding", "identity")
        if self._authorization:
            request.add_unredirected_header("Authorization", self._authorization)
        with _failures(self.host):
            try:
                answer: http.client.HTTPResponse = self._opener.open(request, timeout=self.timeout)
                return answer
            except HTTPError as refusal:
                refusal.close()
                code, after = refusal.code, retry_after(refusal.headers.get("Retry-After"))
        if code in _ABSENT:
            return None
        if code == 401 and self._authorization is None and self._log_in():
            return self._ask(method, name, headers)
        if code in (401, 403):
            raise InputError(self._denied(code))
        if code in (405, 501) and method == "HEAD":  # then the first byte tells as much
            return self._ask("GET", name, {"Range": "bytes=0-0"})
        if code == 416:
            return self._ask(method, name, {})
        if code in _LATER:
            said = http.client.responses.get(code, "")
            raise Transient(f"the server answers {code} {said}".rstrip(), after)
        raise OutsideFault(f"{url}: the server answers {code}; is the address right?")

    def _log_in(self) -> bool:
        found = login(self.service, f"{self.address}/")
        if found is None:
            return False
        user, password = found
        pair = base64.b64encode(f"{user}:{password}".encode()).decode("ascii")
        self._authorization = f"Basic {pair}"
        return True

    def _denied(self, code: int) -> str:
        if self._authorization is None:
            return f"{self.host} wants a login ({code}): {how_to(self.service)}"
        return (
            f"{self.host} does not take this login ({code}): look whether it is right, and whether "
            f"the account may read {self.address}; {how_to(self.service)}"
        )

    def _chunks(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        """The body; a connection that ends before it does is an error."""
        while True:
            with _failures(self.host):
                try:
                    chunk = answer.read1(1 << 20)  # what is there: it is kept if no more comes
                except http.client.IncompleteRead as error:
                    missing = f"{error.expected} bytes missing"
                    raise CutOff(f"the answer ended early ({missing})") from None
            if not chunk:
                break
            yield chunk
        if answer.length:  # what is left of what was announced
            raise CutOff(f"the answer ended early ({answer.length} bytes missing)")

    # --- Listings ---------------------------------------------------------------------------------

    def _crawl(self, ask: Ask) -> set[str]:
        """Names of all images below the address that its pages link to."""
        base = urlsplit(f"{self.address}/")
        found, seen, todo = set[str](), {""}, [""]
        while todo:
            page = todo.pop()
            for link in ask(page, partial(self._links, page)):
                to = urlsplit(urljoin(self.where(page), link))
                if to.netloc != base.netloc or not to.path.startswith(base.path) or to.query:
                    continue
                name = to.path[len(base.path) :]
                if name.endswith("/") and name not in seen:
                    seen.add(name)
                    todo.append(name)
                elif is_image_name(unquote(name)):
                    found.add(name)
            if len(seen) > _PAGES:
                raise InputError(
                    f"{self.address}/: more than {_PAGES} folders; use a profile with a sky map"
                )
        if not found:
            raise InputError(f"{self.address}/: links to no FITS file")
        return found

    def _links(self, page: str) -> list[str]:
        with self._request("GET", page) as answer:
            if answer is None:
                if page:
                    return []
                raise InputError(f"{self.address}/: nothing there; is the address right?")
            if "html" not in answer.headers.get("Content-Type", "html"):
                raise InputError(f"{self.where(page)}: no page with links to images")
            text = b"".join(self._chunks(answer)).decode("utf-8", errors="replace")
        links = _Links()
        links.feed(text)
        return links.found


#: Characters of a path that are sent as they are; ``%`` because names are encoded already.
_SAFE = "/%:@!$&'()*+,;=~-._"


class _Links(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag == "a":
            self.found += [value for key, value in attrs if key == "href" and value]


@contextlib.contextmanager
def _failures(host: str) -> Iterator[None]:
    """Tell failures of the network that may be over soon from those that won't."""
    try:
        yield
    except (HTTPError, Transient):
        raise
    except (http.client.HTTPException, OSError) as error:
        reason = error.reason if isinstance(error, URLError) else error
        if isinstance(reason, ssl.SSLCertVerificationError):
            raise OutsideFault(
                f"{host}: the server's certificate is not trusted ({reason.verify_message})"
            ) from None
        if isinstance(reason, socket.gaierror) and reason.errno == socket.EAI_NONAME:
            raise OutsideFault(f"{host}: no such host is known; is the address right?") from None
        words = getattr(reason, "strerror", None) or str(reason) or type(reason).__name__
        raise Transient(f"no answer ({' '.join(str(words).split())})") from None


def _tag(answer: http.client.HTTPResponse) -> str:
    return answer.headers.get("ETag") or answer.headers.get("Last-Modified") or ""


def _first_byte(answer: http.client.HTTPResponse) -> int | None:
    match = re.match(r"bytes (\d+)-", answer.headers.get("Content-Range", ""))
    return int(match.group(1)) if match else None


def _facts(name: str, answer: http.client.HTTPResponse) -> FileFacts:
    """Size (-1: not told) and tag that the headers of an answer tell."""
    match = re.match(r"bytes .*/(\d+)$", answer.headers.get("Content-Range", ""))
    size = match.group(1) if match else answer.headers.get("Content-Length", "-1")
    return FileFacts(name, int(size), 0, _tag(answer))
