"""Ten million shuffled rows: is the one duplicate found, how much memory and time does a plan take?

    python benchmarks/plan_10m.py [--rows 10000000] [--text-ids] [--json FILE]

Makes a shuffled catalogue in a temporary folder, twice: as it should be, and with one object_id
that stands twice. Runs ``survey-gampen run --plan-only`` on each, in a process of its own, and
tells its exit code, last line, seconds and peak resident memory. With ``--functions`` the sort
and the plan are called without the command around them.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits
from ceilings import ceilings, told, write
from rich.console import Console
from rich.table import Table

PARTITION_ROWS = 5000
FUNCTIONS = """
import sys
from pathlib import Path
from survey_gampen.catalog import open_catalog, sort_catalog
from survey_gampen.errors import GampenError
from survey_gampen.run.plan import make_plan, write_plan
catalog, out = Path(sys.argv[1]), Path(sys.argv[2])
try:
    sort_catalog(open_catalog(catalog), out / "catalog", out / ".staging")
    plan = make_plan(out / "catalog", {rows})
    print(write_plan(out / "plan.parquet", plan, {rows}, out / ".staging"))
except GampenError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def write_catalog(path: Path, rows: int, duplicate: bool, text: bool, seed: int = 1) -> None:
    """A catalogue in no order at all over the equatorial strip of HSC, as one Parquet file."""
    rng = np.random.default_rng(seed)
    ids = rng.permutation(rows).astype(np.int64) * 4096 + 36_000_000_000_000_000
    if duplicate:
        ids[rows // 7] = ids[rows - rows // 11]
    names = pa.array(ids)
    table = pa.table(
        {
            "object_id": names.cast(pa.string()) if text else names,
            "ra": rng.uniform(129.0, 225.0, rows),
            "dec": rng.uniform(-2.0, 5.0, rows),
            "i_cmodel_mag": rng.uniform(15.0, 23.0, rows).astype(np.float32),
        }
    )
    pq.write_table(table, path, row_group_size=1 << 20)


def write_image(path: Path) -> None:
    """A piece of empty sky: a run wants images, a plan only their names."""
    sky = fits.ImageHDU(np.random.default_rng(0).normal(0, 0.05, (300, 300)).astype(np.float32))
    cards = {"CTYPE1": "RA---TAN", "CTYPE2": "DEC--TAN", "CRVAL1": 177.0, "CRVAL2": 1.5}
    cards |= {"CRPIX1": 150.5, "CRPIX2": 150.5, "CDELT1": -0.168 / 3600, "CDELT2": 0.168 / 3600}
    sky.header.update(cards | {"FLUXMAG0": 10 ** (0.4 * 27.0), "FILTER": "HSC-G"})
    path.parent.mkdir()
    fits.HDUList([fits.PrimaryHDU(), sky]).writeto(path)


def measure(command: list[str]) -> tuple[int, float, float, str]:
    """Exit code, seconds, peak resident GiB (all children that ended), last line of output."""
    start = time.perf_counter()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        seconds = time.perf_counter() - start
        output.seek(0)
        lines = output.read().strip().splitlines() or [""]
    # Linux counts ru_maxrss in kibibytes.
    return process.returncode, seconds, usage.ru_maxrss / 2**20, lines[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--text-ids", action="store_true", help="object_ids as text")
    parser.add_argument("--functions", action="store_true", help="without the command line")
    parser.add_argument("--folder", help="where the temporary folder is made")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    options = parser.parse_args()
    figures: dict[str, Any] = {}
    table = Table("rows", "object_ids", "exit", "seconds", "peak GiB", "in the output")
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        write_image(Path(folder, "images", "calexp-HSC-G-0-0,0.fits"))
        for duplicate in (True, False):
            catalog = Path(folder, "shuffled.parquet")
            # In a process that ends: the peak memory of a child counts that of its parent.
            arguments = (catalog, options.rows, duplicate, options.text_ids)
            writer = multiprocessing.get_context("spawn").Process(
                target=write_catalog, args=arguments
            )
            writer.start()
            writer.join()
            out = Path(folder, "duplicate.gampen" if duplicate else "plan.gampen")
            if options.functions:
                code = FUNCTIONS.format(rows=PARTITION_ROWS)
                command = [sys.executable, "-c", code, str(catalog), str(out)]
            else:
                command = [sys.executable, "-m", "survey_gampen.cli", "run", str(catalog)]
                command += ["--plan-only", "--out", str(out)]
                command += ["--partition-rows", str(PARTITION_ROWS)]
                command += ["--images", str(Path(folder, "images"))]
            status, seconds, peak, line = measure(command)
            name = "one twice" if duplicate else "each once"
            made = sorted(p.name for p in out.iterdir()) if out.exists() else []
            cells = (str(status), f"{seconds:.1f}", f"{peak:.2f}", " ".join(made) or "nothing")
            table.add_row(str(options.rows), name, *cells)
            print(f"{name}: {line}")
            figures[name] = {
                "exit": status,
                "seconds": seconds,
                "peak_gib": peak,
                "says": line,
                "output": made,
            }
    ceiling = ceilings()  # at the end: a child's peak counts what its parent held at its start
    print(told(ceiling))
    Console().print(table)
    write(options.json, ceiling, {"rows": options.rows} | figures)


if __name__ == "__main__":
    main()
