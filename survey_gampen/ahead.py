"""Waiting for many at once: calls that are mostly waiting for a server or a disk, in threads.

Not by :mod:`concurrent.futures`, whose threads are waited for when a block or the whole program is
left: Ctrl-C would wait until a server that is silent has answered, or was given up.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from typing import Any, TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")


def ahead(
    call: Callable[[Item], Result], items: Iterable[Item], threads: int, most: int = 0
) -> Iterator[Result]:
    """What `call` gives for each item, in order; it is called before somebody asks.

    Whoever stops asking, because of an error or a signal as well, waits for no call; nor does the
    interpreter when it ends.

    Parameters
    ----------
    call : callable
        Of one item.
    items : iterable
        Read as far as calls are made.
    threads : int
        Calls at a time.
    most : int
        Calls that were begun or wait for a thread, and results that were not asked for yet,
        together at most; by default as many as threads.
    """
    jobs: queue.SimpleQueue[tuple[Future[Result], Item] | None] = queue.SimpleQueue()
    waiting: deque[Future[Result]] = deque()

    def work() -> None:
        while (job := jobs.get()) is not None:
            coming, item = job
            if not coming.set_running_or_notify_cancel():
                continue
            try:
                coming.set_result(call(item))
            except BaseException as error:
                coming.set_exception(error)

    for _ in range(threads):
        threading.Thread(target=work, name="ahead", daemon=True).start()
    try:
        for item in items:
            coming: Future[Any] = Future()
            jobs.put((coming, item))
            waiting.append(coming)
            if len(waiting) >= (most or threads):
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for coming in waiting:
            coming.cancel()
        for _ in range(threads):
            jobs.put(None)
