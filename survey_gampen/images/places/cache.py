"""A bounded folder of downloaded tiles that the processes of a node share.

A file of the folder is whole: it is written under another name and renamed. Who downloads it holds
a lock that the system gives back when the process is killed; the next one goes on with the part
that is there. Old files are removed, the longest unused first, when the folder grows too large. A
process that has a file open keeps it: on the systems this runs on its bytes outlive its name.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from survey_gampen import storage
from survey_gampen.errors import OutsideFault
from survey_gampen.net.slots import Slots
from survey_gampen.outside import outside_faults

#: Names the folder; default: ``survey-gampen-tiles-UID`` in the folder of temporary files.
VARIABLE = "SURVEY_GAMPEN_CACHE"
#: Most bytes of the folder; and no more than half of what is free without it.
LIMIT = 20_000_000_000
#: A file used within so many seconds stays: it may be about to be opened.
GRACE = 60.0
#: How long a file that a service does not have is not asked for again, seconds.
ABSENT = 86_400.0
#: A part of a file that nobody went on with for so many seconds is removed like a file.
ABANDONED = 3600.0
#: Connections of a node to one host.
CONNECTIONS = 4


class TileCache:
    """The folder.

    Parameters
    ----------
    folder : Path
    limit : int
        Most bytes, see ``LIMIT``.
    grace : float
        Seconds, see ``GRACE``.
    """

    def __init__(self, folder: Path, limit: int = LIMIT, grace: float = GRACE) -> None:
        self.folder, self.limit, self.grace = folder, limit, grace
        self._slots: dict[str, Slots] = {}

    def find(self, key: str) -> Path | None:
        """The file of a key, if it is there; it then counts as just used."""
        path = self._path(key)
        try:
            os.utime(path)
        except OSError:
            return None
        return path

    def add(self, key: str, download: Callable[[Path], None]) -> Path:
        """The file of a key; if it is not there it is downloaded, by one process at a time.

        Parameters
        ----------
        key : str
            Names the file and its version; its end, after the last ``/``, is that of the file name.
        download : callable
            Makes the file at the path it is given, where the beginning may be left from before.

        Raises
        ------
        OutsideFault
            The disk is full, or the folder cannot be written.
        """
        path = self._path(key)
        with outside_faults(self.folder):
            try:
                path.parent.mkdir(parents=True, exist_ok=True)
            except PermissionError as error:
                raise OutsideFault(
                    f"{self.folder}: {error.strerror}; set {VARIABLE} to a folder of your own"
                ) from None
            with _locked(path.with_name(path.name + ".lock")):
                found = self.find(key)
                if found is not None:
                    return found
                part = path.with_name(path.name + ".part")
                try:
                    download(part)
                except OSError as error:
                    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                        raise
                    self._trim(0, keep=part)  # and once more: others may have filled the disk
                    download(part)
                with part.open("rb") as written:
                    os.fsync(written.fileno())
                os.utime(part)
                os.replace(part, path)
                path.with_name(path.name + ".absent").unlink(missing_ok=True)
            self._trim(self._bound())
        return path

    def is_absent(self, key: str) -> bool:
        """Whether the service was found not to have the file, not long ago."""
        try:
            age = time.time() - self._path(key, ".absent").stat().st_mtime
        except OSError:
            return False
        return age < ABSENT

    def note_absent(self, key: str) -> None:
        """Remember, for all processes of the node, that the service does not have the file."""
        with contextlib.suppress(OSError):  # it is asked again then
            path = self._path(key, ".absent")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch()

    def connection(self, host: str) -> contextlib.AbstractContextManager[None]:
        """One of the few connections that a node has to a host."""
        stem = hashlib.sha256(host.encode()).hexdigest()[:16]
        slots = self._slots.setdefault(host, Slots(self.folder / "hosts" / stem, CONNECTIONS))
        return slots.one()

    def _path(self, key: str, suffix: str = "") -> Path:
        digest = hashlib.sha256(key.encode()).hexdigest()[:32]
        name = key.rpartition("/")[2][-100:] or "file"
        return self.folder / digest[:2] / f"{digest}-{name}{suffix}"

    def _bound(self) -> int:
        used = sum(size for _, size, _ in self._files())
        return min(self.limit, (shutil.disk_usage(self.folder).free + used) // 2)

    def _files(self) -> Iterator[tuple[float, int, Path]]:
        """Time of last use, size and path of all files but locks."""
        for parent in self.folder.glob("[0-9a-f][0-9a-f]"):
            for path in parent.iterdir():
                if path.suffix not in (".lock", ".absent"):
                    with contextlib.suppress(OSError):
                        stat = path.stat()
                        yield stat.st_mtime, stat.st_size, path

    def _trim(self, bound: int, keep: Path | None = None) -> None:
        """Remove the longest unused files until the rest takes no more than `bound` bytes."""
        files = sorted(self._files())
        total, now = sum(size for _, size, _ in files), time.time()
        for used, size, path in files:
            if total <= bound or now - used < self.grace:
                break
            if path == keep or (".part" in path.suffixes and now - used < ABANDONED):
                continue
            with contextlib.suppress(OSError):
                path.unlink()
                total -= size


def default_cache() -> TileCache:
    """The cache of this node.

    Raises
    ------
    InputError
        Its folder is somebody else's.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return TileCache(Path(named).expanduser().absolute())
    return TileCache(storage.own_temporary("survey-gampen-tiles", VARIABLE))


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold the lock of a file; the lock file is gone afterwards."""
    while True:
        descriptor = _open(path)
        _lock(descriptor)
        try:
            # The one that was waited for may have removed the file, and a third made it anew.
            if os.path.samestat(os.fstat(descriptor), path.stat()):
                break
        except FileNotFoundError:
            pass
        os.close(descriptor)
    try:
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(descriptor)


def _open(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def _lock(descriptor: int) -> None:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
    except OSError as error:
        if error.errno not in (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS):
            raise
        raise OutsideFault(
            f"the folder of downloaded tiles knows no locks; set {VARIABLE} to one on a local disk"
        ) from None
