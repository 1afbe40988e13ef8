"""What does storing cutouts with loss cost in accuracy, and what does it save?

The same galaxies, masks and noise from exact pixels and from pixels quantised to a share of the
sky noise (`--lossy`): by how much do the percentiles move, in units of the posterior's width (half
of p84 - p16)? Under 5 % for the median galaxy it may be recommended.

    python benchmarks/lossy.py [--model survey] [--data FOLDER] [--n 256] [--passes 200]
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import zarr
from numpy.typing import NDArray
from precision import compare, posteriors
from rich.console import Console
from rich.table import Table
from zarr.storage import MemoryStore

from survey_gampen.images.store import COMPRESSOR, quanta, quantise
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.model.targets import PARAMETERS
from survey_gampen.posterior.settings import resolve_precision, usable_cores
from survey_gampen.posterior.summary import PERCENTILES
from survey_gampen.simulation import simulate

STEPS = (0.25, 0.5, 1.0)


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
    precision = resolve_precision("auto", "cpu", load_checkpoint(args.model))
    result: dict[str, Any] = {"n": args.n, "passes": args.passes}
    with tempfile.TemporaryDirectory() as folder:
        data = args.data or Path(folder) / "sim"
        if args.data is None:
            simulate.main("hsc-wide", args.n, data, seed=20_000, workers=args.threads)
        table = simulate.read_truth(data)[: args.n]
        truth = {p: table[p].to_numpy().astype(float) for p in PARAMETERS}
        sky = table["sky_sigma"].to_numpy().astype(np.float32)
        sample: Any = zarr.open_group(str(data), mode="r")["image"][:64]
        whole = stored_bytes(sample)
        settings = (args.model, data, len(table), args.passes, precision, args.threads)
        exact = posteriors(*settings)
        for step in STEPS:

            def changed(
                image: NDArray[np.float32], rows: slice, step: float = step
            ) -> NDArray[np.float32]:
                return quantise(image, quanta(sky[rows], step))

            figures = compare(exact, posteriors(*settings, changed), truth)
            figures["size"] = {"share": stored_bytes(changed(sample, slice(64))) / whole}
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
    Console(width=110).print(shown)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
