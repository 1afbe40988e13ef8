"""Places: folders of a file system, and those of an object store (``s3://bucket/name``).

Everything above this module says ``path / "name"``, ``path.exists()`` and ``path.read_text()`` of
either. Here stands what they do not have in common. An object store knows no rename, no link and
no half-written object: it has PUT of a whole object, which readers see whole or not at all, and PUT
on condition that the name is free (``If-None-Match: *``, RFC 9110, section 13.1.2), which of two
writers only one can do. That is all that publishing needs.

Keys and the address of a store that is not Amazon's come from where its users have them: the
environment (``AWS_ENDPOINT_URL``, ``AWS_PROFILE`` ...) or ``~/.aws``.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import stat
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from survey_gampen.addresses import refuse_secrets
from survey_gampen.errors import InputError
from survey_gampen.opening import FRESH, check_endpoint

#: Object stores that have a PUT on condition, and what has to be installed for them.
SCHEMES = ("s3",)
_MARK = "survey-gampen-writer"
#: Beginning of the names of objects that are made and removed to see whether a place can be used.
PROBE = ".probe-"
#: Seconds to wait before a PUT on condition is made again that met another one.
_MEETING_SECONDS = (0.2, 0.5, 1.0, 2.0, 4.0)


def at(text: str | os.PathLike[str]) -> Path:
    """The place of a name; relative names are those of the working directory.

    Returns
    -------
    Path
        For an address an object of `upath`, which has the same methods.

    Raises
    ------
    InputError
        For an address of another kind, one that names no bucket, or one that holds a secret.
    """
    if is_remote(text):
        return text  # type: ignore[return-value]
    scheme, found, rest = os.fspath(text).partition("://")
    if not found:
        return Path(text).expanduser().absolute()
    refuse_secrets(os.fspath(text), "address")
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise InputError(f"{scheme}://...: a run's folder is a path or one of {known}")
    if not rest.partition("/")[0]:
        raise InputError(f"{scheme}://{rest} names no bucket; give {scheme}://BUCKET/NAME")
    try:
        import s3fs  # noqa: F401
        from upath import UPath
    except ImportError:
        raise InputError(
            f'{text}: install what object stores need: pip install "survey-gampen[remote]"'
        ) from None
    check_endpoint()
    place: Path = UPath(f"{scheme}://{rest.rstrip('/')}", **FRESH)
    return place


def is_remote(path: object) -> bool:
    """Whether a path is one of an object store."""
    return hasattr(path, "storage_options") and not isinstance(path, Path)


def filesystem(path: Path) -> Any:
    """The fsspec file system of a place of an object store; None for a plain path."""
    return path.fs if is_remote(path) else None  # type: ignore[attr-defined]


def name_there(path: Path) -> str:
    """The name by which :func:`filesystem` knows a place."""
    return path.path if is_remote(path) else str(path)  # type: ignore[attr-defined]


def zarr_store(path: Path) -> Any:
    """A place as zarr takes it."""
    if not is_remote(path):
        return path
    from zarr.storage import FsspecStore

    options = {**path.storage_options, "asynchronous": True}  # type: ignore[attr-defined]
    return FsspecStore.from_url(str(path), storage_options=options)


def scratch(root: Path) -> Path:
    """A folder on this machine's own disk for what is on its way to a place of an object store.

    Raises
    ------
    InputError
        The folder that it lies in is somebody else's.
    """
    return own_temporary("survey-gampen") / _short(root)


def own_temporary(name: str, variable: str = "TMPDIR") -> Path:
    """A folder among the temporary files that this user alone may enter; made where it is missing.

    Parameters
    ----------
    name : str
        Beginning of its name.
    variable : str
        What of the environment names another one, for the error.

    Raises
    ------
    InputError
        The name is taken by somebody else's folder, or by a link.
    """
    # By number: in a container a user may have no name.
    folder = Path(tempfile.gettempdir(), f"{name}-{os.getuid()}")
    with contextlib.suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    # In a folder for all somebody may have taken the name, to read what is written, or change it.
    found = folder.lstat()
    if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
        raise InputError(
            f"{folder} is somebody else's, or a link: set {variable} to a folder of your own"
        )
    if found.st_mode & 0o077:
        folder.chmod(0o700)
    return folder


def home(root: Path) -> Path:
    """A folder that all machines of a cluster see, for what belongs to the work on a place and not
    into it: job scripts, certificates, logs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "survey-gampen", "runs", _short(root))


def _short(root: Path) -> str:
    return hashlib.sha256(str(root).encode()).hexdigest()[:16]


def put_new(source: Path, final: Path) -> bool:
    """Put a file of this machine where nothing is yet; False where something is."""
    there, name = filesystem(final), name_there(final)
    return _once(final, lambda mark: there.put_file(str(source), name, mode="create", **mark))


def create(final: Path, data: bytes) -> bool:
    """Make a small object where nothing is yet; False where something is."""
    there, name = filesystem(final), name_there(final)
    return _once(final, lambda mark: there.pipe_file(name, data, mode="create", **mark))


def _once(final: Path, put: Callable[[dict[str, Any]], object]) -> bool:
    """Do a PUT on condition; False where somebody was first.

    The answer may get lost, and the repeated request then finds the name taken: by this writer, as
    the object itself says. Two requests that meet may both be sent away by a 409 ("Conditional
    writes" in Amazon's S3 User Guide), and then one is to be made again.
    """
    writer = uuid.uuid4().hex
    for seconds in (*_MEETING_SECONDS, None):
        try:
            put({"Metadata": {_MARK: writer}})
        except FileExistsError:
            break
        except OSError as error:
            status = _http_status(error)
            if status == 412:  # not every store says which condition was not met: there is one
                break
            if status != 409 or seconds is None:
                raise
            time.sleep(seconds)
        else:
            return True
    return _writer_of(final) == writer


def _http_status(error: BaseException) -> int | None:
    """What a store answered, of an error that was made of it."""
    answer = getattr(error.__cause__, "response", None) or {}
    status: int | None = answer.get("ResponseMetadata", {}).get("HTTPStatusCode")
    return status


def check_store(root: Path) -> None:
    """Make sure that objects can be put below a place, and on condition.

    Raises
    ------
    OSError
        The bucket is not there, or keys are missing or not good for it.
    InputError
        The store does not know the condition: of two clients both would believe to be alone.
    """
    probe = root / f"{PROBE}{uuid.uuid4().hex}"
    try:
        if not create(probe, b"") or create(probe, b""):
            raise InputError(
                f"{root}: this store overwrites where it was asked not to (If-None-Match), so two"
                " clients could not be told apart; put the output elsewhere with --out"
            )
    finally:
        with contextlib.suppress(OSError):
            probe.unlink(missing_ok=True)


def _writer_of(path: Path) -> str | None:
    try:
        found: dict[str, str] = filesystem(path).metadata(name_there(path), refresh=True)
    except FileNotFoundError:  # removed meanwhile
        return None
    # S3 gives names in small letters, and fsspec some with underscores.
    return next((v for k, v in found.items() if k.replace("_", "-").lower() == _MARK), None)


def put(source: Path, final: Path) -> None:
    """Put a file of this machine in the place of whatever is there."""
    filesystem(final).put_file(str(source), name_there(final))


def put_folder(source: Path, final: Path) -> None:
    """Put a folder of this machine into an object store, its own files last.

    So a group of Zarr, whose root attributes say that it is whole, says so when it is.
    """
    files = sorted(path for path in source.rglob("*") if path.is_file())
    deep = [path for path in files if path.parent != source]
    there = filesystem(final)
    names = [name_there(final / path.relative_to(source).as_posix()) for path in deep]
    if deep:
        there.put([str(path) for path in deep], names)
    for path in files:
        if path.parent == source:
            put(path, final / path.name)


def touch(path: Path) -> None:
    """Give an object a new time, by writing it again; for those with one writer."""
    path.write_bytes(path.read_bytes())


def remove_tree(path: Path) -> None:
    """Remove a folder with all that is in it; it is no error when it is gone.

    Nor when it can't be removed from a disk; what an object store raises then, is raised.
    """
    if not is_remote(path):
        shutil.rmtree(path, ignore_errors=True)
        return
    # The objects of the folder itself first: they say whether the rest is whole.
    with contextlib.suppress(FileNotFoundError):
        there = filesystem(path)
        names = there.find(name_there(path))
        depth = name_there(path).count("/") + 1
        first = [name for name in names if name.count("/") == depth]
        for some in (first, [name for name in names if name.count("/") > depth]):
            if some:
                there.rm(some)


def make_folder(path: Path) -> None:
    """Make a folder where it is missing; object stores have none."""
    if not is_remote(path):
        path.mkdir(exist_ok=True)


def names_in(path: Path) -> list[str]:
    """Names of what is in a folder; none where it is missing."""
    try:
        return [entry.name for entry in path.iterdir()]
    except (FileNotFoundError, NotADirectoryError):  # the second is what stores say
        return []
