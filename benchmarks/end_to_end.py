"""A real run beside its own engine: how much of the network's speed reaches the catalogue?

``survey-gampen run`` in a process of its own, from simulated tiles to a published catalogue. Its
log of attempts says where the time of each worker went. Again and again all processes of the run
are stopped, for as long as the same engine, with the same settings, takes for a full batch of
galaxies of the catalogue with nothing around it: so whatever else the machine does meets both
alike. These are as many processes beside each other as the run has workers, so that what they take
from each other in memory bandwidth and clock is the machine's loss and not the layer's. What both
say of the same galaxies must be the same bits.

    python benchmarks/end_to_end.py [--n 512] [--passes 1000] [--precision auto] [--work FOLDER]
                                    [--workers 1] [--threads 2] [--partition-rows N] [--json FILE]

`--workers 1 2 --threads 1` tells what a second worker brings. FOLDER keeps the tiles for next time.
"""

from __future__ import annotations

import argparse
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ceilings
import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
from attempts_log import Record, read_record
from by_turns import Bare, Run, run_by_turns
from rich.console import Console
from rich.table import Table

from survey_gampen.catalog.ids import id_key
from survey_gampen.images.open import open_images
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.posterior.settings import PRECISIONS, EngineSettings, usable_cores
from survey_gampen.posterior.sizing import resolve_engine
from survey_gampen.posterior.summary import summarise
from survey_gampen.run.layout import RunDir
from survey_gampen.run.measure import BATCHES
from survey_gampen.run.plan import read_plan
from survey_gampen.run.spec import read_spec
from survey_gampen.survey import load_survey

MODEL, SURVEY, BAND, POPULATION = "survey", "hsc-wide", "g", "hsc-wide"
BATCH = BATCHES["cpu"]
#: What the run's throughput should be of the engine's rate, and of two workers of twice one's.
GOAL = 0.95


def command(*words: object) -> float:
    """Run a verb in a process of its own; return the seconds it took."""
    said = [str(word) for word in words]
    begun = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "survey_gampen.cli", *said], capture_output=True, text=True
    )
    if done.returncode:
        sys.exit(f"survey-gampen {' '.join(said)}\n{done.stdout}{done.stderr}")
    return time.perf_counter() - begun


def make_sky(work: Path, n: int) -> Path:
    """A catalogue of `n` galaxies beside its tiles; made once."""
    sky = work / f"sky-{n}"
    if not (sky / "catalog.parquet").exists():
        command("simulate", POPULATION, "--as-tiles", "--n", n, "--seed", 5, "--out", sky)
    return sky


def first_batch(sky: Path, bare_images: Path) -> pa.ChunkedArray:
    """Cut out a batch of galaxies from all over the catalogue; return their names."""
    table = pq.read_table(sky / "catalog.parquet")
    table = table.take(np.linspace(0, table.num_rows - 1, min(BATCH, table.num_rows)).astype(int))
    config = load_checkpoint(MODEL).config
    source = open_images(str(sky / "tiles"), load_survey(SURVEY), BAND, config.pixel_scale, None)
    pixels = np.zeros((table.num_rows, config.size, config.size), np.float32)
    for some in source.cutouts(table["ra"].to_numpy(), table["dec"].to_numpy(), config.size):
        pixels[some.index] = some.image
    source.close()
    np.save(bare_images, pixels)
    return table["object_id"]


def run(
    sky: Path, out: Path, args: argparse.Namespace, workers: int, batch: Callable[[], float]
) -> Run:
    """The run, by turns with a `batch` of the engines alone."""
    shutil.rmtree(out, ignore_errors=True)
    cluster = f"local:workers={workers},threads={args.threads},dashboard_port=0"
    words = [sys.executable, "-m", "survey_gampen.cli", "run", sky / "catalog.parquet"]
    words += ["--images", sky / "tiles", "--out", out, "--passes", args.passes]
    words += ["--precision", args.precision, "--cluster", cluster]
    words += ["--partition-rows", args.partition_rows] if args.partition_rows else []
    log = RunDir(out).attempts
    return run_by_turns([str(word) for word in words], log, args.every, batch)


def differing(bare: Bare, names: pa.ChunkedArray, out: Path) -> int:
    """Of the columns of the batch's galaxies, how many values are others in the catalogue."""
    mine = summarise(bare.engine().draws(np.load(bare.images), bare.keys))
    rows = ds.dataset(RunDir(out).posteriors / "dataset", format="parquet").to_table()
    place = {name: i for i, name in enumerate(rows["object_id"].to_pylist())}
    rows = rows.take([place[name] for name in names.to_pylist()])
    # NaN stands for null here, as there.
    pairs = [(rows[n].to_numpy().astype(values.dtype), values) for n, values in mine.items()]
    return sum(int((~((a == b) | (np.isnan(a) & np.isnan(b)))).sum()) for a, b in pairs)


def figures(record: Record, bare: Bare, out: Path, workers: int, done: Run) -> dict[str, Any]:
    """What a run came to. Pauses count as nothing; nearly all fall into the network's time."""
    spec = read_spec(RunDir(out))
    rows = [partition.rows for partition in read_plan(RunDir(out).plan)]
    settings = EngineSettings(**spec.engine)
    if settings != bare.settings:
        sys.exit(f"the run resolved {settings}, and this process {bare.settings}")
    slots = sum(-(-n // BATCH) * BATCH for n in rows)
    span = done.between(record.begins, record.ends)
    lasts = record.last_ends()
    tail = sum(done.between(last, record.ends) for last in lasts)
    held = workers * span
    busy = record.busy("infer")
    # A worker's own clock goes on while it is stopped.
    busy["inferring"] -= sum(last - record.begins for last in lasts) - (held - tail)
    idle = {"waiting for tasks": held - tail - sum(busy.values()), "the end": tail}
    start_up = record.begins - record.started
    rate, without_the_end = sum(rows) / span, workers * sum(rows) / (held - tail)
    return {
        "workers": workers,
        "galaxies": sum(rows),
        "partitions": len(rows),
        "engine": settings.to_dict(),
        "padded_to": slots,
        "seconds": done.seconds,
        "start_up_s": start_up,
        "span_s": span,
        "after_s": done.seconds - start_up - span,
        "worker_seconds": busy | idle,
        "cutting_beside_s": record.busy("cut"),
        "idle_share": 1 - busy["inferring"] / held,
        "galaxies_per_s": rate,
        "galaxies_per_s_without_the_end": without_the_end,
        "engines_alone_per_s": done.alone,
        "of_the_engines": rate / done.alone_rate,
        "of_the_engines_with_start_up": sum(rows) / done.seconds / done.alone_rate,
        "of_the_engines_without_the_end": without_the_end / done.alone_rate,
        "of_the_engines_by_place_in_a_batch": rate * slots / sum(rows) / done.alone_rate,
    }


def measure(sky: Path, work: Path, bare: Bare, args: argparse.Namespace, n: int) -> dict[str, Any]:
    """A run with `n` workers, by turns with as many engines."""
    out = work / f"run-{n}"
    with bare.beside(n) as batch:
        done = run(sky, out, args, n, batch)
    record = read_record(RunDir(out).attempts, done.started)
    return figures(record, bare, out, n, done)


def show(found: list[dict[str, Any]]) -> None:
    """Print the table and what it comes to."""
    table = Table("", *(f"{f['workers']} x {f['engine']['threads']} threads" for f in found))

    def row(name: str, cells: list[str]) -> None:
        table.add_row(name, *cells)

    def spent(f: dict[str, Any], name: str) -> str:
        held = f["workers"] * f["span_s"]
        return f"{f['worker_seconds'][name]:.2f} ({f['worker_seconds'][name] / held:.1%})"

    row("galaxies, partitions", [f"{f['galaxies']}, {f['partitions']}" for f in found])
    row("padded to", [f"{f['padded_to']}" for f in found])
    row("whole command [s]", [f"{f['seconds']:.1f}" for f in found])
    for key, name in (("start_up_s", "start-up"), ("span_s", "inferring"), ("after_s", "after")):
        row(f"  {name} [s]", [f"{f[key]:.1f}" for f in found])
    for name in found[0]["worker_seconds"]:
        row(f"    {name} [s of workers]", [spent(f, name) for f in found])
    for name in found[0]["cutting_beside_s"]:
        row(f"    beside: {name} [s]", [f"{f['cutting_beside_s'][name]:.2f}" for f in found])
    row("no network computes", [f"{f['idle_share']:.1%}" for f in found])
    row("galaxies/s", [f"{f['galaxies_per_s']:.3f}" for f in found])
    alone = [f["engines_alone_per_s"] for f in found]
    row("engines alone, by turns", [f"{min(r):.3f} to {max(r):.3f} ({len(r)} x)" for r in alone])
    row("of the engines", [f"{f['of_the_engines']:.3f}" for f in found])
    row("  start-up and all", [f"{f['of_the_engines_with_start_up']:.3f}" for f in found])
    by_place = [f"{f['of_the_engines_by_place_in_a_batch']:.3f}" for f in found]
    row("  each place in a batch", by_place)
    row("  without the end", [f"{f['of_the_engines_without_the_end']:.3f}" for f in found])
    Console(width=110).print(table)


def second_worker(one: dict[str, Any], more: dict[str, Any]) -> dict[str, float]:
    """What more workers bring, of so many times one; and what of that is the layer's: what each of
    both reached of its engines."""
    n = more["workers"] / one["workers"]
    layer = more["of_the_engines_without_the_end"] / one["of_the_engines_without_the_end"]
    runs = more["galaxies_per_s_without_the_end"] / one["galaxies_per_s_without_the_end"] / n
    return {"runs": runs, "layer": layer}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, default=512, help="galaxies")
    parser.add_argument("--passes", type=int, default=1000)
    parser.add_argument("--precision", default="auto", choices=("auto", *PRECISIONS))
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--threads", type=int, default=usable_cores(), help="of one worker")
    parser.add_argument("--partition-rows", type=int, help="default: as the run plans it")
    parser.add_argument("--every", type=float, default=20, help="run for so long at a time [s]")
    parser.add_argument("--work", type=Path, help="keeps tiles and runs")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    ceiling = ceilings.ceilings(threads=args.threads)
    print(ceilings.told(ceiling))
    with tempfile.TemporaryDirectory() as folder:
        work = args.work or Path(folder)
        work.mkdir(parents=True, exist_ok=True)
        sky, pixels = make_sky(work, args.n), work / "batch.npy"
        names = first_batch(sky, pixels)
        settings = resolve_engine(
            load_checkpoint(MODEL), BATCH, precision=args.precision, threads=args.threads
        )
        bare = Bare(MODEL, settings, args.passes, pixels, id_key(names).copy())
        found = [measure(sky, work, bare, args, n) for n in args.workers]
        others = {n: differing(bare, names, work / f"run-{n}") for n in args.workers}
    show(found)
    told: dict[str, Any] = {"passes": args.passes, "runs": found, "values_that_differ": others}
    print(f"of {len(names)} galaxies, values that differ from the engine's alone: {others}")
    print(f"wanted: {GOAL} of the engines; reached: {found[0]['of_the_engines']:.3f}")
    if len(found) > 1:
        told["more_workers"] = second_worker(found[0], found[-1])
        words = ", ".join(f"{k.replace('_', ' ')} {v:.3f}" for k, v in told["more_workers"].items())
        print(f"{found[-1]['workers']} workers, of so many times one: {words}; wanted {GOAL}")
    ceilings.write(args.json, ceiling, told)


if __name__ == "__main__":
    main()
