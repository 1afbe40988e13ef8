"""What goes wrong between here and elsewhere, sorted by who must act.

Of an error's own words none is passed on: they may hold the address that a server redirected to,
with its signature.
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Iterator
from urllib.parse import urlsplit

from survey_gampen.addresses import is_web, shown
from survey_gampen.credentials import how_to
from survey_gampen.errors import GampenError, InputError, OutsideFault
from survey_gampen.opening import misconfigured

#: Name under which the password of a web server with catalogues is kept.
SERVICE = "catalog"
#: What may go by itself, beside all from 500 on: request timeout, too early, too many requests
#: (RFC 9110, RFC 8470, RFC 6585).
_LATER = frozenset({408, 425, 429})
#: Not implemented, HTTP version not supported.
_NEVER = frozenset({501, 505})
#: A login is wanted or refused, by the server or by the proxy on the way.
DENIED = frozenset({401, 403, 407})
ABSENT = frozenset({404, 410})
_NO_KEYS = {"NoCredentialsError", "PartialCredentialsError", "ProfileNotFound"}
_ABSENT = {"FileNotFoundError", "IsADirectoryError"}
_NONSENSE = {"InvalidURL", "InvalidUrlClientError", "ParamValidationError", "ValueError"}


class Missing(InputError):
    """There is nothing at an address."""


class Denied(InputError):
    """What is at an address may not be read. Stores may say so of what is not there, too."""


class Refused(InputError):
    """A server answers that it won't.

    Parameters
    ----------
    message : str
    status : int
        What it answers.
    """

    def __init__(self, message: str, status: int = 0) -> None:
        super().__init__(message)
        self.status = status


def is_later(status: int) -> bool:
    """Whether an answer means that asking again later may help."""
    return status in _LATER or (status >= 500 and status not in _NEVER)


@contextlib.contextmanager
def sorted_faults(url: str) -> Iterator[None]:
    """Turn whatever reading an address raises into one of our errors, in our words.

    Raises
    ------
    Missing, Denied
        There is nothing there, or it may not be read.
    InputError
        The request makes no sense to the server.
    OutsideFault
        Nobody answers, or the server has trouble.
    """
    try:
        yield
    except Exception as error:
        if isinstance(error, GampenError) and not isinstance(error, Refused):
            raise
        raise _fault(error, url) from None


def _fault(error: BaseException, url: str) -> GampenError:
    if not is_web(url) and (wrong := misconfigured(error)):
        return wrong
    chain = _chain(error)
    if any(getattr(link, "errno", None) in (errno.ENOSPC, errno.EDQUOT) for link in chain):
        return OutsideFault(
            f"no room for a copy of {shown(url)}: make some in the folder for temporary files, or "
            "set TMPDIR to another, then run the same command again"
        )
    status = next((code for code in map(_status, chain) if code), None)
    names = {type(link).__name__ for link in chain}
    place, web = shown(url), is_web(url)
    host = urlsplit(url).hostname if web else "the store"
    said = f" (HTTP {status})" if status else ""
    if status in DENIED or "PermissionError" in names or names & _NO_KEYS:
        how = (
            f"if it needs a password, {how_to(SERVICE)}"
            if web
            else "name your keys by AWS_PROFILE or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY; "
            "for a public bucket, set FSSPEC_S3='{\"anon\": true}'"
        )
        return Denied(f"{place} may not be read{said}: {how}")
    if status in ABSENT or (status is None and names & _ABSENT):
        what = "look at the address" if web else "look at the names of bucket and key"
        return Missing(f"{place} does not exist{said}: {what}")
    if status is not None and status >= 300 and not is_later(status):
        where = "" if web else "; AWS_ENDPOINT_URL and AWS_REGION say whose server is asked"
        return InputError(f"{place}: the server refuses the request{said}: look at it{where}")
    if status is None and names & _NONSENSE:
        return InputError(f"{place} is no address that can be read: look at it")
    reason = said.strip(" ()") or type(error).__name__
    return OutsideFault(
        f"{place} can't be read now ({reason}): look whether {host} is up and can be reached, then "
        "run the same command again"
    )


def _chain(error: BaseException) -> list[BaseException]:
    """An error and what caused it: fsspec often says less than the library below it."""
    found: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in found:
        found.append(link)
        link = link.__cause__
    return found


def _status(error: BaseException) -> int | None:
    """The HTTP status in an error of ours, of aiohttp or of botocore."""
    status = getattr(error, "status", None)
    if isinstance(status, int):
        return status
    response = getattr(error, "response", None)
    if isinstance(response, dict):
        return response.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return None
