"""A whole run of the demonstration catalogue on a GPU worker, and the same one on the CPU.

Both are typed as anybody would type them: catalogue and tiles in, posteriors out, on the profiles
``local-gpu`` and ``local`` (which sees no GPU). By how much do the percentiles of the two lie
apart, in units of the posterior's width? The promise of a fast arithmetic must hold between them:
under 5 % for the median galaxy, under 15 % for the 95th of 100.

    python benchmarks/gpu/whole.py [--passes 1000] [--device cuda] [--json FILE]
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.dataset as ds
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ceilings import ceilings, told, write

from survey_gampen.paths import data_file
from survey_gampen.posterior.fidelity import MEDIAN, P95, shifts


def ran(
    profile: str, passes: int, out: Path, changes: dict[str, str]
) -> tuple[float, dict[str, NDArray[Any]]]:
    """Seconds of a run, start of the cluster included, and its columns by object_id."""
    catalog = data_file("catalogs", "demo.parquet")
    command = [sys.executable, "-m", "survey_gampen.cli", "run", str(catalog), "--out", str(out)]
    command += ["--cluster", profile, "--passes", str(passes)]
    begun = time.perf_counter()
    subprocess.run(command, check=True, env=os.environ | changes)
    took = time.perf_counter() - begun
    table = ds.dataset(out / "posteriors" / "dataset", format="parquet").to_table()
    table = table.sort_by("object_id")
    return took, {name: table[name].to_numpy() for name in table.column_names}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, default=1000)
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cuda")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    ceiling = ceilings(args.device)
    runs: dict[str, tuple[str, dict[str, str]]] = {
        "GPU": ("local-gpu", {}),
        "CPU": ("local", {"CUDA_VISIBLE_DEVICES": ""}),
    }
    if args.device == "cpu":  # a rehearsal: a worker that is told of a GPU and does not use it
        runs["GPU"] = ("local-gpu:cuda=false", {"CUDA_VISIBLE_DEVICES": "0"})
    with tempfile.TemporaryDirectory() as folder:
        seconds, columns = {}, {}
        for name, (profile, changes) in runs.items():
            seconds[name], columns[name] = ran(profile, args.passes, Path(folder, name), changes)
    moved = np.stack([*shifts(columns["CPU"], columns["GPU"]).values()])
    moved = moved[:, np.isfinite(moved).all(0)]  # rows without a posterior have none to compare
    median = float(np.median(moved, axis=1).max())
    p95 = float(np.percentile(moved, 95, axis=1).max())
    print(told(ceiling))
    table = Table("worker", "seconds", "galaxies", title=f"{args.passes} passes")
    for name, took in seconds.items():
        table.add_row(name, f"{took:.1f}", str(len(columns[name]["object_id"])))
    Console().print(table)
    kept = median < MEDIAN and p95 < P95
    print(
        f"largest shift of a percentile of {moved.shape[1]} galaxies over the width: median "
        f"{median:.1%}, 95th of 100 {p95:.1%}: promise {'kept' if kept else 'NOT kept'}"
    )
    figures = {"seconds": seconds, "galaxies": moved.shape[1], "passes": args.passes}
    write(args.json, ceiling, figures | {"median": median, "p95": p95, "kept": kept})


if __name__ == "__main__":
    main()
