"""A joined catalogue in an object store, where it can't appear by one rename.

While it is put, file by file, a mark stands beside the files and says what is being joined. It goes
when all is there. So a join that was killed goes on when it is typed again, since the same join
makes the same files; and another one is not mixed with it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from survey_gampen import commit, storage
from survey_gampen.bands.source import Source, footer
from survey_gampen.errors import InputError
from survey_gampen.outside import outside_faults

_MARK = "joining.json"


def is_begun(final: Path) -> bool:
    """Whether part of a joined catalogue is there, put by a join that did not end."""
    return storage.is_remote(final) and (final / _MARK).exists()


def mark_of(sources: Sequence[Source], leaf_rows: int) -> bytes:
    """What is joined: equal marks, equal files."""
    files = hashlib.sha256()
    for source in sources:
        for file in source.files:
            files.update(f"{file}\0{file.stat().st_size}\n".encode())
    return json.dumps({**footer(sources), "rows": leaf_rows, "files": files.hexdigest()}).encode()


def check_begun(final: Path, mark: bytes) -> None:
    """Refuse a place where another join did not end.

    Raises
    ------
    InputError
    """
    if is_begun(final) and (final / _MARK).read_bytes() != mark:
        raise InputError(
            f"{final} holds a part of another join, or of one of these runs as they were before:"
            " remove it, or give another --out"
        )


def put_joined(final: Path, mark: bytes, write: commit.Writer, staging: Path) -> None:
    """Put the catalogue there; `write` makes all of it in a folder.

    Raises
    ------
    InputError
        Another join began meanwhile.
    OutsideFault
        The disk is full, or the store is gone.
    """
    with outside_faults(final), commit.in_staging(final, staging) as folder:
        write(folder)
        if not storage.create(final / _MARK, mark):
            check_begun(final, mark)
        storage.put_folder(folder, final)
        commit.remove(final / _MARK)
