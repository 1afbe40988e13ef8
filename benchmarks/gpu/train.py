"""Simulate, train and evaluate on one machine, in commands of at most ten minutes.

Everything large stays in ``--work`` on the machine's own disk; ``--out`` gets model, history,
figures and pictures (16 MB). The steps are those of ``survey-gampen simulate``, ``train`` and
``evaluate``; what is there is not done again, so the same command goes on after a stop, and on a
machine that is bare again it starts from the seeds. A training is one cycle of the learning rate,
as many epochs as the time left allows; ``--init`` starts the next cycle from the last model.

    python benchmarks/gpu/train.py --work /tmp/work --out OUT [--init MODEL] [--name second]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from survey_gampen.training import evaluate, loop
from survey_gampen.training.parts import PartsSet
from survey_gampen.training.recipe import load_recipe
from survey_gampen.training.watch import Display

#: Seeds of the two sets; the test set is never trained on.
TRAIN, TEST = 1001, 2002
#: Exit code of a command that ran out of time and can be run again.
AGAIN = 75


class OutOfTimeError(Exception):
    """The command's time is over."""


def main() -> int:
    args = parse()
    started = time.monotonic()

    def left() -> float:
        return args.seconds - (time.monotonic() - started)

    def tell(what: str) -> None:
        print(f"[{time.monotonic() - started:5.0f} s] {what}", flush=True)

    parts, test = args.work / "parts", args.work / "test"
    for out, n, seed, form in (
        (parts, args.n, TRAIN, ["--parts"]),
        (test, args.test, TEST, []),
    ):
        if not simulated(args, out, n, seed, form, left()):
            tell(f"out of time while simulating {out}: run the same command again")
            return AGAIN
        tell(f"{n} galaxies in {out}")

    data = PartsSet(parts, args.device)
    tell(data.place)
    torch.backends.cudnn.benchmark = True
    state = args.work / args.name
    recipe = planned(args, data, state, left() - args.reserve)
    if not recipe["epochs"]:
        tell("no time for an epoch is left: run the same command again")
        return AGAIN
    training = loop.Training(recipe, data, state, args.init)
    tell(f"epoch {training.epoch} of {recipe['epochs']}, {len(training.train_rows)} morphologies")
    finished = ran(training, left() - args.reserve)

    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "history.json").write_text(json.dumps(training.history, indent=1))
    model = state / "model.safetensors"
    if not model.exists():
        tell("out of time before the first epoch's end: run the same command again")
        return AGAIN
    shutil.copy(model, args.out / "model.safetensors")
    tell(f"{'finished' if finished else 'stopped'} after epoch {training.epoch}")
    evaluate.main(str(model), test, args.out, passes=args.passes)
    tell("evaluated")
    return 0 if finished else AGAIN


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    add = parser.add_argument
    add("--work", type=Path, required=True, help="folder on the machine's own disk")
    add("--out", type=Path, required=True, help="results")
    add("--name", default="first", help="of this cycle")
    add("--init", help="model to start from")
    add("--device", default="cuda")
    add("--seconds", type=float, default=570, help="of the whole command")
    add("--reserve", type=float, default=60, help="seconds kept for the evaluation")
    add("--population", default="hsc-wide")
    add("--psf", nargs="+", default=[], help="real PSFs to mix in")
    add("--n", type=int, default=60_000, help="morphologies")
    add("--test", type=int, default=2000, help="galaxies to evaluate on")
    add("--passes", type=int, default=200, help="of the evaluation")
    add("--workers", type=int, help="processes that simulate (default: one a core)")
    add("--epochs", type=int, help="default: as many as the time allows")
    add("--batch", type=int, default=128)
    add("--validation", type=int, default=1024)
    add("--dropout-rate", type=float)
    add("--learning-rate", type=float, help="peak (default: the recipe's)")
    return parser.parse_args()


def simulated(
    args: argparse.Namespace, out: Path, n: int, seed: int, form: list[str], seconds: float
) -> bool:
    """Run ``survey-gampen simulate`` for at most `seconds`; whether it came to its end."""
    command = [sys.executable, "-m", "survey_gampen.cli", "simulate", args.population, *form]
    command += ["--n", str(n), "--seed", str(seed), "--out", str(out)]
    command += ["--psf", *args.psf] if args.psf else []
    command += ["--workers", str(args.workers)] if args.workers else []
    # A process group of its own: its workers are stopped with it.
    process = subprocess.Popen(command, start_new_session=True)
    try:
        code = process.wait(max(1.0, seconds))
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return False
    if code:
        raise SystemExit(code)
    return True


def planned(
    args: argparse.Namespace, data: PartsSet, state: Path, seconds: float
) -> dict[str, Any]:
    """The recipe of this cycle: the one that `state` was begun with, or one that fits."""
    note = state / "recipe.json"
    if note.exists():
        return dict(json.loads(note.read_text()))
    recipe = load_recipe(
        "survey",
        batch=args.batch,
        validation=args.validation,
        dropout_rate=args.dropout_rate,
        learning_rate=args.learning_rate,
    )
    recipe["epochs"] = args.epochs or epochs_that_fit(args, recipe, data, seconds)
    if recipe["epochs"]:
        state.mkdir(parents=True, exist_ok=True)
        note.write_text(json.dumps(recipe))
    return recipe


def epochs_that_fit(
    args: argparse.Namespace, recipe: dict[str, Any], data: PartsSet, seconds: float
) -> int:
    """Measure the speed of the second of two short epochs, validation and saving included."""
    begun = time.monotonic()
    folder = args.work / "speed"
    shutil.rmtree(folder, ignore_errors=True)
    short = recipe | {"epochs": 1, "morphologies": 64 * recipe["batch"]}
    loop.Training(short, data, folder, args.init).to_the_last_epoch()  # finds the fastest kernels
    shutil.rmtree(folder)
    trial = loop.Training(short, data, folder, args.init)
    before = time.monotonic()
    trial.to_the_last_epoch()
    took = time.monotonic() - before
    shutil.rmtree(folder)
    stepping = trial.steps * recipe["batch"] / trial.history[-1]["images_per_second"]
    rows = len(data) - recipe["validation"]
    epoch = rows / trial.history[-1]["images_per_second"] + (took - stepping)
    fit = int(0.9 * (seconds - (time.monotonic() - begun)) / epoch)
    print(f"{trial.history[-1]['images_per_second']:.0f} images/s, {epoch:.1f} s an epoch: {fit}")
    return max(0, fit)


def ran(training: loop.Training, seconds: float) -> bool:
    """Train for at most `seconds`; whether the last epoch was reached."""

    def over(signal_number: int, frame: Any) -> None:
        raise OutOfTimeError

    signal.signal(signal.SIGALRM, over)
    signal.setitimer(signal.ITIMER_REAL, max(1.0, seconds))
    try:
        with Display() as display:
            training.run(display)
    except OutOfTimeError:
        return False
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
    return True


if __name__ == "__main__":
    sys.exit(main())
