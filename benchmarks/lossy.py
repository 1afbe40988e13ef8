"""What does storing cutouts with loss cost in accuracy, and what does it save?

The same galaxies, masks and noise from exact pixels and from pixels quantised to a share of the
sky noise (`--lossy`): by how much do the percentiles move, in units of the posterior's width (half
of p84 - p16)? Under 5 % for the median galaxy it may be recommended.

    python benchmarks/lossy.py [--model survey] [--data FOLDER] [--n 256] [--passes 200]
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from ceilings import ceilings, told, write
from numpy.typing import NDArray
from precision import compare, simulated
from rich.console import Console
from rich.progress import track
from rich.table import Table
from zarr.storage import MemoryStore

from survey_gampen.images.rounding import quanta, quantise
from survey_gampen.images.store import COMPRESSOR
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.model.targets import PARAMETERS
from survey_gampen.posterior.fidelity import posteriors
from survey_gampen.posterior.settings import resolve_precision, usable_cores
from survey_gampen.posterior.summary import PERCENTILES

STEPS = (0.25, 0.5, 1.0)
#: Galaxies whose size on the disk is taken.
_STORED = 64


def stored_bytes(images: NDArray[np.float32]) -> int:
    """Size of images as the cutout store compresses them."""
    array = zarr.create_array(
        MemoryStore(),
        shape=images.shape,
        chunks=images.shape,
        dtype="float32",
        compressors=[COMPRESSOR],
    )
    array[:] = images
    return array.nbytes_stored()


def main() -> None:
    """Parse the command line and measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="survey")
    parser.add_argument("--data", type=Path)
    parser.add_argument("--n", type=int, default=256)
    parser.add_argument("--passes", type=int, default=200)
    parser.add_argument("--threads", type=int, default=usable_cores())
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    ceiling = ceilings(threads=args.threads)
    model = load_checkpoint(args.model)
    precision = resolve_precision("auto", "cpu", model)
    images, truth = simulated(args.data, "hsc-wide", args.n, args.threads)
    sky = truth["sky_sigma"].astype(np.float32)
    whole = stored_bytes(images[:_STORED])
    exact = posteriors(model, images, args.passes, precision)
    result: dict[str, Any] = {}
    for step in track(STEPS, description="quanta"):
        rounded = quantise(images, quanta(sky, step))
        figures = compare(exact, posteriors(model, rounded, args.passes, precision), truth)
        figures["size"] = {"share": stored_bytes(rounded[:_STORED]) / whole}
        result[f"{step:g}"] = figures
    shown = Table("quantum / sky noise", "size", *PARAMETERS)
    shown.caption = "shift / width, worst percentile: median galaxy, 95th percentile"
    for step in STEPS:
        figures = result[f"{step:g}"]
        worst = (
            [max(figures[p][f"{name}_{of}"] for name in PERCENTILES) for of in ("median", "95th")]
            for p in PARAMETERS
        )
        cells = (f"{middle:.1%}, {high:.1%}" for middle, high in worst)
        shown.add_row(f"{step:g}", f"{figures['size']['share']:.2f}", *cells)
    print(told(ceiling))
    print(f"{len(images)} galaxies, {args.passes} passes in {precision}")
    Console(width=110).print(shown)
    settings = {"n": len(images), "passes": args.passes, "precision": precision}
    write(args.json, ceiling, settings | result)


if __name__ == "__main__":
    main()
