"""What does the cluster layer itself cost? Partitions that do nothing, on four local workers.

The conductor, Dask's scheduler and the workers are the real ones; cutting and inferring return at
once. Prints milliseconds a partition (two tasks each), and the memory of the process that holds
client and scheduler after a tenth of the partitions and at the end: it must not grow with them.

    python benchmarks/layer.py [--partitions 200 2000] [--workers 4] [--json FILE]
"""

from __future__ import annotations

import argparse
import contextlib
import io
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import psutil
from ceilings import ceilings, told, write
from rich.console import Console
from rich.table import Table

from survey_gampen.cluster.crew import DaskCrew
from survey_gampen.cluster.load import load_profile
from survey_gampen.cluster.start import start
from survey_gampen.run import conductor
from survey_gampen.run.attempts import Attempts
from survey_gampen.run.layout import RunDir
from survey_gampen.run.plan import Partition
from survey_gampen.run.progress import Meter

#: Memory may grow by so much between a tenth of the partitions and the end.
MOST = 1.2


def nothing(*_: Any, tick: Any) -> dict[str, float]:
    """What a worker does of a partition here."""
    return {"seconds": 0.0}


def run(crew: DaskCrew, n: int) -> tuple[float, float, float]:
    """Seconds, and resident MiB after a tenth and at the end."""
    me, early = psutil.Process(), 0.0

    def jobs() -> Iterator[conductor.Job]:
        nonlocal early
        for number in range(n):
            if number == n // 10:
                early = me.memory_info().rss / 2**20
            yield conductor.Job(Partition(number, 12, number, 10))

    spec: Any = SimpleNamespace(engine={"batch": 8}, plan=SimpleNamespace(partitions=n))
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as stack:
        log = Path(folder) / "attempts.log"
        attempts = stack.enter_context(Attempts(log, log))
        meter = Meter(10 * n, 0, Console(file=io.StringIO()))
        flow = conductor.Conductor(
            RunDir(Path(folder)), spec, f"{n:06d}", crew, meter, 3, lambda: None, attempts
        )
        begun = time.perf_counter()
        flow.go(jobs(), 0, 0, 0)
        seconds = time.perf_counter() - begun
    return seconds, early, me.memory_info().rss / 2**20


@contextlib.contextmanager
def idle(workers: int) -> Iterator[DaskCrew]:
    """Local workers whose tasks do nothing, warm."""
    empty = SimpleNamespace(cut_partition=nothing, infer_partition=nothing)
    profile = load_profile(f"local:workers={workers},threads=1,dashboard_port=0")
    with (
        mock.patch.object(conductor, "task", empty),
        mock.patch.object(conductor, "is_cut", return_value=False),
        start(profile) as cluster,
    ):
        crew = DaskCrew(cluster)
        while crew.seats("infer") < workers:
            time.sleep(0.1)
        run(crew, 50)  # the first tasks import what they need
        yield crew


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--partitions", type=int, nargs="+", default=[200, 2000])
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    table = Table("partitions", "ms a partition", "MiB after a tenth", "at the end", "grown")
    figures: dict[str, Any] = {}
    with idle(args.workers) as crew:
        for n in args.partitions:
            seconds, early, late = run(crew, n)
            cells = (f"{1e3 * seconds / n:.1f}", f"{early:.0f}", f"{late:.0f}")
            table.add_row(str(n), *cells, f"{late / early:.3f}x")
            figures[str(n)] = {
                "seconds_a_partition": seconds / n,
                "mib_after_a_tenth": early,
                "mib_at_the_end": late,
                "grown": late / early,
            }
    ceiling = ceilings()  # at the end: its matrices must not count as this process's memory
    print(told(ceiling))
    Console().print(table)
    worst = max(one["grown"] for one in figures.values())
    print(f"wanted: at most {MOST}x; {'kept' if worst <= MOST else 'NOT kept'}")
    write(args.json, ceiling, figures)


if __name__ == "__main__":
    main()
