"""Where image files lie: one interface over a local folder, a server and an object store."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Protocol

from survey_gampen.images.places.listing import FileFacts, find_files
from survey_gampen.outside import outside_fault


class Files(Protocol):
    """Files below one place, by name relative to it.

    Methods that read raise ``FileNotFoundError`` where there is no such file, ``OutsideFault``
    where disk, network or server fail, and ``InputError`` where a login is missing.
    """

    @property
    def address(self) -> str:
        """The place, for messages and caches."""
        ...

    def where(self, name: str) -> str:
        """What to call a file in messages."""
        ...

    def find_all(self) -> list[FileFacts]:
        """All image files, sorted by name, after a look which there are now."""
        ...

    def settle(self, address: str, files: list[FileFacts]) -> None:
        """Take the files as they were found before, without a look."""
        ...

    def exists(self, name: str) -> bool:
        """Whether there is such a file now."""
        ...

    def is_absent(self, name: str) -> bool:
        """Whether it was noted, not long ago, that there is no such file."""
        ...

    def note_absent(self, name: str) -> None:
        """Note that there is no such file: not before the place itself was seen to stand."""
        ...

    def local(self, name: str) -> Path:
        """A whole file on a disk of this machine; it may be gone a minute later."""
        ...

    def open(self, name: str) -> contextlib.AbstractContextManager[BinaryIO | Path]:
        """A file to read a few headers of: its path, or something that reads what is asked for."""
        ...

    def size(self, name: str) -> int:
        """Bytes of a file."""
        ...

    def forget(self, name: str) -> None:
        """Remove a local copy of a file that turned out to be broken."""
        ...


class LocalFiles:
    """Files of this machine, or of a disk that it mounts.

    Parameters
    ----------
    spec : str, path or list of them
        See :func:`survey_gampen.images.places.listing.find_files`.
    """

    def __init__(self, spec: str | os.PathLike[str] | Sequence[str]) -> None:
        self._spec, self.root = spec, Path()

    @classmethod
    def of_folder(cls, folder: Path) -> LocalFiles:
        """Files of a folder that is not searched."""
        files = cls(folder)
        files.root = folder
        return files

    @property
    def address(self) -> str:
        """Path of the folder that holds all of them."""
        return str(self.root)

    def where(self, name: str) -> str:
        """Path of a file."""
        return str(self.root / name)

    def find_all(self) -> list[FileFacts]:
        """All image files, sorted by name; sets the folder."""
        self.root, found = find_files(self._spec)
        return found

    def settle(self, address: str, files: list[FileFacts]) -> None:
        """Take the folder as it was found before."""
        self.root = Path(address)

    def exists(self, name: str) -> bool:
        """Whether there is such a file now; of one that no system follows, its reader tells."""
        try:
            (self.root / name).stat()
        except (FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            if (fault := outside_fault(error, self.root / name)) is not None:
                raise fault from error
        return True

    def is_absent(self, name: str) -> bool:
        """Never: to look costs nothing."""
        return False

    def note_absent(self, name: str) -> None:
        """Do nothing."""

    def local(self, name: str) -> Path:
        """Path of a file, whether it is there or not."""
        return self.root / name

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[Path]:
        """Path of a file."""
        yield self.root / name

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return (self.root / name).stat().st_size

    def forget(self, name: str) -> None:
        """Do nothing: there is no copy."""
