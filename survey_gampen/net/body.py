"""What comes after the headers of an answer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from requests import RequestException

from survey_gampen.net.waiting import CutOff

_PIECE = 1 << 20


class Body:
    """The body of an answer, as a file to be read once.

    Parameters
    ----------
    response : requests.Response
    unpack : bool
        Whether what the server packed is unpacked; not where bytes are wanted as they lie there.

    Raises
    ------
    CutOff
        From reading, where the connection breaks, is silent for too long, or ends before all has
        come that was announced.
    """

    def __init__(self, response: Any, unpack: bool = True) -> None:
        self._raw, self._unpack = response.raw, unpack

    def read(self, size: int = -1) -> bytes:
        """Up to `size` bytes; fewer only at the end."""
        parts: list[bytes] = []
        left = size
        while left:
            part = self._some(left if left > 0 else _PIECE)
            if not part:
                break
            parts.append(part)
            left = left - len(part) if left > 0 else left
        return b"".join(parts)

    def chunks(self) -> Iterator[bytes]:
        """All of it, as it comes: what is there is kept if no more comes."""
        while part := self._some(_PIECE):
            yield part

    def _some(self, size: int) -> bytes:
        trouble = ""
        try:
            part: bytes = self._raw.read1(size, decode_content=self._unpack)
            if part or not self._raw.length_remaining:
                return part
            trouble = f"{self._raw.length_remaining} bytes missing"
        except Exception as error:  # urllib3's, http.client's and the socket's
            trouble = short(root_cause(error))
        raise CutOff(f"the answer was cut off ({trouble})")


def words_of(response: Any) -> str:
    """The beginning of what a server says, which may repeat what must not be shown."""
    try:
        text: str = response.raw.read(4000, decode_content=True).decode("utf-8", "replace")
    except Exception:  # it matters little why this cannot be had
        return ""
    return text


def root_cause(error: BaseException) -> BaseException:
    """The innermost cause; the words of those above it repeat the whole request."""
    seen: set[int] = set()
    inner = error
    while id(inner) not in seen:
        seen.add(id(inner))
        reason = getattr(inner, "reason", None)
        nested = [arg for arg in inner.args if isinstance(arg, BaseException)]
        nested += [inner.__cause__] if inner.__cause__ is not None else []
        inner = reason if isinstance(reason, BaseException) else (nested or [inner])[0]
    return inner


def short(cause: BaseException) -> str:
    """A few words about a cause."""
    words = getattr(cause, "strerror", None)
    # Errors of requests are of this class too, and their words hold the whole address.
    if isinstance(cause, OSError) and not isinstance(cause, RequestException):
        words = words or str(cause)
    return " ".join(str(words or type(cause).__name__).split())[:100]
