"""Files and folders of a catalogue, on this machine or elsewhere, behind one small interface.

A Parquet file elsewhere is not downloaded: its footer and the pages of the columns that are needed
are read, each by a request of its own. Only a small file comes as a whole.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import pyarrow as pa

from survey_gampen.addresses import is_address, is_web, join, shown
from survey_gampen.ahead import ahead
from survey_gampen.catalog.formats import table_format
from survey_gampen.errors import InputError
from survey_gampen.outside import outside_fault
from survey_gampen.stores import Store, open_store, read_text

#: Ends of the names of Parquet files.
PARQUET = (".parquet", ".parq", ".pq")
#: A remote file up to this size is fetched by one request.
_SMALL = 1 << 20
#: So many remote files are opened before their turn: a request is mostly waiting for its answer.
_AHEAD = 8
_PIECE = 8 << 20


class File(Protocol):
    """A file of a catalogue."""

    @property
    def name(self) -> str:
        """What to call it in an error: nothing secret."""

    @property
    def table_format(self) -> str | None:
        """Its kind where it is no Parquet file."""

    def read(self, start: int, length: int) -> bytes:
        """Return exactly these bytes."""

    def tail(self, length: int) -> tuple[bytes, int]:
        """Return the last bytes, at most `length`, and the size of the file."""

    def source(self) -> Any:
        """Return what :class:`pyarrow.parquet.ParquetFile` opens."""


class Folder(Protocol):
    """A folder of a catalogue."""

    @property
    def name(self) -> str:
        """What to call it in an error: nothing secret."""

    @property
    def place(self) -> str:
        """What :func:`folder_at` makes it of again, also in another working directory."""

    def text(self, name: str) -> str | None:
        """Return a small text file of it; None where it is missing."""

    def file(self, name: str) -> File:
        """Return a file of it, which may be missing."""

    def folder(self, name: str) -> Folder:
        """Return a folder in it, which may be missing."""

    def walk(self) -> list[str] | None:
        """Return the names of all files below, ``/`` between their parts; None: no lists here."""


def open_place(spec: str | Path) -> LocalFile | LocalFolder | RemoteFile | RemoteFolder:
    """What a path or an address stands for.

    Raises
    ------
    InputError
        When there is nothing, or it may not be read.
    OutsideFault
        When it lies elsewhere and nobody answers.
    """
    if is_address(spec):
        return _remote(str(spec).rstrip("/"))
    path = Path(spec)
    if not path.exists():
        raise InputError(f"{path} does not exist; give the path of a catalogue")
    return LocalFolder(path) if path.is_dir() else LocalFile(path)


def folder_at(place: str) -> LocalFolder | RemoteFolder:
    """A folder that was there once; nobody is asked whether it still is.

    Raises
    ------
    InputError
        For an address, where a package for it is missing.
    """
    return RemoteFolder(place, open_store(place)) if is_address(place) else LocalFolder(Path(place))


def _remote(url: str) -> RemoteFile | RemoteFolder:
    store = open_store(url)
    try:
        path = urlsplit(url).path.lower()
    except ValueError as error:
        raise InputError(f"{shown(url)} is no address ({error}); look at it") from None
    # A web server has no folders: what is not named as a file is one of a HATS catalogue.
    if is_web(url) and not path.endswith(PARQUET) and table_format(path) is None:
        return RemoteFolder(url, store)
    return RemoteFile(url, store) if store.is_file(url) else RemoteFolder(url, store)


class LocalFile:
    """A file on this machine, as its path."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def table_format(self) -> str | None:
        return table_format(self.path)

    def read(self, start: int, length: int) -> bytes:
        with self.path.open("rb", buffering=0) as stream:
            stream.seek(start)
            return stream.read(length)

    def tail(self, length: int) -> tuple[bytes, int]:
        with self.path.open("rb", buffering=0) as stream:
            size = stream.seek(0, os.SEEK_END)
            stream.seek(max(0, size - length))
            return stream.read(length), size

    def source(self) -> str:
        return str(self.path)


class LocalFolder:
    """A folder on this machine."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @property
    def name(self) -> str:
        return str(self.path)

    @property
    def place(self) -> str:
        return str(self.path.absolute())

    def text(self, name: str) -> str | None:
        path = self.path / name
        return path.read_text(errors="replace") if path.is_file() else None

    def file(self, name: str) -> LocalFile:
        return LocalFile(self.path / name)

    def folder(self, name: str) -> LocalFolder:
        return LocalFolder(self.path / name)

    def walk(self) -> list[str]:
        found: list[str] = []
        for root, _, files in os.walk(self.path, onerror=_raise):
            inner = Path(root).relative_to(self.path)
            found += [(inner / name).as_posix() for name in files]
        return found


def _raise(error: OSError) -> None:
    """Of a folder that can't be listed, the rows would be missing, and nobody would know."""
    refusal = InputError(f"{error.filename} can't be listed: {error.strerror}")
    raise outside_fault(error) or refusal from error


class RemoteFile:
    """A file elsewhere, as its address."""

    def __init__(self, url: str, store: Store, size: int | None = None) -> None:
        self.url = url
        self._store = store
        self._size = size

    @property
    def name(self) -> str:
        return shown(self.url)

    @property
    def table_format(self) -> str | None:
        return table_format(urlsplit(self.url).path)

    def read(self, start: int, length: int) -> bytes:
        return self._store.read(self.url, start, length)

    def tail(self, length: int) -> tuple[bytes, int]:
        data, self._size = self._store.tail(self.url, length, self._size)
        return data, self._size

    def source(self) -> Any:
        size = self.tail(1)[1] if self._size is None else self._size
        if 0 < size <= _SMALL:
            return pa.BufferReader(self.read(0, size))
        return pa.PythonFile(_Ranges(self, size), mode="r")

    def fetch(self, path: Path, at_most: int) -> None:
        """Copy the file to this machine."""
        self._store.fetch(self.url, path, at_most)


class RemoteFolder:
    """A folder elsewhere: the beginning of addresses."""

    def __init__(self, url: str, store: Store) -> None:
        self.url = url
        self._store = store
        self._sizes: dict[str, int] = {}

    @property
    def name(self) -> str:
        return shown(self.url)

    @property
    def place(self) -> str:
        return self.url

    def text(self, name: str) -> str | None:
        return read_text(self._store, join(self.url, name))

    def file(self, name: str) -> RemoteFile:
        return RemoteFile(join(self.url, name), self._store, self._sizes.get(name))

    def folder(self, name: str) -> RemoteFolder:
        return RemoteFolder(join(self.url, name), self._store)

    def walk(self) -> list[str] | None:
        found = self._store.find(self.url)
        if found is None:
            return None
        self._sizes = found
        return list(found)


class _Ranges(io.RawIOBase):
    """A remote file as Arrow reads it: each read is one request, for a column's pages mostly."""

    def __init__(self, file: RemoteFile, size: int) -> None:
        super().__init__()
        self._file, self._end, self._place = file, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._place

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._end}[whence]
        self._place = base + offset
        return self._place

    def read(self, size: int | None = -1) -> bytes:
        left = max(0, self._end - self._place)
        wanted = left if size is None or size < 0 else min(size, left)
        data = self._file.read(self._place, wanted) if wanted else b""
        self._place += wanted
        return data


def sources(files: Sequence[File]) -> Iterator[tuple[File, Any]]:
    """Each file with what opens it, in order; those elsewhere are asked for before their turn."""
    if not any(isinstance(file, RemoteFile) for file in files):
        for file in files:
            yield file, file.source()
        return
    yield from zip(files, ahead(lambda file: file.source(), files, _AHEAD), strict=True)


def content_digest(file: File) -> bytes:
    """SHA-256 of a whole file, read a piece at a time."""
    digest = hashlib.sha256()
    _, size = file.tail(1)
    for start in range(0, size, _PIECE):
        digest.update(file.read(start, min(_PIECE, size - start)))
    return digest.digest()
