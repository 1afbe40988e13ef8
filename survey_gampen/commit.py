"""The only place that publishes a file.

A file of the output is either not there or whole. It is written under a unique name in a staging
folder on the same file system, synced to the disk, read back, and only then given its final name
in one step that the file system makes atomic:

* :func:`publish` with a hard link, which fails when the name is taken: of two publishers one wins;
* :func:`publish_dir` with a rename, which fails when the folder is there and holds something;
* :func:`replace` with a rename over the old file, for index files that are made again.

Where the output is an object store (:mod:`survey_gampen.storage`), a file is staged and read back
on this machine, and the step is a PUT, conditional on a free name for :func:`publish`. A folder is
put file by file, its own files last: for one that may have two writers at once there is
:mod:`survey_gampen.generations`.

A process killed at any moment leaves at worst a staged file; who owns the folder removes that.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import shutil
import socket
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

from survey_gampen import storage
from survey_gampen.errors import GampenError, OutsideFault
from survey_gampen.outside import outside_faults

Writer = Callable[[Path], None]
Checker = Callable[[Path], None]

_UMASK = os.umask(0)  # which can't be read without being set
os.umask(_UMASK)
#: What a new file may be used for: what this user allows.
_MODE = 0o666 & ~_UMASK

#: What a file system answers to link() when it has no hard links.
_NO_HARD_LINKS = frozenset(
    {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV}
)


def publish(final: Path, write: Writer, check: Checker, staging: Path) -> bool:
    """Publish a file exactly once.

    Parameters
    ----------
    final : Path
        The published name.
    write : callable
        Writes the whole file to the path it is given.
    check : callable
        Reads the file at the path it is given, from the disk, and raises when it is not what
        was written.
    staging : Path
        Folder on the file system of `final`, on this machine for an object store; made when
        missing.

    Returns
    -------
    bool
        True when this call published the file, False when it was there or somebody else won.

    Raises
    ------
    OutsideFault
        When the disk is full, the mount is gone, or the file does not read back.
    """
    with outside_faults(final):
        if final.exists():
            return False
    with outside_faults(final), in_staging(final, staging) as staged:
        write(staged)
        _sync(staged, drop_cache=True)
        _read_back(staged, check, final)
        if storage.is_remote(final):
            return storage.put_new(staged, final)
        _make_folder(final.parent)
        won = _link(staged, final)
        _sync(final.parent)
    return won


def publish_dir(final: Path, write: Writer, staging: Path) -> bool:
    """Publish a folder exactly once, by one rename; in an object store it must have one writer.

    `write` makes the folder it is given and all that is in it.

    Returns
    -------
    bool
        True when this call published the folder, False when one with something in it was there.

    Raises
    ------
    OutsideFault
        When the disk is full or the mount is gone.
    """
    with outside_faults(final):
        if _holds_something(final):
            return False
    with outside_faults(final), in_staging(final, staging) as staged:
        write(staged)
        if storage.is_remote(final):
            storage.put_folder(staged, final)
            return True
        for folder, _, files in os.walk(staged, topdown=False):
            for name in files:
                _sync(Path(folder, name))
            _sync(Path(folder))
        _make_folder(final.parent)
        try:
            os.rename(staged, final)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            return False
        _sync(final.parent)
    return True


def replace(final: Path, write: Writer, staging: Path, check: Checker | None = None) -> None:
    """Put a new version in the place of a file; a reader sees the old one or the new one.

    `check`, where there is one, reads the new version back first, as for :func:`publish`.

    Raises
    ------
    OutsideFault
        When the disk is full, the mount is gone, or the file does not read back.
    """
    with outside_faults(final), in_staging(final, staging) as staged:
        write(staged)
        staged.chmod(_MODE)  # some libraries write files that their owner alone may read
        _sync(staged, drop_cache=check is not None)
        if check is not None:
            _read_back(staged, check, final)
        if storage.is_remote(final):
            storage.put(staged, final)
            return
        _make_folder(final.parent)
        os.replace(staged, final)
        _sync(final.parent)


def remove(path: Path) -> None:
    """Remove a published file, durably; it is no error when it is gone already.

    Raises
    ------
    OutsideFault
        When the mount is gone.
    """
    with outside_faults(path):
        with contextlib.suppress(FileNotFoundError):
            path.unlink()
        if not storage.is_remote(path):
            _sync(path.parent)


@contextlib.contextmanager
def in_staging(final: Path, staging: Path) -> Iterator[Path]:
    """A unique name in `staging` for what becomes `final`; nothing is left there afterwards."""
    staging.mkdir(parents=True, exist_ok=True)
    unique = f"{final.name}.{socket.gethostname()}.{os.getpid()}.{uuid.uuid4().hex}"
    staged = staging / unique
    try:
        yield staged
    finally:
        with contextlib.suppress(OSError):
            _remove(staged)


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _read_back(staged: Path, check: Checker, final: Path) -> None:
    """Run `check`; a file that was synced and does not read back is the machine's fault."""
    try:
        check(staged)
    except GampenError:
        raise
    except Exception as error:
        words = " ".join(str(error).split()) or type(error).__name__
        raise OutsideFault(
            f"{final}: what was written does not read back ({words}); check the disk"
        ) from error


def _link(staged: Path, final: Path) -> bool:
    """Give `staged` its final name unless that is taken; True when this call did it."""
    try:
        os.link(staged, final)
    except FileExistsError:
        # Over NFS the answer to a link that was made may get lost, and the repeated request then
        # says that the name exists: the file itself knows better.
        return os.path.samefile(staged, final)
    except OSError as error:
        if error.errno not in _NO_HARD_LINKS:
            raise
        return _rename_no_replace(staged, final)
    return True


def _rename_no_replace(staged: Path, final: Path) -> bool:
    """renameat2(2) with RENAME_NOREPLACE, for file systems without hard links."""
    at_fdcwd, rename_noreplace = -100, 1  # <fcntl.h>, <linux/fs.h>
    libc = ctypes.CDLL(None, use_errno=True)
    if not hasattr(libc, "renameat2"):
        code = errno.ENOSYS
    elif not libc.renameat2(
        at_fdcwd, os.fsencode(staged), at_fdcwd, os.fsencode(final), rename_noreplace
    ):
        return True
    else:
        code = ctypes.get_errno()
    if code == errno.EEXIST:
        return False
    if code in (errno.EINVAL, errno.ENOSYS):
        raise OutsideFault(
            f"{final.parent}: this file system can neither link nor rename without overwriting; "
            "put the output on another one with --out"
        )
    raise OSError(code, os.strerror(code), str(final))


def _holds_something(folder: Path) -> bool:
    if storage.is_remote(folder):
        return folder.exists()
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return any(True for _ in entries)
    return False


def _make_folder(folder: Path) -> None:
    """Make a folder and its parents so that they last through a power cut."""
    missing = []
    while not folder.is_dir():
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(exist_ok=True)
        _sync(path.parent)


def _sync(path: Path, drop_cache: bool = False) -> None:
    """Force a file or a folder to the disk; `drop_cache` so that it is then read from there."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        try:
            os.fsync(descriptor)
        except OSError as error:
            # Some network file systems cannot sync a folder; its entries are safe there anyway.
            if error.errno not in (errno.EINVAL, errno.ENOTSUP) or not path.is_dir():
                raise
        if drop_cache and hasattr(os, "posix_fadvise"):
            os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    finally:
        os.close(descriptor)
