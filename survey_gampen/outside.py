"""Which errors are nobody's data's fault: space, quota, a mount or a store that is gone, old keys.

They come from the system and from libraries in many dresses; here they become an
:class:`~survey_gampen.errors.OutsideFault`, which stops a run so that it can go on.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from survey_gampen.errors import GampenError, OutsideFault

#: Errors of the machine and not of anybody's data: space, quota, a mount that is gone, a bad disk.
OUTSIDE_ERRNOS = frozenset(
    {
        errno.ENOSPC,
        errno.EDQUOT,
        errno.EROFS,
        errno.ESTALE,
        errno.EIO,
        errno.ENOTCONN,
        errno.EREMOTEIO,
        errno.ENODEV,
        errno.ENXIO,
        errno.ESHUTDOWN,
        errno.ETIMEDOUT,
        errno.EBUSY,
    }
)
#: Some libraries turn an OSError into their own error and keep only its words.
_OUTSIDE_WORDS = tuple(
    os.strerror(code) for code in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.ESTALE)
)

#: Whose errors are of the way to an object store. What the store itself says (not there, not
#: allowed, too busy) comes as an OSError made of a ClientError.
_NETWORK_LIBRARIES = frozenset({"aiobotocore", "aiohttp", "botocore"})
#: What a store says of keys that were good when they were made ("Error responses" in Amazon's S3
#: API Reference), and of a clock that is wrong.
_KEYS_EXPIRED = frozenset({"ExpiredToken", "TokenRefreshRequired", "RequestTimeTooSkewed"})


def outside_fault(error: BaseException, where: Path | str | None = None) -> OutsideFault | None:
    """The :class:`OutsideFault` that stands behind an error, or None.

    Looks through the chain of causes, because libraries wrap the operating system's errors.

    Parameters
    ----------
    error : BaseException
        What was caught.
    where : Path or str, optional
        The path to name when the error itself names none.
    """
    seen: set[int] = set()
    link: BaseException | None = error
    while link is not None and id(link) not in seen:
        seen.add(id(link))
        if isinstance(link, OutsideFault):
            return link
        words = str(link)
        code = link.errno if isinstance(link, OSError) else None
        kinds = {kind.__name__ for kind in type(link).__mro__}
        library = type(link).__module__.partition(".")[0]
        if _answer(link) in _KEYS_EXPIRED:
            return OutsideFault(
                f"{where or 'the output'}: {' '.join(words.split())[:200]}; get new keys, look at"
                " the clock, and run the same command again"
            )
        if library in _NETWORK_LIBRARIES and "ClientError" not in kinds:
            reason = " ".join(words.split())[:200] or type(link).__name__
            return OutsideFault(f"{where or 'the output'}: {reason}; run the same command again")
        if code in OUTSIDE_ERRNOS or any(phrase in words for phrase in _OUTSIDE_WORDS):
            reason = os.strerror(code) if code is not None else " ".join(words.split())
            path = getattr(link, "filename", None) or where or "the output"
            return OutsideFault(f"{path}: {reason}; put that right and run the same command again")
        link = link.__cause__ or link.__context__
    return None


def _answer(error: BaseException) -> str | None:
    """The word for what is wrong, in an answer of an object store."""
    answer = getattr(error, "response", None)
    said = answer.get("Error") if isinstance(answer, dict) else None
    return said.get("Code") if isinstance(said, dict) else None


@contextlib.contextmanager
def outside_faults(where: Path) -> Iterator[None]:
    """Turn errors of the machine inside the block into :class:`OutsideFault`."""
    try:
        yield
    except GampenError:
        raise
    except Exception as error:
        fault = outside_fault(error, where)
        if fault is None:
            raise
        raise fault from error
