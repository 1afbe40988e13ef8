"""The files of ``.claim/``: each is made once, touched while its client lives, and read by others.

On a disk and in an object store; what they mean stands in :mod:`survey_gampen.run.claim`.
"""

from __future__ import annotations

import json
import os
import socket
import uuid
from dataclasses import asdict, dataclass
from pathlib import Path

import psutil

from survey_gampen import storage

#: Where batch systems tell a job its number.
JOB_VARIABLES = ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "OAR_JOB_ID", "JOB_ID")


@dataclass(frozen=True)
class Holder:
    """What a claim file says about the client that made it.

    Parameters
    ----------
    host, boot : str
        Name of the machine, and which start and process name space of it.
    pid : int
        Process number on that machine.
    started : str
        When the process started, in the system's own words: a pid may be given again.
    job : str
        Batch job, or nothing.
    released : bool
        The client has finished.
    """

    host: str
    boot: str
    pid: int
    started: str
    job: str = ""
    released: bool = False

    def __str__(self) -> str:
        job = f", job {self.job}" if self.job else ""
        return f"pid {self.pid} on {self.host}{job}"

    def is_here(self) -> bool:
        """Whether its process number is one of this machine, as it runs now."""
        here = myself()
        return (self.host, self.boot) == (here.host, here.boot)


def myself() -> Holder:
    """Return the description of this process."""
    job = next((os.environ[v] for v in JOB_VARIABLES if os.environ.get(v)), "")
    pid = os.getpid()
    return Holder(socket.gethostname(), _boot(), pid, process_start(pid) or "", job)


def _boot() -> str:
    """Return what tells this start (and process name space) of the machine from others."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return str(int(psutil.boot_time()))


def process_start(pid: int) -> str | None:
    """Return when the live process `pid` started, None if there is none (a zombie is none)."""
    try:
        process = psutil.Process(pid)
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        stat = Path(f"/proc/{pid}/stat")
        if stat.exists():  # in ticks since the start of the machine: no clock can move it
            return stat.read_text().rpartition(")")[2].split()[19]
        return f"{process.create_time():.0f}"
    except (psutil.Error, OSError):
        return None


def name(number: int) -> str:
    """What the file of a client is called."""
    return f"{number:06d}.json"


def numbers(folder: Path) -> list[int]:
    """Return the numbers of all files, in order."""
    names = storage.names_in(folder)
    return sorted(int(n[:6]) for n in names if n.endswith(".json") and n[:6].isdigit())


def last_number(folder: Path) -> int:
    """Return the highest number.

    A list of a folder may miss a file made while it is read, but never one that was there
    before; the last number but one stays, so no reader can find the folder empty and begin
    at one again.
    """
    return max(numbers(folder), default=0)


def make(folder: Path, number: int, holder: Holder) -> bool:
    """Make the claim file `number`; False where somebody was first."""
    text = json.dumps(asdict(holder))
    if storage.is_remote(folder):
        return storage.create(folder / name(number), text.encode())
    draft = folder / f"draft-{uuid.uuid4().hex}"
    draft.write_text(text)
    try:
        os.link(draft, folder / name(number))
    except FileExistsError:
        # Over NFS the answer to a link that was made may get lost.
        return os.path.samefile(draft, folder / name(number))
    finally:
        draft.unlink()
    return True


def beat(path: Path) -> None:
    """Give a sign of life."""
    if storage.is_remote(path):
        storage.touch(path)
    else:
        os.utime(path)


def release(path: Path) -> None:
    """Say that this client has finished."""
    text = json.dumps(asdict(myself()) | {"released": True})
    if storage.is_remote(path):
        path.write_text(text)
        return
    draft = path.with_name(f"draft-{uuid.uuid4().hex}")
    draft.write_text(text)
    os.replace(draft, path)


def read(path: Path) -> Holder | None:
    """Return what a claim file says; None where it can't be read."""
    try:
        return Holder(**json.loads(path.read_text()))
    except (OSError, ValueError, TypeError):
        return None


def age(path: Path) -> float:
    """Return seconds since the last sign of life, by the file system's own clock."""
    probe = path.with_name(f"draft-{uuid.uuid4().hex}")
    if storage.is_remote(path):
        try:
            probe.write_bytes(b"")
            return float(probe.stat().st_mtime - path.stat().st_mtime)
        except FileNotFoundError:
            return float("inf")
        finally:
            probe.unlink(missing_ok=True)
    try:
        probe.touch()
        with path.open("rb") as file:  # opening makes NFS ask the server again
            return probe.stat().st_mtime - os.fstat(file.fileno()).st_mtime
    except FileNotFoundError:
        return float("inf")
    finally:
        probe.unlink(missing_ok=True)
