"""What follows from a failure."""

from __future__ import annotations

import errno
import pickle

import pytest

from survey_gampen.errors import OutsideFault, UnreadableFile
from survey_gampen.run.triage import (
    SAME_CAUSE,
    UNFIT_IN_A_ROW,
    Action,
    Kind,
    TooLarge,
    Triage,
    UnfitWorker,
    WorkerLost,
    classify,
    is_out_of_memory,
)


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (UnreadableFile("a.fits"), Kind.UNREADABLE),
        (ZeroDivisionError("x"), Kind.UNEXPECTED),
        (TooLarge("x"), Kind.MEMORY),
        (MemoryError(), Kind.MEMORY),
        (WorkerLost("x"), Kind.LOST),
        (OutsideFault("x"), Kind.OUTSIDE),
        (OSError(errno.ENOSPC, "No space left on device"), Kind.OUTSIDE),
        (OSError(errno.ESTALE, "Stale file handle"), Kind.OUTSIDE),
        (UnfitWorker("no GPU"), Kind.UNFIT),
    ],
)
def test_kinds(error: Exception, kind: Kind) -> None:
    assert classify(error) is kind
    assert classify(pickle.loads(pickle.dumps(error))) is kind


def test_memory_errors_of_torch_are_recognised() -> None:
    assert is_out_of_memory(
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory")
    )
    assert is_out_of_memory(RuntimeError("CUDA out of memory. Tried to allocate 2 GiB"))
    assert not is_out_of_memory(RuntimeError("shape mismatch"))


def test_an_unreadable_file_is_quarantined_at_once() -> None:
    triage = Triage()
    actions = {triage.failed(i, "cut", UnreadableFile(f"{i}.fits")) for i in range(20)}
    assert actions == {Action.QUARANTINE}  # twenty of them are twenty bad files, no outside cause


def test_an_unexpected_error_is_tried_three_times_and_judged_by_the_others() -> None:
    triage = Triage()
    actions = [triage.failed(0, "infer", ValueError("x")) for _ in range(3)]
    assert actions == [Action.AGAIN, Action.AGAIN, Action.HOLD]
    assert triage.published(1) == [0]  # another went through: it was this one's data
    assert triage.failures[0].attempts == 3


def test_the_last_partition_is_judged_at_the_end() -> None:
    triage = Triage()
    for _ in range(3):
        triage.failed(0, "infer", ValueError("x"))
    assert (triage.at_the_end(), triage.stop) == ([0], "")


def test_five_in_a_row_with_one_cause_stop_the_run() -> None:
    triage = Triage()
    error = "no such device /dev/nvidia{} in partition {}"
    actions = [
        triage.failed(i, "infer", RuntimeError(error.format(i, 1234 * i)))
        for i in range(SAME_CAUSE)
    ]
    assert actions == [Action.AGAIN] * (SAME_CAUSE - 1) + [Action.STOP]
    assert "5 partitions in a row" in triage.stop
    assert not triage.at_the_end()  # nothing is quarantined


def test_a_success_or_another_cause_breaks_the_row() -> None:
    triage = Triage()
    for i in range(3):
        triage.failed(i, "infer", ValueError("x"))
    triage.published(9)
    for i in range(3, 6):
        triage.failed(i, "infer", ValueError("x"))
    triage.failed(6, "infer", KeyError("y"))
    assert triage.failed(7, "infer", ValueError("x")) is Action.AGAIN


def test_one_partition_alone_is_no_row() -> None:
    triage = Triage()
    for _ in range(2):
        assert triage.failed(0, "cut", OutsideFault("disk full")) is Action.AGAIN
    assert triage.failed(0, "cut", OutsideFault("disk full")) is Action.HOLD
    assert triage.published(1) == []  # not its data, whatever the others do
    assert triage.at_the_end() == []
    assert triage.stop == "disk full"


def test_memory_halves_the_batch_until_one() -> None:
    triage = Triage()
    assert triage.failed(0, "infer", TooLarge("x"), batch=32) is Action.SMALLER
    assert triage.failed(0, "infer", TooLarge("x"), batch=2) is Action.SMALLER
    assert triage.failed(0, "infer", TooLarge("x"), batch=1) is Action.HOLD


def test_workers_that_are_all_unfit_stop_the_run() -> None:
    """Each is sent away and another takes its place: that could go on for ever."""
    triage = Triage()
    unfit = UnfitWorker("this GPU is another")
    assert {triage.failed(0, "infer", unfit) for _ in range(UNFIT_IN_A_ROW - 1)} == {Action.AGAIN}
    triage.published(1)
    actions = [triage.failed(0, "infer", unfit) for _ in range(UNFIT_IN_A_ROW)]
    assert actions == [Action.AGAIN] * (UNFIT_IN_A_ROW - 1) + [Action.STOP]
    assert "10 workers in a row" in triage.stop


def test_a_lost_worker_is_no_fault_of_five_partitions() -> None:
    triage = Triage()
    for _ in range(2):
        actions = {triage.failed(i, "infer", WorkerLost("died")) for i in range(6)}
        assert actions == {Action.AGAIN}
