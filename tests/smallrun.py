"""A small sky, a narrow network with random weights, and runs on them, for tests of the runner.

The weights mean nothing: what is tested is that every row gets its posterior, once and the same.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from skytiles import blob, noise, sky_wcs, write_tile

from survey_gampen import parquet
from survey_gampen.model.checkpoint import save_checkpoint
from survey_gampen.model.network import Gampen
from survey_gampen.model.presets import Architecture
from survey_gampen.model.targets import Targets

SIDE = 700
#: Galaxies of the sky that the tests share.
N = 36
NARROW = Architecture(
    preset="narrow",
    localisation=(4, 4, 8),
    convolutions=(4, 8, 8, 8, 8),
    hidden=(16, 16),
)
#: Seconds a partition, for runs that last long enough to be disturbed.
SLOWER = replace(NARROW, convolutions=(24, 96, 128, 96, 96))


def write_model(path: Path, architecture: Architecture = NARROW) -> Path:
    """Random weights of a narrow network: the geometry is that of the real ones."""
    torch.manual_seed(1)
    targets = Targets(mean=(0.0, 0.0, 8.0), std=(1.5, 0.6, 1.5))
    meta = {"band": "g", "trained_on": {}, "metrics": {}, "provenance": "random, for tests"}
    save_checkpoint(path, Gampen(architecture, 0.1), targets, meta)
    return path


def write_sky(folder: Path, n: int, seed: int = 3) -> tuple[Path, Path]:
    """A tile with `n` galaxies; returns the folder of images and the catalogue.

    The last two galaxies are special: one lies on no image, one has a core of NaN.
    """
    rng = np.random.default_rng(seed)
    image = noise((SIDE, SIDE), seed)
    x, y = rng.uniform(20, SIDE - 20, (2, n))
    x[-1], y[-1] = SIDE / 2, SIDE / 2
    for i in range(n):
        image += blob((SIDE, SIDE), x[i], y[i], rng.uniform(2, 5), 10 ** rng.uniform(1, 3))
    half = SIDE // 2
    image[half - 6 : half + 7, half - 6 : half + 7] = np.nan
    wcs = sky_wcs()
    write_tile(folder / "images" / "calexp-HSC-G-0-0,0.fits", image, wcs)
    ra, dec = wcs.all_pix2world(x, y, 0)
    ra[-2] += 1.0
    catalog = folder / "galaxies.parquet"
    table = pa.table({"object_id": rng.permutation(n).astype(np.int64) + 7, "ra": ra, "dec": dec})
    pq.write_table(table, catalog)
    return folder / "images", catalog


def command(
    catalog: Path | str, images: Path | str, model: Path, out: Path | str, *more: str
) -> list[str]:
    """The command that runs them, with few passes."""
    options = {"--images": images, "--survey": "hsc-wide", "--band": "g", "--model": model}
    words = [str(word) for pair in options.items() for word in pair]
    base = [sys.executable, "-m", "survey_gampen.cli", "run", str(catalog), *words]
    return [*base, "--out", str(out), "--passes", "4", "--precision", "fp32", *more]


def environment() -> dict[str, str]:
    """One thread: the tests share the machine."""
    root = Path(__file__).resolve().parent.parent
    path = os.pathsep.join(filter(None, [str(root), os.environ.get("PYTHONPATH", "")]))
    return {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path}


def call(
    words: list[str], timeout: float = 400, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end."""
    return subprocess.run(
        words,
        capture_output=True,
        text=True,
        timeout=timeout,
        env=environment(),
        cwd=cwd,
        check=False,
    )


def verb(*words: str | Path, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run another verb."""
    return call([sys.executable, "-m", "survey_gampen.cli", *map(str, words)], cwd=cwd)


def rows(out: Path) -> pa.Table:
    """All published rows in order of object_id, without the footers."""
    dataset = out / "posteriors" / "dataset"
    files = sorted(dataset.glob("Norder=*/Dir=*/Npix=*.parquet"), key=str)
    table = pa.concat_tables([parquet.open_file(file).read() for file in files])
    return table.sort_by("object_id").replace_schema_metadata(None)


def status(out: Path) -> dict:
    """What the verb `status` says."""
    return json.loads(verb("status", out, "--json").stdout)


def leaves(out: Path) -> dict[str, bytes]:
    """Names and bytes of the published files."""
    root = out / "posteriors" / "dataset"
    files = root.glob("Norder=*/Dir=*/Npix=*.parquet")
    return {str(p).removeprefix(str(root)): p.read_bytes() for p in files}


def wait_for(
    condition: Callable[[], bool], client: subprocess.Popen[str], seconds: float = 400
) -> None:
    """Until a condition holds or the client has ended."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        if client.poll() is not None:
            return
        time.sleep(0.02)


class Sky:
    """Images, catalogue and model of a test."""

    def __init__(self, folder: Path, n: int = N, architecture: Architecture = NARROW) -> None:
        self.model = write_model(folder / "model.safetensors", architecture)
        self.images, self.catalog = write_sky(folder, n)

    def command(self, out: Path, *more: str, rows: int = 4) -> list[str]:
        """The command that measures it."""
        sizing = [] if "--partition-rows" in more else ["--partition-rows", str(rows)]
        return command(self.catalog, self.images, self.model, out, *sizing, *more)
