"""The thread that the network has in each process."""

from __future__ import annotations

import multiprocessing
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest

from survey_gampen.run.measure import measure
from survey_gampen.run.task import infer_partition
from survey_gampen.run.thread import in_network_thread


@in_network_thread
def thread() -> threading.Thread:
    """Where this runs."""
    return threading.current_thread()


@in_network_thread
def nested() -> threading.Thread:
    return thread()


def test_all_callers_meet_in_one_thread() -> None:
    with ThreadPoolExecutor(4) as pool:
        seen = {*pool.map(lambda _: thread(), range(20)), thread(), nested()}
    assert len(seen) == 1
    assert seen != {threading.current_thread()}
    assert all(one.daemon for one in seen)  # a process that must end does not wait for a partition


@in_network_thread
def fail(what: object) -> None:
    raise KeyError(what)


def test_errors_are_the_callers_and_nothing_is_kept() -> None:
    class Large:
        pass

    large = Large()
    gone = weakref.ref(large)
    with pytest.raises(KeyError):
        fail(large)
    thread()
    del large
    assert gone() is None


def test_a_fork_has_one_of_its_own() -> None:
    thread()
    with multiprocessing.get_context("fork").Pool(1) as pool:
        assert pool.apply(_name) == "network"


def _name() -> str:
    return thread().name


def test_what_uses_the_network_runs_there() -> None:
    for function in (measure, infer_partition):
        assert function.__wrapped__  # type: ignore[attr-defined]
