"""dask-jobqueue, imported in a way that leaves Ctrl-C alone.

Its module ``runner`` takes the terminal's interrupt for itself as it is imported, for all who use
the package, and ends the process with exit code 0.
"""

from __future__ import annotations

import importlib
import signal
from types import ModuleType

_before = signal.getsignal(signal.SIGINT)
try:
    import dask_jobqueue
    from dask_jobqueue.core import Job
finally:
    signal.signal(signal.SIGINT, _before)

__all__ = ["Job", "dask_jobqueue", "module"]


def module(name: str) -> ModuleType:
    """Return one of its modules."""
    return importlib.import_module(f"{dask_jobqueue.__name__}.{name}")
