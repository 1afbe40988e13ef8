"""Independent tasks on all cores of this machine, with progress."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from typing import Any

import dask
from dask.callbacks import Callback
from rich.console import Console
from rich.progress import Progress


def compute(
    function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], what: str, workers: int | None
) -> None:
    """Call `function` with each of `calls`, on `workers` processes (default: one a core).

    `function` publishes its own result; nothing travels back.
    """
    tasks = [dask.delayed(function)(*arguments) for arguments in calls]
    if not tasks:
        return
    # One thread a process: the processes are the parallelism.
    for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    with _Count(len(tasks), what):
        dask.compute(
            *tasks, scheduler="processes", num_workers=workers or os.cpu_count(), chunksize=1
        )


class _Count(Callback):
    """Counts finished tasks: a bar on a terminal, a line each tenth elsewhere."""

    def __init__(self, total: int, what: str) -> None:
        self.total, self.done, self.what = total, 0, what
        self.progress = Progress(console=Console(), disable=not sys.stdout.isatty())
        self.bar = self.progress.add_task(what, total=total)
        super().__init__()

    def _start(self, dsk: Any) -> None:
        self.progress.start()

    def _posttask(self, key: Any, result: Any, dsk: Any, state: Any, worker_id: Any) -> None:
        self.done += 1
        self.progress.advance(self.bar)
        tenth = self.done * 10 // self.total > (self.done - 1) * 10 // self.total
        if self.progress.disable and tenth:
            print(f"{self.what}: {self.done} of {self.total}", flush=True)

    def _finish(self, dsk: Any, state: Any, failed: bool) -> None:
        self.progress.stop()
