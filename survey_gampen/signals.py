"""Ctrl-C and the SIGTERM of batch systems: what was begun is put in order before the end."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from survey_gampen.errors import Interrupted


@contextlib.contextmanager
def stop_run_in_order() -> Iterator[None]:
    """Make SIGINT and SIGTERM end a run in order; a second SIGINT ends it at once.

    A second SIGTERM does not: batch systems send several, and what is put in order then, jobs to
    cancel and an index to write, is what they wait for.
    """

    def stop(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.signal(signal.SIGINT, lambda *_: os._exit(Interrupted.exit_code))
        raise Interrupted(f"stopped by {signal.Signals(number).name}: the same command goes on")

    with _handled({signal.SIGINT: stop, signal.SIGTERM: stop}):
        yield


@contextlib.contextmanager
def terminate_as_interrupt() -> Iterator[None]:
    """Make SIGTERM end any verb as Ctrl-C does: its workers, and its jobs, end with it.

    A verb's process that was told to end stays told: a second SIGTERM, while it exits, is ignored,
    and its exit code is the verb's.
    """
    with _handled({signal.SIGTERM: _interrupt}):
        yield


def _interrupt(number: int, frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    raise KeyboardInterrupt


@contextlib.contextmanager
def _handled(
    handlers: dict[signal.Signals, Callable[[int, FrameType | None], Any]],
) -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {each: signal.signal(each, handler) for each, handler in handlers.items()}
    try:
        yield
    finally:
        for each, handler in before.items():
            told = signal.getsignal(each) is signal.SIG_IGN
            if not (told and _interrupt in (handler, handlers[each])):
                signal.signal(each, handler)
