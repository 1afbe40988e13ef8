"""Calls in threads: in order, bounded, and waited for by nobody who has left."""

from __future__ import annotations

import itertools
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from catalogservers import WebServer
from hypothesis import given
from hypothesis import strategies as st
from skies import patch_of_sky, write
from smallrun import environment

from survey_gampen.ahead import ahead


@given(n=st.integers(0, 30), threads=st.integers(1, 5), more=st.integers(0, 7))
def test_results_come_in_order_and_few_calls_are_ahead(n: int, threads: int, more: int) -> None:
    begun = itertools.count()
    last = [-1]

    def call(item: int) -> int:
        last[0] = max(last[0], next(begun))
        time.sleep(0.001 * (item % 3))
        return item * item

    for place, result in enumerate(ahead(call, range(n), threads, threads + more)):
        assert result == place * place
        assert last[0] <= place + threads + more
    assert last[0] == n - 1


def test_an_error_is_that_of_its_item() -> None:
    found = ahead(lambda item: 6 // item, [3, 2, 1, 0, 1], threads=3)
    assert [next(found) for _ in range(3)] == [2, 3, 6]
    with pytest.raises(ZeroDivisionError):
        next(found)


def test_who_leaves_waits_for_no_call() -> None:
    never, begun = threading.Event(), threading.Semaphore(0)

    def call(item: int) -> int:
        begun.release()
        if item:
            never.wait(60)
        return item

    found, start = ahead(call, range(100), threads=4), time.monotonic()
    assert next(found) == 0
    assert all(begun.acquire(timeout=20) for _ in range(4))
    found.close()
    assert time.monotonic() - start < 20
    never.set()
    assert not begun.acquire(timeout=0.2)  # what was not begun is not done any more


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("verb", ["run", "inspect"])
def test_a_silent_server_keeps_nobody(number: signal.Signals, verb: str, tmp_path: Path) -> None:
    """The files of a catalogue are being asked for, many at once; nobody answers."""
    for name in range(20):
        path = tmp_path / f"served/hats/dataset/Norder=5/Dir=0/Npix={name}.parquet"
        write(path, patch_of_sky(5))
    lines = ["Norder,Npix", *(f"5,{name}" for name in range(20))]
    (tmp_path / "served/hats/partition_info.csv").write_text("\n".join(lines))
    (tmp_path / "served/hats/hats.properties").write_text("dataproduct_type=object\n")
    (tmp_path / "im").mkdir()
    with WebServer(tmp_path / "served") as server:
        server.silent = "/hats/dataset/Norder=5/Dir=0/Npix=1"
        words = [sys.executable, "-m", "survey_gampen.cli", verb, f"{server.url}/hats"]
        words += ["--images", str(tmp_path / "im"), "--out", str(tmp_path / "run")]
        client = subprocess.Popen(
            words, env=environment(), cwd=tmp_path, stderr=subprocess.PIPE, text=True
        )
        assert all(server.asked.acquire(timeout=120) for _ in range(5))
        start = time.monotonic()
        client.send_signal(number)
        _, said = client.communicate(timeout=60)
        assert time.monotonic() - start < 4  # on a machine that does other things as well
    assert client.returncode == 75
    assert len(said.splitlines()) == 1, said
    assert not (tmp_path / "run").exists()
