"""Is a training on several ranks the training on one? And how many images a second does it see?

The same recipe and global batch on one process and on N ranks, each on its share of the cores,
from the same initial model; a further training on one process, with another seed, tells how far
two curves may lie apart for no reason.

    python benchmarks/ranks.py PARTS --work FOLDER [--ranks 2] [--morphologies 4096] [--epochs 3]

PARTS is what ``survey-gampen simulate --parts`` makes. Ghosh et al. 2021 (arXiv:2107.01654) trained
on 40 x 120 000 images in 15 hours on two P100: 89 a second.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import tomli_w
from rich.console import Console
from rich.table import Table

from survey_gampen.training.recipe import load_recipe

PAPER = 40 * 120_000 / (15 * 3600)


def train(args: argparse.Namespace, name: str, ranks: int, seed: int) -> list[dict[str, Any]]:
    """Train by the command; the figures of its epochs."""
    recipe = load_recipe(
        "survey",
        morphologies=args.morphologies,
        epochs=args.epochs,
        passes=8,
        seed=seed,
        learning_rate=args.learning_rate,
        guide=0.0,
    )
    file = args.work / f"{name}.toml"
    file.write_text(tomli_w.dumps(recipe))
    out = args.work / name
    command = [
        sys.executable,
        "-m",
        "survey_gampen.cli",
        "train",
        str(file),
        "--data",
        str(args.data),
    ]
    command += ["--out", str(out), "--init", args.init, "--ranks", str(ranks)]
    subprocess.run(command, check=True)
    found: list[dict[str, Any]] = pq.read_table(out / "history.parquet").to_pylist()
    return found


def main() -> None:
    """Train, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--ranks", type=int, default=2)
    parser.add_argument("--morphologies", type=int, default=4096)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--init", default="survey")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    several = f"{args.ranks} ranks"
    found = {
        "1 process": train(args, "one", 1, 0),
        several: train(args, "several", args.ranks, 0),
        "1 process, other seed": train(args, "other", 1, 1),
    }
    table = Table("", "epoch", "training loss", "validation -ln L", "images/s", "x the paper's")
    for name, epochs in found.items():
        for epoch in epochs:
            rate = epoch["images_per_second"]
            figures = (epoch["training_loss"], epoch["nll"])
            cells = [*(f"{v:.4f}" for v in figures), f"{rate:.1f}", f"{rate / PAPER:.2f}"]
            table.add_row(name, str(epoch["epoch"]), *cells)
    Console().print(table)
    one = found["1 process"]
    apart = {
        name: {
            key: max(abs(a[key] - b[key]) for a, b in zip(one, other, strict=True))
            for key in ("training_loss", "nll")
        }
        for name, other in found.items()
    }
    print(f"largest distance from 1 process: {several} {apart[several]}")
    print(f"of another seed: {apart['1 process, other seed']}")
    (args.work / "ranks.json").write_text(json.dumps({"curves": found, "apart": apart}, indent=1))


if __name__ == "__main__":
    main()
