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
import getpass
import hashlib
import os
import shutil
import tempfile
import uuid
from pathlib import Path
from typing import Any

from survey_gampen.errors import InputError

#: Object stores that have a PUT on condition, and what has to be installed for them.
SCHEMES = ("s3",)
_MARK = "survey-gampen-writer"


def at(text: str | os.PathLike[str]) -> Path:
    """The place of a name; relative names are those of the working directory.

    Returns
    -------
    Path
        For an address an object of `upath`, which has the same methods.

    Raises
    ------
    InputError
        For an address of another kind, or one that holds a password.
    """
    if is_remote(text):
        return text  # type: ignore[return-value]
    scheme, found, rest = os.fspath(text).partition("://")
    if not found:
        return Path(text).expanduser().absolute()
    if scheme not in SCHEMES:
        known = ", ".join(f"{name}://" for name in SCHEMES)
        raise InputError(f"{scheme}://...: a run's folder is a path or one of {known}")
    if "@" in rest.partition("/")[0]:
        raise InputError(f"{scheme}://: keys belong into the environment or ~/.aws, not here")
    try:
        import s3fs  # noqa: F401
        from upath import UPath
    except ImportError:
        raise InputError(
            f'{text}: install what object stores need: pip install "survey-gampen[remote]"'
        ) from None
    # What other clients wrote must be seen at once, so nothing is remembered of what was there.
    place: Path = UPath(f"{scheme}://{rest.rstrip('/')}", use_listings_cache=False)
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
    """A folder on this machine's own disk for what is on its way to a place of an object store."""
    return Path(tempfile.gettempdir(), f"survey-gampen-{getpass.getuser()}", _short(root))


def home(root: Path) -> Path:
    """A folder that all machines of a cluster see, for what belongs to the work on a place and not
    into it: job scripts, certificates, logs."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base, "survey-gampen", "runs", _short(root))


def _short(root: Path) -> str:
    return hashlib.sha256(str(root).encode()).hexdigest()[:16]


def put_new(source: Path, final: Path) -> bool:
    """Put a file of this machine where nothing is yet; False where something is.

    The answer to a PUT may get lost, and the repeated one then finds the name taken: by this
    writer, as the object itself says.
    """
    there, writer = filesystem(final), uuid.uuid4().hex
    try:
        there.put_file(str(source), name_there(final), mode="create", Metadata={_MARK: writer})
    except FileExistsError:
        return _writer_of(final) == writer
    return True


def create(final: Path, data: bytes) -> bool:
    """Make a small object where nothing is yet; False where something is. As :func:`put_new`."""
    there, writer = filesystem(final), uuid.uuid4().hex
    try:
        there.pipe_file(name_there(final), data, mode="create", Metadata={_MARK: writer})
    except FileExistsError:
        return _writer_of(final) == writer
    return True


def check_store(root: Path) -> None:
    """Make sure that objects can be put below a place, and on condition.

    Raises
    ------
    OSError
        The bucket is not there, or keys are missing or not good for it.
    InputError
        The store does not know the condition: of two clients both would believe to be alone.
    """
    probe = root / f".probe-{uuid.uuid4().hex}"
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
    found: dict[str, str] = filesystem(path).metadata(name_there(path), refresh=True)
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
    """Remove a folder with all that is in it; it is no error when it is gone or can't be."""
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
