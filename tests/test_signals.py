"""What a verb's process does with the SIGTERMs of a batch system."""

from __future__ import annotations

import contextlib
import signal
import subprocess
import sys
from collections.abc import Callable

import pytest

from survey_gampen.errors import Interrupted
from survey_gampen.signals import stop_run_in_order, terminate_as_interrupt

pytestmark = pytest.mark.usefixtures("signals_of_before")

#: Says that it is there, is told to end, and is told again while it exits.
VERB = """
import atexit, os, signal
from survey_gampen import cli
atexit.register(lambda: os.kill(os.getpid(), signal.SIGTERM))
cli._status = lambda args: os.kill(os.getpid(), signal.SIGTERM)
raise SystemExit(cli.main(["status", "nowhere"]))
"""


def test_a_verb_told_twice_ends_with_its_own_exit_code() -> None:
    done = subprocess.run([sys.executable, "-c", VERB], capture_output=True, text=True, check=False)
    assert done.returncode == Interrupted.exit_code, done.stderr
    assert "the same command goes on" in done.stderr


@pytest.mark.parametrize("inner", [contextlib.nullcontext, stop_run_in_order])
def test_a_verb_stays_told(inner: Callable[[], contextlib.AbstractContextManager[None]]) -> None:
    with (
        contextlib.suppress(KeyboardInterrupt, Interrupted),
        terminate_as_interrupt(),
        inner(),
    ):
        signal.raise_signal(signal.SIGTERM)
        pytest.fail("not told")
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN


def test_who_calls_a_run_gets_the_signals_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(Interrupted), stop_run_in_order():
        signal.raise_signal(signal.SIGTERM)
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_verb_that_was_not_told_gives_the_signals_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with terminate_as_interrupt(), stop_run_in_order():
        pass
    assert signal.getsignal(signal.SIGTERM) is before
