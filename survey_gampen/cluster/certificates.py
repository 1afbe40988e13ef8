"""Certificates for one run: who lacks them gets nothing from any of its ports.

Who can talk to a scheduler can run code on all workers, so every profile speaks TLS. On one
machine the certificate never leaves the memory of the processes; on several it lies in a folder
that only its owner can enter, for as long as the run lasts.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from distributed import Security

#: In the folder of the results: certificates while a run lasts, and the logs of its jobs.
FOLDER = ".cluster"
_PREFIX = "tls-"
_FILES = ("ca_file", "client_cert", "client_key", "scheduler_cert", "scheduler_key")
_WORKER = ("worker_cert", "worker_key")


@contextlib.contextmanager
def on_disk(folder: Path, only_ours: bool) -> Iterator[Security]:
    """Certificates as files that workers on other machines can read, removed on leaving.

    Parameters
    ----------
    folder : Path
        On a file system that all nodes see; made, for its owner alone, if it is not there.
    only_ours : bool
        Whether no other run has certificates there: what lies there is then left over.
    """
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    if only_ours:
        for left in folder.glob(f"{_PREFIX}*"):  # by a client that was killed
            shutil.rmtree(left, ignore_errors=True)
    place = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder))  # mode 0700
    try:
        yield write(place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


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
