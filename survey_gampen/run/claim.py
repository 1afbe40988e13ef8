"""One client a run: who holds the folder, how that is seen, how it passes on.

The folder ``.claim/`` holds numbered files. The highest number is the present holder; a client
becomes the holder by making the next number with ``link(2)``, which only one can do, on NFS as well
(in an object store by a PUT on condition that the name is free). The holder touches its file every
few seconds. A holder that is gone (its process is dead on this host, or its file has not been
touched for a minute) is followed by the next number, and if it was only asleep it finds the higher
number and stops.

The number also names the client's corner of the staging area. The next holder turns the corners of
its forerunners into plain files: a worker that outlived its client can stage nothing more, so it
can publish nothing more, however late it wakes up. (An object store has no such corners: there a
late worker can only publish what it was to publish, the same bits, and once, and it touches nothing
of what others write, see :mod:`survey_gampen.generations`. What it stages is on its own machine, in
a corner with a name of its own: numbers begin again where OUT was removed.)
"""

from __future__ import annotations

import contextlib
import os
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

from survey_gampen import storage
from survey_gampen.errors import GampenError, InputError, Interrupted
from survey_gampen.run import claimfile
from survey_gampen.run.claimfile import Holder
from survey_gampen.run.layout import RunDir

BEAT_SECONDS = 5.0
STALE_SECONDS = 60.0


class ClaimLostError(Interrupted):
    """Somebody else took the claim over: this client must stop."""


class Claim:
    """The right to work on a run's folder, as a context manager.

    Parameters
    ----------
    run : RunDir
        The run; its folder must exist.
    beat, stale : float
        Seconds between two signs of life, and without one until the holder counts as gone.

    Raises
    ------
    InputError
        On entering, where another client lives here; the line names it.
    """

    def __init__(
        self, run: RunDir, beat: float = BEAT_SECONDS, stale: float = STALE_SECONDS
    ) -> None:
        self._run = run
        self._beat = beat
        self._stale = stale
        self._number = 0
        self._mark = f"-{uuid.uuid4().hex[:8]}" if storage.is_remote(run.root) else ""
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self.lost = threading.Event()

    @property
    def token(self) -> str:
        """Name of this client's corner of the staging area."""
        return f"{self._number:06d}{self._mark}"

    def __enter__(self) -> Claim:
        folder = self._run.claims
        storage.make_folder(folder)
        while not self._number:
            last = claimfile.last_number(folder)
            if last:
                holder = claimfile.read(folder / claimfile.name(last))
                if not self._gone(folder / claimfile.name(last), holder):
                    raise InputError(
                        f"{self._run.root} is in use by {holder or 'another client'}; wait until"
                        " it has finished, stop it, or give another --out"
                    )
            if claimfile.make(folder, last + 1, claimfile.myself()):
                self._number = last + 1
        for old in claimfile.numbers(folder):
            if old < self._number - 1:  # the one before stays: see last_number
                (folder / claimfile.name(old)).unlink(missing_ok=True)
        self._close_old_corners()
        self._thread = threading.Thread(target=self._live, name="claim", daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ended.set()
        if self._thread is not None:
            self._thread.join()
        if not self.lost.is_set():
            # A full disk, a store that is gone: silence, or the dead pid, says the same.
            with _suppressed():
                if self._run.claims.is_dir():
                    claimfile.release(self._run.claims / claimfile.name(self._number))
            shutil.rmtree(self._run.staging(self.token), ignore_errors=True)

    def check(self) -> None:
        """Raise `ClaimLostError` where another client holds the folder now."""
        if not self.is_held():
            raise ClaimLostError(f"{self._run.root} was taken over by another client")

    def is_held(self) -> bool:
        """Tell whether this client still holds the folder; looks there, not only at the beat."""
        with _suppressed():  # a file system gone: the beat decides
            if claimfile.last_number(self._run.claims) > self._number:
                self.lost.set()
        return not self.lost.is_set()

    def _gone(self, path: Path, holder: Holder | None) -> bool:
        if holder is not None and holder.released:
            return True
        if holder is not None and holder.is_here():
            return claimfile.process_start(holder.pid) != holder.started
        return claimfile.age(path) > self._stale

    def _live(self) -> None:
        """Give a sign of life until the end; notice a follower, or a file system gone."""
        path = self._run.claims / claimfile.name(self._number)
        last = time.monotonic()
        while not self._ended.wait(self._beat):
            try:
                claimfile.beat(path)
                last = time.monotonic()
                followed = claimfile.last_number(self._run.claims) > self._number
            except Exception:  # what a store's library raises is no OSError
                # Others may see no sign of life by now and begin: be gone before they do.
                followed = time.monotonic() - last > self._stale - 2 * self._beat
            if followed:
                self.lost.set()
                return

    def _close_old_corners(self) -> None:
        """Put a plain file in the place of each staging folder of the clients before."""
        root = self._run.staging_root
        root.mkdir(parents=True, exist_ok=True)
        if not self._mark and self._number > 1:
            _close_corner(root, f"{self._number - 1:06d}")
        for entry in root.iterdir():
            if entry.is_dir() and entry.name != self.token:
                if entry.name.startswith("closed-"):
                    shutil.rmtree(entry, ignore_errors=True)
                else:
                    _close_corner(root, entry.name)
        self._run.staging(self.token).mkdir()


def holder_of(run: RunDir) -> tuple[Holder, float] | None:
    """Return the last client of the run and the age of its last sign of life [s].

    Returns
    -------
    (Holder, float) or None
        None where nobody works on the run: never begun, finished, or found dead.
    """
    last = claimfile.last_number(run.claims) if run.claims.is_dir() else 0
    path = run.claims / claimfile.name(last)
    holder = claimfile.read(path) if last else None
    if holder is None or holder.released:
        return None
    if holder.is_here():
        if claimfile.process_start(holder.pid) != holder.started:
            return None
        return holder, 0.0
    age = max(0.0, time.time() - path.stat().st_mtime)
    return None if age > STALE_SECONDS else (holder, age)


@contextlib.contextmanager
def _suppressed() -> Iterator[None]:
    """Let errors of the file system go by; those of a store's library are no OSErrors."""
    try:
        yield
    except GampenError:  # Ctrl-C
        raise
    except Exception:
        return


def _close_corner(root: Path, name: str) -> None:
    place = root / name
    for _ in range(100):  # a writer may make the folder again between the two steps
        try:
            os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            return
        except FileExistsError:
            if place.is_file():
                return
            away = root / f"closed-{uuid.uuid4().hex[:8]}"
            with contextlib.suppress(FileNotFoundError):
                os.rename(place, away)
            shutil.rmtree(away, ignore_errors=True)
