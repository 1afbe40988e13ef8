"""Talk to a service over HTTP: few connections, patience, and words that hold no secret.

What the network or the server may do is told apart here, once:

* no connection, no answer in time, 408, 425, 429, 5xx: wait, longer each time, and ask again; after
  some time without any progress, :class:`OutsideFault`;
* 401, 403: :class:`InputError`. Once a service has let us in, a refusal must come three times in a
  row, for the password itself was right;
* any other refusal, or a certificate that does not hold: :class:`InputError`.

Errors are raised outside of the handlers of the library's own, whose objects hold the request with
its headers: nothing of those may travel along with an error from a worker to the client.
"""

from __future__ import annotations

import base64
import contextlib
import email.utils
import socket
import threading
import time
from collections.abc import Iterator
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from survey_gampen import __version__
from survey_gampen.credentials import Login, Token, how_to, plain_url
from survey_gampen.errors import InputError
from survey_gampen.images.patience import Backoff, CutOffError, Manners
from survey_gampen.images.slots import Slots

#: Refusals in a row, of a service that has let us in before, until they are believed.
_REFUSALS = 3
_LATER = (408, 425, 429)


class Client:
    """Requests to one service.

    The secret goes to the service's own scheme, host and port only, whatever address an answer of
    the service may name, and into the header only.

    Parameters
    ----------
    service : str
        Short name, as in the names of variables: ``hsc``.
    url : str
        Its address.
    secret : Login, Token or None
    manners : Manners
    slots : Slots
        Shared with the other workers.

    Raises
    ------
    InputError
        The address holds a password; the library is not installed.
    """

    def __init__(
        self, service: str, url: str, secret: Login | Token | None, manners: Manners, slots: Slots
    ) -> None:
        _library()
        parts = plain_url(url)
        self.host = parts.netloc
        self.manners = manners
        self._service, self._secret, self._slots = service, secret, slots
        self._origin = _origin(url)
        self._mine = threading.local()
        self._known, self._refused = False, 0

    def backoff(self) -> Backoff:
        """A new count of failures, for one task."""
        return Backoff(self.manners, self.host)

    @contextlib.contextmanager
    def ask(self, method: str, url: str, backoff: Backoff, **words: Any) -> Iterator[Any]:
        """Ask until an answer begins; gives the ``requests.Response``, whose body is yet to come.

        Parameters
        ----------
        method : str
            ``GET`` or ``POST``.
        url : str
        backoff : Backoff
        **words
            ``files``, ``data``, ``params``, ``allow_redirects`` of ``requests``; ``accept``: other
            codes than 200 that are answers; ``empty``: words by which a refusal means that there
            is nothing.

        Raises
        ------
        InputError
            The service does not let us in, or does not understand us.
        OutsideFault
            No answer for long.
        """
        accept, empty = (200, *words.pop("accept", ())), words.pop("empty", "")
        while True:
            with self._slots.one():
                response, trouble = self._send(method, url, words)
                if response is not None:
                    try:
                        trouble, pause = self._judge(response, accept, empty)
                        if not trouble:
                            yield response
                            return
                    finally:
                        response.close()
                else:
                    pause = 0.0
            backoff.wait(trouble, pause)

    def fetch(self, method: str, url: str, backoff: Backoff, limit: int, **words: Any) -> bytes:
        """Ask until a whole answer has come, of no more than `limit` bytes; empty if it is none."""
        while True:
            with self.ask(method, url, backoff, **words) as response:
                if response.status_code != 200:
                    return b""
                try:
                    content = Body(response).read(limit + 1)
                    if len(content) > limit:
                        raise InputError(f"{self.host}: an answer of more than {limit} bytes")
                    return content
                except CutOffError as error:
                    reason = str(error)
            backoff.wait(reason)

    def _send(self, method: str, url: str, words: dict[str, Any]) -> tuple[Any, str]:
        """One request: the response, or why there is none."""
        requests = _library()
        fatal = ""
        try:
            response = self._session().request(
                method,
                url,
                stream=True,
                timeout=(self.manners.connect, self.manners.silence),
                auth=self._authorise,
                **words,
            )
            return response, ""
        except requests.exceptions.SSLError:
            fatal = "its certificate can't be verified: check the address and the machine's clock"
        except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema):
            fatal = "no address of a service"
        except requests.exceptions.Timeout:
            trouble = "no answer in time"
        except requests.RequestException as error:
            trouble = f"cannot be reached ({_root(error)})"
        if fatal:
            raise InputError(f"{self.host}: {fatal}")
        return None, trouble

    def _judge(self, response: Any, accept: tuple[int, ...], empty: str) -> tuple[str, float]:
        """Return ("", 0) for an answer, else why to ask again and how long to wait at least."""
        code = response.status_code
        if code in accept:
            self._known, self._refused = True, 0
            return "", 0.0
        said = f"answers {code} {_phrase(code)}".strip()
        if code in (401, 403):
            self._refused += 1
            if self._known and self._refused < _REFUSALS:
                return said, 0.0
            kind = "login" if isinstance(self._secret, Login) else "token"
            what = {"login": "name and password", "token": "the token"}[kind]
            raise InputError(f"{self.host} refuses {what} ({code}): {how_to(self._service, kind)}")
        if code >= 500 or code in _LATER:
            return said, _retry_after(response.headers.get("Retry-After"))
        words = self._words(response)
        if empty and empty in words.lower():
            return "", 0.0
        raise InputError(f"{self.host} {said}: {words}")

    def _words(self, response: Any) -> str:
        """The beginning of what the server says, without our secret should it repeat that."""
        try:
            text = response.raw.read(4000, decode_content=True).decode("utf-8", "replace")
        except Exception:  # it matters little why this cannot be had
            text = ""
        for hidden in self._hidden():
            text = text.replace(hidden, "...")
        return " ".join(text.split())[:200] or "check the address and what is asked for"

    def _hidden(self) -> list[str]:
        if isinstance(self._secret, Login):
            return [self._secret.password, _basic(self._secret)]
        return [self._secret.value] if self._secret else []

    def _authorise(self, prepared: Any) -> Any:
        """Put the secret into a request that goes to the service itself."""
        if self._secret is not None and _origin(prepared.url) == self._origin:
            word = "Basic" if isinstance(self._secret, Login) else "Bearer"
            secret = self._secret
            value = _basic(secret) if isinstance(secret, Login) else secret.value
            prepared.headers["Authorization"] = f"{word} {value}"
        return prepared

    def _session(self) -> Any:
        """A session of this thread's own; they are not made to be shared."""
        if not hasattr(self._mine, "session"):
            session = _library().Session()
            session.headers["User-Agent"] = f"survey-gampen/{__version__}"
            self._mine.session = session
        return self._mine.session


class Body:
    """What comes after the headers, as a file to be read once.

    Raises
    ------
    CutOffError
        From :meth:`read`, where the connection breaks, is silent for too long, or ends before all
        has come that was announced.
    """

    def __init__(self, response: Any) -> None:
        self._raw = response.raw

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        trouble = ""
        parts: list[bytes] = []
        left = size
        try:
            while left:
                part = self._raw.read(left if left > 0 else None, decode_content=True)
                if not part:
                    break
                parts.append(part)
                left = left - len(part) if left > 0 else 0
        except Exception as error:  # urllib3's, http.client's and the socket's
            trouble = _root(error)
        if trouble:
            raise CutOffError(f"the answer was cut off ({trouble})")
        return b"".join(parts)


def _library() -> Any:
    try:
        import requests
    except ImportError:
        raise InputError(
            "images from a service need the package requests: pip install 'survey-gampen[remote]'"
        ) from None
    return requests


def _phrase(code: int) -> str:
    with contextlib.suppress(ValueError):
        return HTTPStatus(code).phrase
    return ""


def _origin(url: str) -> tuple[str, str | None, int | None]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme)
    return parts.scheme, parts.hostname, parts.port or default


def _basic(secret: Login) -> str:
    return base64.b64encode(f"{secret.user}:{secret.password}".encode()).decode("ascii")


def _root(error: BaseException) -> str:
    """The innermost cause in few words; those of the layers above repeat the whole request."""
    seen: set[int] = set()
    inner: BaseException = error
    while id(inner) not in seen:
        seen.add(id(inner))
        reason = getattr(inner, "reason", None)
        nested = [arg for arg in inner.args if isinstance(arg, BaseException)]
        nested += [inner.__cause__] if inner.__cause__ is not None else []
        inner = reason if isinstance(reason, BaseException) else (nested or [inner])[0]
    if isinstance(inner, socket.gaierror):
        return "no such host"
    if isinstance(inner, OSError) and inner.strerror:
        return inner.strerror
    return type(inner).__name__


def _retry_after(value: str | None) -> float:
    """Seconds that a server asks us to wait (RFC 9110, 10.2.3: a number, or a date)."""
    if not value:
        return 0.0
    with contextlib.suppress(ValueError):
        return max(0.0, float(value))
    with contextlib.suppress(ValueError, TypeError):
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    return 0.0
