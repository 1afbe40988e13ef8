"""The network has a thread of its own in each process.

OpenMP gives every thread that computes with it a team of its own. Once teams have more threads
than there are cores, all of them sleep at each barrier instead of waiting the few microseconds:
with tasks in any of a worker's threads a pass took 20 % longer.
"""

from __future__ import annotations

import functools
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


class _Caller:
    """Calls functions, one after the other, in a thread that does not outlive its process."""

    def __init__(self) -> None:
        self._asked: queue.SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None

    def __call__(self, function: Callable[[], T]) -> T:
        with self._lock:
            if self._thread is None or not self._thread.is_alive():  # as after a fork
                self._thread = threading.Thread(target=self._work, name="network", daemon=True)
                self._thread.start()
        if threading.current_thread() is self._thread:
            return function()
        answer: Future[T] = Future()
        self._asked.put((answer, function))
        try:
            return answer.result()
        finally:
            del answer  # which an error would hold, and it the error

    def _work(self) -> None:
        while True:
            answer, function = self._asked.get()
            try:
                answer.set_result(function())
            except BaseException as error:
                answer.set_exception(error)
            del answer, function  # or what they hold would stay until the next


_call = _Caller()


def in_network_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Have a function run in the process's thread for the network, its caller waiting."""

    @functools.wraps(function)
    def called(*args: P.args, **kwargs: P.kwargs) -> T:
        return _call(functools.partial(function, *args, **kwargs))

    return called
