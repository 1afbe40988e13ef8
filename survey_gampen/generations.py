"""Zarr groups that are published whole and once, also where two writers are late for each other.

On a disk one rename gives a group its name. An object store has no rename, and a group is many
objects: of two writers (one of them of a client that was followed by another) each would write
into what the other has written. So there each writes a *generation* of its own, a whole group in a
folder that nobody else knows, and then the root, one small object, by a PUT on condition that it is
free. Whose root is first, is published; the root names the generation::

    NAME.zarr/zarr.json           attributes of the group, and `generation`
    NAME.zarr/GENERATION/...      the group

A generation that no root names may still be in the making, so nobody else touches it. What is
removed loses its root first, on a disk too: who reads finds afterwards, by
:func:`check_generation`, whether what was read was whole (of a chunk that is missing, Zarr would
make zeros).
"""

from __future__ import annotations

import json
import os
import uuid
from contextlib import suppress
from pathlib import Path
from typing import Any

import zarr

from survey_gampen import commit, storage
from survey_gampen.outside import outside_faults

_ROOT, _KEY = "zarr.json", "generation"


def publish_group(final: Path, write: commit.Writer, staging: Path) -> bool:
    """Publish a Zarr group exactly once.

    Parameters
    ----------
    final : Path
        The published name.
    write : callable
        Writes the whole group (format 3) into the folder that it is given, and makes that.
    staging : Path
        Folder on the file system of `final`, on this machine for an object store.

    Returns
    -------
    bool
        True when this call published the group, False when it was there or somebody else won.

    Raises
    ------
    OutsideFault
        When the disk is full, or the mount or the store is gone.
    """
    if not storage.is_remote(final):
        return commit.publish_dir(final, write, staging)
    root = final / _ROOT
    with outside_faults(final):
        if root.exists():
            return False
    with outside_faults(final), commit.in_staging(final, staging) as folder:
        write(folder)
        name = uuid.uuid4().hex
        about = json.loads((folder / _ROOT).read_text())
        attributes = {**about["attributes"], _KEY: name}
        text = json.dumps({"zarr_format": 3, "node_type": "group", "attributes": attributes})
        storage.put_folder(folder, final / name)
        won = storage.create(root, text.encode())
        if not won:
            storage.remove_tree(final / name)
    return won


def generation(path: Path) -> str:
    """What tells the group that counts now from one that is published there later.

    In an object store that is the name of its generation; on a disk, and for groups from before
    there were generations, what will do: when its root was written, and nothing.

    Raises
    ------
    FileNotFoundError
        Nothing is published there.
    """
    if not storage.is_remote(path):
        with (path / _ROOT).open("rb") as file:  # opening makes NFS ask the server again
            return str(os.fstat(file.fileno()).st_mtime_ns)
    about = json.loads((path / _ROOT).read_text())
    return str(about.get("attributes", {}).get(_KEY, ""))


def check_generation(path: Path, name: str) -> None:
    """Make sure that a generation still counts: then what was read of it until now was whole.

    Raises
    ------
    FileNotFoundError
        It was removed.
    """
    try:
        whole = generation(path) == name
    except FileNotFoundError:
        whole = False
    if not whole:
        raise FileNotFoundError(f"{path} was removed while it was read")


def open_group(path: Path) -> Any:
    """Open a group to be read, published here or by others.

    Raises
    ------
    FileNotFoundError, KeyError, ValueError
        There is none.
    """
    group = zarr.open_group(storage.zarr_store(path), mode="r")
    if name := group.attrs.get(_KEY) if storage.is_remote(path) else None:
        group = zarr.open_group(storage.zarr_store(path / str(name)), mode="r")
    return group


def remove_group(path: Path) -> None:
    """Remove what is published there from an object store; it is no error when nothing is."""
    with suppress(FileNotFoundError):
        name = generation(path)
        (path / _ROOT).unlink(missing_ok=True)
        storage.remove_tree(path / name if name else path)
