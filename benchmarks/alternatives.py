"""What would one use instead, and what would it give? Other methods on the same galaxies.

statmorph (apertures, and one Sersic profile), AstroPhot (bulge and disk by Levenberg-Marquardt) and
pysersic (bulge and disk, approximate posterior) beside a shipped network's posterior of 1000
passes: seconds a galaxy in one process, estimates against the truth, and how many truths the 68 %
intervals hold. The others are given the true PSF and noise, in favour of them; the network was
trained on the population that the galaxies come from, in favour of it.

    python benchmarks/alternatives.py --records FILE [--n 48] [--slow 12] [--minutes 60]
                                      [--json FILE] [--png FILE]

None of them is needed by the package: ``pip install scikit-image statmorph astrophot pysersic``
(written for statmorph 0.7.2, AstroPhot 0.18.0, pysersic 0.1.5). One that is missing is left out.
Each fit goes to FILE (JSON lines) as it comes; the same command goes on with what is missing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from ceilings import ceilings, told, write
from methods import with_gampen
from methods.judge import judge, show
from methods.problem import Answer, Problem, problems
from rich.progress import Progress

from survey_gampen.posterior.settings import usable_cores
from survey_gampen.simulation import simulate

PACKAGES = ("statmorph", "astrophot", "pysersic")
#: The method that gets few galaxies only.
SLOW = "pysersic"
#: Galaxies of a batch of the network; the others follow on the same ones, so that all methods see
#: the same hours of the machine.
GROUP = 16
Record = dict[str, Any]
#: A method gives its answers one by one, with the names of their rows in the tables.
Fit = Callable[[Problem], Iterator[tuple[str, Answer]]]


def installed() -> tuple[dict[tuple[str, ...], Fit], dict[str, str]]:
    """Fits by the other methods that can be had, and the versions of their packages; says how to
    get the rest."""
    os.environ["JAX_PLATFORMS"] = "cpu"  # it would look for accelerators, and complain
    fits: dict[tuple[str, ...], Fit] = {}
    versions = {}
    for package in PACKAGES:
        try:
            module = importlib.import_module(f"methods.with_{package}")
            fits[module.NAMES] = module.fit
            versions[package] = version(package)
        except ModuleNotFoundError as error:
            print(f"without {package} (there is no {error.name}): pip install {package}")
    if not fits:
        raise SystemExit(f"nothing to compare with: pip install {' '.join(PACKAGES)}")
    return fits, versions


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
    """Fits done so far, kept in a file whose first line says what they are of."""

    def __init__(self, path: Path, about: Record) -> None:
        self.path = path
        if not path.exists():
            path.write_text(json.dumps(about) + "\n")
        first, *lines = path.read_text().splitlines()
        if json.loads(first) != about:
            raise SystemExit(f"{path} holds fits of {first}, not of {json.dumps(about)}")
        self.all: list[Record] = [json.loads(line) for line in lines]

    def has(self, row: str, galaxy: int) -> bool:
        return any(r["row"] == row and r["galaxy"] == galaxy for r in self.all)

    def add(
        self, row: str, galaxy: int, seconds: float, answer: Answer | None, failed: str = ""
    ) -> None:
        """One row of the tables, for one galaxy, unless it is there."""
        if self.has(row, galaxy):
            return
        record = {"row": row, "galaxy": galaxy, "seconds": seconds}
        record |= {"answer": answer, "failed": failed}
        self.all.append(record)
        with self.path.open("a") as file:
            file.write(json.dumps(record) + "\n")


def measure(
    args: argparse.Namespace, data: Path, others: dict[tuple[str, ...], Fit], records: Records
) -> None:
    """All that is missing, until the time is over."""
    until = time.monotonic() + 60 * args.minutes
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
            if not records.has(with_gampen.NAME, first + len(group) - 1):
                begun = time.perf_counter()
                found = with_gampen.fit(ready, group, first)
                share = (time.perf_counter() - begun) / len(group)
                for k, answer in enumerate(found):
                    records.add(with_gampen.NAME, first + k, share, answer)
            for k, problem in enumerate(group):
                for names, fit in others.items():
                    skipped = SLOW in names and first + k not in few
                    done = all(records.has(name, first + k) for name in names)
                    if not (skipped or done or time.monotonic() > until):
                        one(records, names, first + k, fit(problem), args.limit)
                progress.advance(bar)


def one(
    records: Records,
    names: tuple[str, ...],
    galaxy: int,
    answers: Iterator[tuple[str, Answer]],
    limit: float,
) -> None:
    """Answers of one method on one galaxy; whatever it does wrong is a failure of that fit."""
    found: dict[str, tuple[float, Answer]] = {}
    failed, begun = "", time.perf_counter()
    try:
        with at_most(limit), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for name, answer in answers:
                found[name] = (time.perf_counter() - begun, answer)
    except Exception as error:
        failed = f"{type(error).__name__}: {error}"
    spent = time.perf_counter() - begun
    for name in names:
        if name in found:
            records.add(name, galaxy, *found[name])
        else:
            records.add(name, galaxy, spent, None, failed)


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
        ceiling = ceilings(threads=args.threads)
        others, versions = installed()
        of = str(args.data) if args.data else f"{args.n} of {args.population}"
        about = {"model": args.model, "passes": args.passes, "data": of, **versions}
        records = Records(args.records or Path(folder) / "records.jsonl", about)
        measure(args, data, others, records)
        truth = simulate.read_truth(data)[: args.n].to_pydict()
    figures = judge(records.all, truth)
    print(told(ceiling))
    print(", ".join(f"{name} {number}" for name, number in versions.items()))
    show(figures)
    write(args.json, ceiling, {"packages": versions, "passes": args.passes, **figures})
    if args.png:
        importlib.import_module("methods.picture").draw(records.all, truth, args.png)


if __name__ == "__main__":
    main()
