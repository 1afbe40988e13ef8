"""What would one use instead, and what would it give? Other methods on the same galaxies.

statmorph (apertures, and one Sersic profile), AstroPhot (bulge and disk by Levenberg-Marquardt) and
pysersic (bulge and disk, approximate posterior) beside a shipped network's posterior of 1000
passes: seconds a galaxy in one process, estimates against the truth, and how many truths the 68 %
intervals hold. The others are given the true PSF and noise, in favour of them; the network was
trained on the population that the galaxies come from, in favour of it.

    python benchmarks/alternatives.py --records FILE [--n 48] [--slow 12] [--minutes 60]
                                      [--json FILE] [--png FILE]

None of them is needed by the package: ``pip install statmorph astrophot pysersic``. One that is
missing is left out. Each fit goes to FILE (JSON lines) as it comes; the same command goes on with
those that are missing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from ceilings import ceilings, told, write
from methods import with_gampen
from methods.judge import judge, show
from methods.problem import problems
from rich.progress import Progress

from survey_gampen.posterior.settings import usable_cores
from survey_gampen.simulation import simulate

#: package: how it is done with it; the last one on few galaxies only.
OTHERS = {"statmorph": "statmorph", "astrophot": "AstroPhot", "pysersic": "pysersic"}
SLOW = "pysersic"
#: Galaxies of a batch of the network; the others follow on the same ones, so that all methods see
#: the same hours of the machine.
GROUP = 16
Record = dict[str, Any]


def installed() -> dict[str, ModuleType]:
    """The other methods that can be had, by package; says how to get the rest."""
    # Their progress bars, and their search for accelerators, tell nothing here.
    os.environ |= {"TQDM_DISABLE": "1", "JAX_PLATFORMS": "cpu"}
    found = {}
    for package, name in OTHERS.items():
        try:
            found[package] = importlib.import_module(f"methods.with_{package}")
        except ModuleNotFoundError as error:
            print(f"without {name} (no {error.name}): pip install {package}")
    return found


@contextmanager
def at_most(seconds: float) -> Iterator[None]:
    """End what takes longer by a TimeoutError."""

    def ring(*_: object) -> None:
        raise TimeoutError

    before = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


class Records:
    """Fits done so far, kept in a file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        lines = path.read_text().splitlines() if path.exists() else []
        self.all: list[Record] = [json.loads(line) for line in lines]

    def has(self, method: str, galaxy: int) -> bool:
        return any(r["method"] == method and r["galaxy"] == galaxy for r in self.all)

    def add(self, method: str, galaxy: int, seconds: float, answers: Any, failed: str = "") -> None:
        record = {"method": method, "galaxy": galaxy, "seconds": seconds}
        record |= {"answers": answers, "failed": failed}
        self.all.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def measure(args: argparse.Namespace, data: Path, records: Records) -> None:
    """All that is missing, until the time is over."""
    others, until = installed(), time.monotonic() + 60 * args.minutes
    ready = with_gampen.engine(args.model, args.passes, GROUP, args.threads)
    galaxies = list(problems(data, args.n))
    # Spread over the list, whose galaxies come in no order.
    few = range(0, args.n, max(1, args.n // args.slow)) if args.slow else range(0)
    with Progress() as progress:
        bar = progress.add_task("galaxies", total=args.n)
        for first in range(0, args.n, GROUP):
            group = galaxies[first : first + GROUP]
            if time.monotonic() > until:
                return
            if not records.has(with_gampen.NAME, first):
                begun = time.perf_counter()
                found = with_gampen.fit(ready, group, first)
                share = (time.perf_counter() - begun) / len(group)
                for k, answers in enumerate(found):
                    records.add(with_gampen.NAME, first + k, share, answers)
            for k, problem in enumerate(group):
                for package, method in others.items():
                    skipped = package == SLOW and first + k not in few
                    if skipped or records.has(package, first + k) or time.monotonic() > until:
                        continue
                    one(records, package, first + k, partial(method.fit, problem), args.limit)
                progress.advance(bar)


def one(records: Records, package: str, galaxy: int, fit: Any, limit: float) -> None:
    """One fit; whatever it does wrong is a failure of that fit."""
    answers, failed = {}, ""
    begun = time.perf_counter()
    try:
        with at_most(limit):
            answers = fit()
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
    records.add(package, galaxy, time.perf_counter() - begun, answers, failed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--records", type=Path, help="keep the fits here, and go on from them")
    parser.add_argument("--model", default="survey")
    parser.add_argument("--data", type=Path, help="a simulation; made on the spot unless given")
    parser.add_argument("--population", default="hsc-wide")
    parser.add_argument("--n", type=int, default=48)
    parser.add_argument("--slow", type=int, default=12, help=f"how many of them {SLOW} gets")
    parser.add_argument("--passes", type=int, default=1000)
    parser.add_argument("--limit", type=float, default=180, help="of one fit [s]")
    parser.add_argument("--minutes", type=float, default=60, help="begin no fit after so many")
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--png", type=Path, help="draw the residuals into this file")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or Path(folder) / "sim"
        if args.data is None:
            simulate.main(args.population, args.n, data, seed=7, workers=args.threads)
        records = Records(args.records or Path(folder) / "records.jsonl")
        ceiling = ceilings(threads=args.threads)
        measure(args, data, records)
        truth = simulate.read_truth(data)[: args.n].to_pydict()
    figures = judge(records.all, truth)
    packages = {p: version(p) for p in OTHERS if any(r["method"] == p for r in records.all)}
    print(told(ceiling))
    print(", ".join(f"{name} {number}" for name, number in packages.items()))
    show(figures)
    write(args.json, ceiling, {"packages": packages, "passes": args.passes, **figures})
    if args.png:
        importlib.import_module("methods.picture").draw(records.all, truth, args.png)


if __name__ == "__main__":
    main()
