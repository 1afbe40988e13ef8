"""Small parts of the runner: space, progress, sizes of partitions, run.toml."""

from __future__ import annotations

import io
import stat
from pathlib import Path

import pytest
from rich.console import Console

from survey_gampen.errors import OutsideFault
from survey_gampen.run import space
from survey_gampen.run.measure import Measured
from survey_gampen.run.partitioning import partition_rows, places
from survey_gampen.run.progress import Meter, duration, size


@pytest.mark.parametrize(
    ("seconds_per_galaxy", "rows", "workers", "least", "most"),
    [
        (1.5, 10**9, 100, 60, 600),  # one to ten minutes
        (0.003, 10**9, 100, 60, 600),
        (1.5, 1000, 2, 60, 600),
    ],
)
def test_a_partition_takes_minutes(
    seconds_per_galaxy: float, rows: int, workers: int, least: float, most: float
) -> None:
    found = partition_rows(Measured({"batch": 32}, seconds_per_galaxy), rows, workers)
    assert found % 32 == 0
    assert least * 0.75 <= found * seconds_per_galaxy <= most


def test_partitions_have_many_batches_where_there_is_time() -> None:
    slow, fast = (Measured({"batch": 32}, seconds) for seconds in (0.5, 0.003))
    assert partition_rows(slow, 10**6, 2) == 32 * 32  # 512 s
    assert partition_rows(fast, 10**9, 2) == 60_000  # three minutes
    # One worker waits for no other, so it may take a small catalogue as a whole.
    assert partition_rows(slow, 512, 1) == 32 * 32
    assert partition_rows(slow, 512, 2) == 4 * 32


def test_slow_galaxies_still_fill_a_batch() -> None:
    assert partition_rows(Measured({"batch": 32}, 1000.0), 10**6, 1) == 32


def test_what_is_free_is_compared_with_the_plan(tmp_path: Path) -> None:
    space.check_space(tmp_path, 1.0, can_drop=False)
    with pytest.raises(OutsideFault, match="make room or add --drop-cutouts"):
        space.check_space(tmp_path, 1e18, can_drop=True)


def test_a_quota_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "quota"
    mount = space._mount_of(tmp_path)
    program.write_text(
        "#!/bin/sh\n"
        "echo 'Disk quotas for user someone (uid 1):'\n"
        "echo 'Filesystem blocks quota limit grace files quota limit grace'\n"
        f"echo '{mount} 900* 800 1000 0 1 0 0 0'\n"
    )
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    assert space.free_bytes(tmp_path) == 100 * 1024


def test_plain_lines_off_a_terminal() -> None:
    text = io.StringIO()
    with Meter(100, 20, Console(file=text, width=200), every=0.0) as meter:
        meter.show(40, 5, 1)
        meter.say("a line of its own [with brackets]")
    lines = text.getvalue().splitlines()
    assert lines[0].startswith("45 of 100 galaxies, ")
    assert "galaxies/s" in lines[0]
    assert "left" in lines[0]
    assert lines[0].endswith("1 quarantined")
    assert lines[1] == "a line of its own [with brackets]"


def test_a_bar_on_a_terminal() -> None:
    text = io.StringIO()
    console = Console(file=text, force_terminal=True, width=120)
    with Meter(100, 0, console) as meter:
        meter.show(50, 0, 0)
    assert "50/100" in text.getvalue()


def test_numbers_as_people_say_them() -> None:
    assert [duration(s) for s in (5, 600, 9000, 3e5)] == ["5 s", "10 min", "2.5 h", "3.5 d"]
    assert [size(b) for b in (12, 228_484, 1.8e12, 4.6e15)] == [
        "12 B",
        "228 kB",
        "1.8 TB",
        "4.6 PB",
    ]


@pytest.mark.parametrize(
    ("rows", "partitions", "batch", "computed"),
    [(320, 1, 32, 336), (10, 1, 32, 32), (420, 48, 32, 1536), (0, 0, 32, 0), (64, 2, 32, 96)],
)
def test_padding_counts(rows: int, partitions: int, batch: int, computed: float) -> None:
    assert places(rows, partitions, batch) == computed
