"""How many connections a server sees at once, whoever opens them."""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from survey_gampen.outside import outside_faults


class Slots:
    """At most so many connections, of all processes that share a folder.

    A slot is a lock on a small file, which the system takes back from a process that dies. Where
    the file system knows no locks each process keeps to the number for itself.

    Parameters
    ----------
    folder : Path or None
        Where the files are; None: the threads of this process share.
    number : int
        Connections.
    """

    def __init__(self, folder: Path | None, number: int) -> None:
        self.folder, self.number = folder, number
        self._threads = threading.Semaphore(number)
        self._held: set[int] = set()
        self._guard = threading.Lock()

    @contextlib.contextmanager
    def one(self) -> Iterator[None]:
        """Wait for a slot and keep it inside the block."""
        with self._threads:
            place, descriptor = self._wait()
            try:
                yield
            finally:
                if descriptor is not None:
                    os.close(descriptor)
                with self._guard:
                    self._held.discard(place)

    def _wait(self) -> tuple[int, int | None]:
        while True:
            for place in random.sample(range(self.number), self.number):
                # Over NFS a lock belongs to the process: its threads would share one.
                with self._guard:
                    if place in self._held:
                        continue
                    self._held.add(place)
                taken = False
                try:
                    taken, descriptor = self._lock(place)
                    if taken:
                        return place, descriptor
                finally:
                    if not taken:
                        with self._guard:
                            self._held.discard(place)
            time.sleep(random.uniform(0.02, 0.1))

    def _lock(self, place: int) -> tuple[bool, int | None]:
        if self.folder is None:
            return True, None
        with outside_faults(self.folder):
            self.folder.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self.folder / f"slot-{place}", os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False, None
        except OSError:
            os.close(descriptor)
            return True, None
        return True, descriptor
