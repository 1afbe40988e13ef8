"""All that is to be measured on a GPU, the most important first, in one command of ten minutes.

Each step is a benchmark in a process of its own. What it found stands in ``OUT/measure.json`` as
soon as it is there, what it printed in ``OUT/measure.log``. Stopped at any moment, the same command
goes on with what is missing; a step that failed is tried again. Exit code 75: something is missing
still.

    python benchmarks/gpu/measure.py --out OUT [--seconds 540] [--device cpu --quick]
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

BENCHMARKS = Path(__file__).resolve().parents[1]
#: Exit code of a command that ran out of time and can be run again.
AGAIN = 75


@dataclass(frozen=True)
class Step:
    """A benchmark.

    Attributes
    ----------
    name : str
    command : str
        Script in ``benchmarks/`` and its arguments.
    least : float
        Seconds below which it is not begun.
    """

    name: str
    command: str
    least: float


def steps(device: str, quick: bool) -> list[Step]:
    """All of them, the most important first."""
    engine = f"engine.py --device {device} --batch 64 128 256 512 1024"
    passes, n, few, many = f"--device {device}", 256, 200, 1000
    if quick:
        engine = f"engine.py --device {device} --batch 4 8 --quick"
        passes, n, few, many = f"{passes} --batch 4 --passes 8", 2, 8, 8
    found = [
        Step("ceilings", f"ceilings.py --device {device}", 5),
        Step("engine survey", f"{engine} --cases survey", 30),
        Step("engine gampen-2021", f"{engine} --cases gampen-2021", 30),
        Step("kernels bf16", f"gpu/passes.py profile {passes}", 15),
        Step("kernels fp32", f"gpu/passes.py profile {passes} --precision fp32", 15),
        Step("graph", f"gpu/passes.py graph {passes}", 15),
        Step("tuned", f"gpu/passes.py tuned {passes}", 15),
        Step("engine shipped", f"{engine} --cases shipped", 30),
        Step("precision", f"precision.py --device {device} --n {n} --passes {few}", 40),
        Step("compile", f"gpu/passes.py compile {passes}", 40),
        Step("run", f"gpu/whole.py --device {device} --passes {many}", 40),
    ]
    # There are no graphs on a CPU.
    return [step for step in found if device == "cuda" or step.name != "graph"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for what is found")
    parser.add_argument("--seconds", type=float, default=540, help="of the whole command")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--quick", action="store_true", help="a rehearsal: small and rough")
    parser.add_argument("--only", nargs="+", help="names of steps")
    args = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(AGAIN))  # what runs is ended too
    end = time.monotonic() + args.seconds
    args.out.mkdir(parents=True, exist_ok=True)
    record = args.out / "measure.json"
    found: dict[str, Any] = json.loads(record.read_text()) if record.exists() else {}
    wanted = [s for s in steps(args.device, args.quick) if not args.only or s.name in args.only]
    table = Table("step", "state", "seconds")
    missing = False
    for step in wanted:
        begun = time.monotonic()
        if step.name in found:
            state = "done before"
        elif end - begun < step.least:
            state = "no time"
        else:
            state = ran(step, args.out, end - begun, found)
            replace(record, found)
        missing |= step.name not in found
        took = time.monotonic() - begun
        table.add_row(step.name, state, f"{took:.0f}")
        so_far = args.seconds - (end - time.monotonic())
        print(f"[{so_far:4.0f} s] {step.name}: {state}", flush=True)
    Console(width=110).print(table)
    return AGAIN if missing else 0


def ran(step: Step, out: Path, seconds: float, found: dict[str, Any]) -> str:
    """Run a step for at most so long; what became of it, in words."""
    script, *arguments = shlex.split(step.command)
    part, log = out / "step.json", out / "measure.log"
    part.unlink(missing_ok=True)
    command = [sys.executable, str(BENCHMARKS / script), *arguments, "--json", str(part)]
    with open(log, "a") as file:
        print(f"== {step.name}: {step.command}", file=file, flush=True)
        # A process group of its own: its children are stopped with it.
        process = subprocess.Popen(
            command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            code = process.wait(seconds)
        except subprocess.TimeoutExpired:
            return "stopped: out of time"
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
    if code or not part.exists():
        last = (log.read_text().strip().splitlines() or [""])[-1]
        return f"failed ({code}): {last[:70]}"
    found[step.name] = json.loads(part.read_text())
    part.unlink()
    return "done"


def replace(record: Path, found: dict[str, Any]) -> None:
    """Write all that was found, so that a reader sees the old or the new and no half."""
    beside = record.with_suffix(".part")
    beside.write_text(json.dumps(found, indent=1) + "\n")
    beside.replace(record)


if __name__ == "__main__":
    sys.exit(main())
