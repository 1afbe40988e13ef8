"""Certificates for one run: who lacks them gets nothing from any of its ports.

Who can talk to a scheduler can run code on all workers, so every profile speaks TLS. On one
machine the certificate never leaves the memory of the processes; on several it lies in a folder
that only its owner can enter, for as long as the run lasts.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import shutil
import socket
import tempfile
from collections.abc import Iterator
from pathlib import Path

import psutil
from distributed import Security

from survey_gampen.errors import InputError

_FILES = ("ca_file", "client_cert", "client_key", "scheduler_cert", "scheduler_key")
_WORKER = ("worker_cert", "worker_key")
#: What means something else in some batch system's directives or in the shell, quoted or not.
_UNFIT = re.compile(r"[^\w@+=:,./-]")
#: How the folders of `survey-gampen cluster check` begin.
_CHECK = "survey-gampen-check-"


@contextlib.contextmanager
def on_disk(folder: Path, owner: Path) -> Iterator[Security]:
    """Certificates as files that workers on other machines can read, removed on leaving.

    Parameters
    ----------
    folder : Path
        On a file system that all nodes see; made, for its owner alone, if it is not there.
    owner : Path
        Folder of the results: what clients in it left behind that were killed goes.

    Raises
    ------
    InputError
        If a job script can't name the folder.
    """
    check_path(folder, shared=not folder.is_relative_to(owner))
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    prefix = f"tls-{hashlib.sha256(os.fsencode(owner)).hexdigest()[:12]}-"
    sweep(folder, prefix)
    mine = f"{prefix}{socket.gethostname()}-{os.getpid()}-"
    place = Path(tempfile.mkdtemp(prefix=mine, dir=folder))  # mode 0700
    try:
        yield write(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def check_path(path: Path, shared: bool = False) -> None:
    """Refuse a path that can't stand in a job script.

    Parameters
    ----------
    path : Path
        In the folder of the results, or in the one that `cluster check` makes.
    shared : bool
        Whether it is the profile's `shared` instead.

    Raises
    ------
    InputError
        The directives of batch systems end at a space, and know no quotes.
    """
    unfit = _UNFIT.search(str(path))
    if unfit is None:
        return
    letter = unfit.group()
    named = "space or quote" if letter.isspace() or letter in "\"'`" else letter
    remedy = "give an --out without"
    if shared:
        remedy = "give the profile's `shared` a folder without"
    elif any(part.startswith(_CHECK) for part in path.parts):
        remedy = "it is the current folder, so check in another one"
    raise InputError(f"jobs can't be given the path {str(path)!r}, for the {named} in it: {remedy}")


def sweep(folder: Path, prefix: str, but: Path | None = None) -> None:
    """Remove what clients that were killed left behind."""
    for left in folder.glob(f"{prefix}*"):
        if left != but and not _of_the_living(left.name.removeprefix(prefix)):
            shutil.rmtree(left, ignore_errors=True)


def _of_the_living(name: str) -> bool:
    """Whether certificates are of a process that lives on this machine: a second client of
    ``simulate``, say, must not take those of the first."""
    host, _, rest = name.rpartition("-")[0].rpartition("-")
    here = host == socket.gethostname()
    return here and rest.isdecimal() and int(rest) != os.getpid() and psutil.pid_exists(int(rest))


def write(place: Path) -> Security:
    """Make certificates, write them into `place`, and return the security that uses them."""
    made = Security.temporary()
    files = {}
    for name in (*_FILES, *_WORKER):
        files[f"tls_{name}"] = str(place / f"{name}.pem")
        handle = os.open(files[f"tls_{name}"], os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(getattr(made, f"tls_{name}"))
    return Security(require_encryption=True, **files)


def read(place: Path) -> Security:
    """Return the security that uses the certificates in `place`."""
    files = {f"tls_{name}": str(place / f"{name}.pem") for name in (*_FILES, *_WORKER)}
    return Security(require_encryption=True, **files)
