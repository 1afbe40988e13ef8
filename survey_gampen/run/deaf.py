"""Loaded by each worker as it starts: Ctrl-C in the terminal is for the client alone.

The terminal sends it to all processes of the run at once. The client stops the workers itself,
in order, and a worker that died first would look like one that was lost.
"""

from __future__ import annotations

import signal


def dask_setup(worker: object) -> None:
    """Ignore the terminal's interrupt in this process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
