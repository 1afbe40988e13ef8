"""Files of an object store that speaks the S3 protocol, through fsspec.

Keys come from where Amazon's own tools take them (``AWS_PROFILE``, ``AWS_ACCESS_KEY_ID``, a role of
the machine, ...); where there are none the bucket is read as the public may. ``AWS_ENDPOINT_URL``
names another store than Amazon's.
"""

from __future__ import annotations

import contextlib
import errno
import glob
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from survey_gampen.errors import GampenError, InputError, OutsideFault
from survey_gampen.images.places.listing import FileFacts, is_image_name
from survey_gampen.images.places.remote import Ask, Stream
from survey_gampen.net.faults import is_later
from survey_gampen.net.waiting import Transient
from survey_gampen.opening import misconfigured, open_filesystem

T = TypeVar("T")

#: Seconds without a byte before a request counts as failed.
TIMEOUT = 60
#: Bytes of one request for a part of a tile.
_CHUNK = 16 << 20
#: What s3fs makes of answers that mean "later": SlowDown, ServiceUnavailable, InternalError.
_LATER = frozenset({errno.EBUSY, errno.EREMOTEIO, errno.ETIMEDOUT})
_KEYS = "give keys as Amazon's tools take them, such as AWS_PROFILE or AWS_ACCESS_KEY_ID"


class ObjectStore:
    """Objects below a prefix, or those that a pattern names.

    Parameters
    ----------
    url : str
        ``s3://bucket/prefix``.

    Raises
    ------
    InputError
        The package for it is not installed, or there is no bucket in the address.
    """

    def __init__(self, url: str) -> None:
        self._pattern = url.partition("://")[2].strip("/")
        fixed = self._pattern
        if glob.has_magic(fixed):
            parts = fixed.split("/")
            magic = next(i for i, part in enumerate(parts) if glob.has_magic(part))
            fixed = "/".join(parts[:magic])
        elif is_image_name(fixed) and "/" in fixed:
            fixed = fixed.rpartition("/")[0]
        if not fixed:
            raise InputError(f"{url}: write s3://BUCKET/FOLDER")
        self._root = fixed
        self.address = f"s3://{fixed}"
        self._fs = _open_fs(anonymous=False)
        self.host = str(self._fs.client_kwargs.get("endpoint_url") or self.address.split("/")[2])

    def where(self, name: str) -> str:
        """Address of an object."""
        return f"{self.address}/{name}" if name else self.address

    def find_all(self, ask: Ask) -> list[FileFacts]:
        """All images below the prefix, with the ETags of their bytes.

        Raises
        ------
        InputError
            Nothing there.
        """
        way = "glob" if glob.has_magic(self._pattern) else "find"
        found = ask("", lambda: self._call(lambda fs: getattr(fs, way)(self._pattern, detail=True)))
        files = [
            _facts(path.removeprefix(f"{self._root}/"), info)
            for path, info in (found or {}).items()
            if info.get("type") == "file" and is_image_name(path)
        ]
        if not files:
            raise InputError(f"s3://{self._pattern}: no FITS files there")
        return sorted(files, key=lambda file: file.path)

    def has_folder(self, name: str) -> bool:
        """Whether some object lies below a prefix.

        Raises
        ------
        InputError
            It may not be read.
        """
        info = self._call(lambda fs: fs.info(f"{self._root}/{name}".rstrip("/"), refresh=True))
        return info is not None and info.get("type") == "directory"

    def facts(self, name: str) -> FileFacts | None:
        """Size and ETag of an object; None: not there."""
        info = self._call(lambda fs: fs.info(f"{self._root}/{name}", refresh=True))
        return _facts(name, info) if info and info.get("type") == "file" else None

    def read(self, name: str, start: int, stop: int) -> bytes:
        """A part of an object."""
        data = self._call(lambda fs: fs.cat_file(f"{self._root}/{name}", start=start, end=stop))
        if data is None:
            raise FileNotFoundError(self.where(name))
        return bytes(data)

    @contextlib.contextmanager
    def stream(self, name: str, start: int, tag: str) -> Iterator[Stream | None]:
        """An object from `start` on if its ETag is still `tag`, else from its beginning."""
        facts = self.facts(name)
        if facts is None:
            yield None
            return
        first = start if tag and tag == facts.tag and start <= facts.size else 0

        def chunks() -> Iterator[bytes]:
            for begin in range(first, facts.size, _CHUNK):
                yield self.read(name, begin, min(begin + _CHUNK, facts.size))
            if self.facts(name) != facts:  # parts of two versions
                raise OutsideFault(f"{self.where(name)} changed while it was read: run again")

        yield Stream(first, facts.size, facts.tag, chunks())

    def _call(self, action: Callable[[Any], T]) -> T | None:
        """What `action` of the file system gives; None where nothing is there."""
        from botocore.exceptions import NoCredentialsError

        try:
            with _failures(self.address):
                return action(self._fs)
        except FileNotFoundError:
            return None
        except NoCredentialsError:
            self._fs = _open_fs(anonymous=True)
            return self._call(action)


def _open_fs(anonymous: bool) -> Any:
    try:
        import s3fs  # noqa: F401
    except ImportError:
        raise InputError("s3:// addresses need more: pip install 'survey-gampen[remote]'") from None
    fs = open_filesystem(
        "s3",
        anon=anonymous,
        skip_instance_cache=True,
        config_kwargs={
            "connect_timeout": TIMEOUT,
            "read_timeout": TIMEOUT,
            "retries": {"max_attempts": 1},
        },
    )
    fs.retries = 1  # patience is ours
    return fs


@contextlib.contextmanager
def _failures(address: str) -> Iterator[None]:
    """Tell failures that may be over soon from those that won't."""
    from aiohttp import ClientError
    from botocore import exceptions as boto

    network = (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, ClientError)
    try:
        yield
    except (GampenError, FileNotFoundError, boto.NoCredentialsError):
        raise
    except PermissionError as error:
        raise InputError(f"{address} may not be read ({_words(error)}): {_KEYS}") from None
    except network as error:  # no connection, no answer in time, a broken answer
        raise misconfigured(error) or Transient(f"no answer ({_words(error)})") from None
    except boto.BotoCoreError as error:  # a broken configuration, among others
        wrong = misconfigured(error)
        raise wrong or InputError(f"{address}: {_words(error)}: {_KEYS}") from None
    except ValueError as error:
        raise misconfigured(error) or error from None
    except OSError as error:
        response = getattr(error.__cause__, "response", None) or {}
        status = response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0)
        if not status or is_later(status) or error.errno in _LATER:
            raise Transient(f"the store answers {status or _words(error)}") from None
        raise OutsideFault(f"{address}: the store answers {status} ({_words(error)})") from None


def _words(error: BaseException) -> str:
    words = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(str(words).split())[:200]


def _facts(name: str, info: dict[str, Any]) -> FileFacts:
    tag = str(info.get("ETag") or "")
    written = info.get("LastModified")
    mtime = 0 if tag or not written else int(written.timestamp())
    return FileFacts(name, int(info["size"]), mtime, tag)
