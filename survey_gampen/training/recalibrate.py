"""`survey-gampen widths`: intervals that hold what they claim, in another population or at last.

Training ends with the same on the few hundred galaxies that it kept for itself; by their number
alone coverage is then known to two points. A set of thousands that training never saw does better,
and one of another population makes the intervals true there.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from rich.progress import track

from survey_gampen.commit import replace
from survey_gampen.errors import InputError
from survey_gampen.model.checkpoint import load_checkpoint, save_checkpoint
from survey_gampen.model.targets import PARAMETERS
from survey_gampen.posterior.settings import usable_cores, use_threads
from survey_gampen.training.order import usable
from survey_gampen.training.parts import PartsSet
from survey_gampen.training.validation import outputs
from survey_gampen.training.widths import LEAST, Widths

_CHUNK = 256


def main(
    model: str, data: Path, out: Path, *, passes: int = 64, seed: int = 0, device: str = "cpu"
) -> int:
    """Set the widths of a model's posteriors on a set of parts, each galaxy mixed once.

    Parameters
    ----------
    model : str
        Shipped model or safetensors file.
    data : Path
        What ``simulate --parts`` made; training must not have seen it.
    out : Path
        The model with other widths.
    passes : int
        A mask moves all galaxies alike, so that few of them would shift all intervals.
    seed : int
        Of the images.
    device : str

    Raises
    ------
    InputError
        If the model predicts no widths, the set does not fit it or is too small, or there is no
        such device.
    OutsideFault
        If it is not here.
    """
    checkpoint = load_checkpoint(model)
    if checkpoint.config.outputs == 3:
        raise InputError(f"{model} predicts no widths: its dropout rate sets them (calibrate)")
    galaxies = PartsSet(data, usable(device))
    checkpoint.config.check_takes(galaxies.size, galaxies.pixel_scale)
    if len(galaxies) < LEAST:
        raise InputError(f"{data} has {len(galaxies)} galaxies: give {LEAST} or more")
    use_threads(usable_cores())
    checkpoint.network.to(device)
    rng = np.random.Generator(np.random.Philox(key=[seed, 1 << 62]))
    chunks = np.array_split(np.arange(len(galaxies)), -(-len(galaxies) // _CHUNK))
    found, truths = [], []
    for rows in track(chunks, "looking", console=Console(stderr=True)):
        batch = galaxies.mix(rows, rng)
        found.append(outputs(checkpoint.network, batch, passes))
        truths.append(batch.truth)
    widths = Widths.fit(torch.cat(found), np.concatenate(truths), checkpoint.targets)
    widths.fold(checkpoint.network)
    meta = dict(checkpoint.meta)
    # Factors are powers of the same flux, which they leave as it is: exponents add up.
    before = meta.get("widths", {})
    meta["widths"] = {
        key: (np.array(added) + np.array(before.get(key, np.zeros(3)))).tolist()
        for key, added in widths.to_dict().items()
    }
    write = partial(
        save_checkpoint,
        network=checkpoint.network,
        targets=checkpoint.targets,
        meta=meta,
        novelty=checkpoint.novelty,
    )
    replace(out, write, out.absolute().parent)
    factors = ", ".join(
        f"{p} x {factor:.3f}" for p, factor in zip(PARAMETERS, widths.base.exp(), strict=True)
    )
    print(f"widths at the mean flux: {factors}; {len(galaxies)} galaxies, model in {out}")
    return 0
