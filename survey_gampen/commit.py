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

Writer = Callable[[Path], None]
Checker = Callable[[Path], None]

_UMASK = os.umask(0)  # which can't be read without being set
os.umask(_UMASK)
#: What a new file may be used for: what this user allows.
_MODE = 0o666 & ~_UMASK

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
#: What a file system answers to link() when it has no hard links.
_NO_HARD_LINKS = frozenset(
    {errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV}
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
