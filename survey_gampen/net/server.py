"""One request to a server over HTTP: the answer, or why there is none, told apart here, once.

* no connection, no answer in time, 408, 425, 429, most 5xx: :class:`Transient`, asking again may
  help;
* 401, 403: :class:`Refused`, unless a login is known that was not sent yet. Once the server has let
  us in, a refusal must come three times in a row, for the password itself was right;
* any other answer that is not wanted: :class:`Refused`, whose status tells which;
* a certificate that does not hold, an unknown host: :class:`OutsideFault`.

Errors are raised outside of the handlers of the library's own, whose objects hold the request with
its headers: nothing of those may travel along with an error from a worker to the client.
"""

from __future__ import annotations

import base64
import contextlib
import socket
import ssl
import threading
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

import requests
from requests.exceptions import InvalidSchema, InvalidURL, RequestException, Timeout

from survey_gampen import __version__
from survey_gampen.credentials import Login, Token, how_to, login, plain_url
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.net.body import root_cause, short, words_of
from survey_gampen.net.faults import DENIED, Refused, is_later
from survey_gampen.net.waiting import Transient, retry_after

#: Headers of a request for bytes as they lie there: servers may pack what they send, and then
#: ranges and sizes would be those of the packed file.
PLAIN = {"Accept-Encoding": "identity"}
#: Refusals in a row, of a server that has let us in before, until they are believed.
_REFUSALS = 3


class Server:
    """Requests to one server, by any number of threads.

    The secret goes to the server's own scheme, host and port only, whatever address an answer may
    name, and into the header only. Proxies come from the environment, as for curl.

    Parameters
    ----------
    service : str
        Name under which a login is kept, as in the names of variables: ``hsc``.
    url : str
        An address of the server.
    secret : Login, Token or None
        Sent from the first request on. None: a login is looked for, and sent, only when the server
        asks for it.
    connect, silence : float
        Seconds until a connection must stand, and until the next bytes must have come.

    Raises
    ------
    InputError
        The address holds a password.
    """

    def __init__(
        self,
        service: str,
        url: str,
        secret: Login | Token | None = None,
        *,
        connect: float = 30.0,
        silence: float = 60.0,
    ) -> None:
        self.host = plain_url(url).netloc
        self._service, self._url, self._secret = service, url, secret
        self._origin, self._timeout = _origin(url), (connect, silence)
        self._mine = threading.local()
        self._looked = secret is not None
        self._known, self._refused = False, 0
        self._guard = threading.Lock()

    def once(
        self, method: str, url: str, *, accept: tuple[int, ...] = (200,), **words: Any
    ) -> requests.Response:
        """Make one request; the body is yet to come, and the answer to be closed: use ``with``.

        Parameters
        ----------
        method : str
        url : str
        accept : tuple of int
            Codes that are answers.
        **words
            ``headers``, ``files``, ``data``, ``params``, ``allow_redirects`` of ``requests``.

        Raises
        ------
        Transient
            Asking again may help.
        Refused
            It does not.
        InputError, OutsideFault
            The address is none; the host is unknown or not whom it claims to be.
        """
        # Another thread may find the login while this one waits: then it was not sent here.
        unasked = self._secret is None
        response = self._send(method, url, words)
        code = response.status_code
        if code in (401, 403) and unasked and self._log_in():
            response.close()
            response = self._send(method, url, words)
            code = response.status_code
        if code in accept:
            self._known, self._refused = True, 0
            return response
        try:
            fault = self._fault(code, response)
        finally:
            response.close()
        raise fault

    def _send(self, method: str, url: str, words: dict[str, Any]) -> requests.Response:
        trouble: Exception
        try:
            return self._session().request(method, url, stream=True, timeout=self._timeout, **words)
        except (InvalidURL, InvalidSchema):
            trouble = InputError(f"{self.host}: this is no address of a server")
        except Timeout:
            trouble = Transient("no answer in time")
        except (RequestException, OSError) as error:
            trouble = _network_fault(self.host, root_cause(error))
        raise trouble

    def _fault(self, code: int, response: requests.Response) -> Exception:
        """What an answer means that is none."""
        said = f"answers {code} {_phrase(code)}".strip()
        if code in DENIED and self._secret is not None and self._known:
            self._refused += 1
            if self._refused < _REFUSALS:
                return Transient(f"the server {said}")
        if code in DENIED:
            return Refused(self._denied(code), code)
        if is_later(code):
            return Transient(f"the server {said}", retry_after(response.headers.get("Retry-After")))
        text = " ".join(self.without_secret(words_of(response)).split())[:200]
        text = text or "check the address and what is asked for"
        return Refused(f"{self.host} {said}: {text}", code)

    def _denied(self, code: int) -> str:
        if code == 407:
            return f"the proxy on the way to {self.host} wants a login (407): look at HTTPS_PROXY"
        if self._secret is None:
            return f"{self.host} wants a login ({code}): {how_to(self._service)}"
        kind = "login" if isinstance(self._secret, Login) else "token"
        what = {"login": "name and password", "token": "the token"}[kind]
        return (
            f"{self.host} refuses {what} ({code}); are they right, and may they read this? "
            f"{how_to(self._service, kind)}"
        )

    def _log_in(self) -> bool:
        """Look for a login, once."""
        with self._guard:
            if not self._looked:
                self._looked, self._secret = True, login(self._service, self._url)
        return self._secret is not None

    def without_secret(self, text: str) -> str:
        """A text without our secret, should the server have repeated it there."""
        for secret in self._hidden():
            text = text.replace(secret, "...")
        return text

    def _hidden(self) -> list[str]:
        """What must not be shown, should the server repeat it."""
        if isinstance(self._secret, Login):
            return [self._secret.password, _basic(self._secret)]
        return [self._secret.value] if self._secret else []

    def _authorise(self, prepared: Any) -> Any:
        """Put the secret into a request that goes to the server itself."""
        prepared.headers.pop("Authorization", None)
        if self._secret is not None and _origin(prepared.url) == self._origin:
            word = "Basic" if isinstance(self._secret, Login) else "Bearer"
            secret = self._secret
            value = _basic(secret) if isinstance(secret, Login) else secret.value
            prepared.headers["Authorization"] = f"{word} {value}"
        return prepared

    def _session(self) -> requests.Session:
        """A session of this thread's own; they are not made to be shared."""
        if not hasattr(self._mine, "session"):
            session = _Session()
            session.auth = self._authorise
            session.headers["User-Agent"] = f"survey-gampen/{__version__}"
            self._mine.session = session
        found: requests.Session = self._mine.session
        return found


class _Session(requests.Session):
    """Asks :meth:`Server._authorise` about each redirection too, and ~/.netrc never.

    ``requests`` itself would send what stands in ~/.netrc, unasked and unencrypted, to wherever a
    server redirects to.
    """

    def rebuild_auth(self, prepared_request: Any, response: Any) -> None:
        """Decide about the secret anew."""
        self.auth(prepared_request)


def _network_fault(host: str, cause: BaseException) -> Exception:
    """Tell failures of the network that may be over soon from those that won't."""
    if isinstance(cause, ssl.SSLCertVerificationError):
        return OutsideFault(
            f"{host}: the server's certificate is not trusted ({cause.verify_message}): look at "
            "the address and at the machine's clock"
        )
    if isinstance(cause, socket.gaierror) and cause.errno == socket.EAI_NONAME:
        return OutsideFault(f"{host}: no such host is known; is the address right?")
    return Transient(f"no answer ({short(cause)})")


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
