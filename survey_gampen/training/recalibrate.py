"""`survey-gampen widths`: intervals that hold what they claim, in another population or at last.

Training ends with the same on the few hundred galaxies that it kept for itself; by their number
alone coverage is then known to two points. A set of thousands that training never saw does better,
and one of another population makes the intervals true there. The outputs are those of the engine,
as in a run. With the same galaxies it is seen which fast arithmetic the model bears.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from itertools import chain, islice
from pathlib import Path
from tempfile import TemporaryFile

import numpy as np
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track

from survey_gampen.commit import replace
from survey_gampen.errors import InputError
from survey_gampen.model.checkpoint import load_checkpoint, save_checkpoint
from survey_gampen.model.targets import PARAMETERS
from survey_gampen.posterior.fidelity import GALAXIES, set_precisions
from survey_gampen.simulation.population import Population
from survey_gampen.simulation.simulate import read_settings, read_truth
from survey_gampen.training.parts import PartsSet
from survey_gampen.training.unseen import BATCH, batches, cutouts, engine_here
from survey_gampen.training.widths import LEAST, set_widths

Looked = tuple[NDArray[np.float32], NDArray[np.float64]]


def main(model: str, data: Path, out: Path, *, passes: int = 128, seed: int = 0) -> int:
    """Set the widths of a model's posteriors on simulated galaxies.

    Parameters
    ----------
    model : str
        Shipped model or safetensors file.
    data : Path
        What ``simulate`` made; training must not have seen it. Of parts, each galaxy is mixed once.
    out : Path
        The model with other widths.
    passes : int
        A mask moves all galaxies alike, so that few of them would shift all intervals.
    seed : int
        Of the masks, and of images of parts.

    Raises
    ------
    InputError
        If the model predicts no widths, the set does not fit it or is too small, or `out` can't
        be a file.
    """
    checkpoint = load_checkpoint(model)
    if checkpoint.config.outputs == 3:
        raise InputError(f"{model} predicts no widths: its dropout rate sets them (calibrate)")
    settings = read_settings(data)
    population, n = Population(settings["population"]), settings["n"]
    checkpoint.check_takes(population["size"], population["pixel_scale"], population.bands)
    if n < LEAST:
        raise InputError(f"{data} has {n} galaxies: give {LEAST} or more")
    _check_place(out)  # rather an error now than after all the passes
    looked = _mixed(PartsSet(data), seed) if settings["parts"] else _finished(data, n)
    first = list(islice(looked, -(-GALAXIES // BATCH)))
    seen = np.concatenate([images for images, _ in first])
    set_precisions(checkpoint, seen)  # so that these are the outputs of a run with this model
    engine = engine_here(checkpoint, passes, seed)
    found, truths = [], []
    shown = track(
        chain(first, looked), "looking", total=len(batches(n)), console=Console(stderr=True)
    )
    for images, truth in shown:
        found.append(engine.outputs(images).cpu())
        truths.append(truth)
    widths = set_widths(checkpoint, torch.cat(found), np.concatenate(truths))
    set_precisions(checkpoint, seen)  # in units of the new widths
    write = partial(
        save_checkpoint,
        network=checkpoint.network,
        targets=checkpoint.targets,
        meta=checkpoint.meta,
        novelty=checkpoint.novelty,
    )
    replace(out, write, out.absolute().parent)
    factors = ", ".join(
        f"{p} x {factor:.3f}" for p, factor in zip(PARAMETERS, widths.base.exp(), strict=True)
    )
    print(f"widths at the mean flux: {factors}; {n} galaxies, model in {out}")
    return 0


def _check_place(out: Path) -> None:
    if out.is_dir():
        raise InputError(f"--out {out} is a folder: give a file, say {out / 'model.safetensors'}")
    out.absolute().parent.mkdir(parents=True, exist_ok=True)
    with TemporaryFile(dir=out.absolute().parent):
        pass


def _mixed(parts: PartsSet, seed: int) -> Iterator[Looked]:
    rng = np.random.Generator(np.random.Philox(key=[seed, 1 << 62]))
    rows = np.arange(len(parts))
    for where in batches(len(parts)):
        batch = parts.mix(rows[where], rng)
        yield batch.image.numpy(), batch.truth


def _finished(data: Path, n: int) -> Iterator[Looked]:
    table = read_truth(data)
    truth = np.stack([table[p].to_numpy().astype(float) for p in PARAMETERS], axis=1)
    for where, images in zip(batches(n), cutouts(data, n), strict=True):
        yield images, truth[where]
