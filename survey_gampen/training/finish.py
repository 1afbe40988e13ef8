"""What is done to the best model when its training has ended.

The widths of its posteriors are set (:mod:`survey_gampen.training.widths`), it learns to know what
it has never seen (:mod:`survey_gampen.model.novelty`), and it is measured which fast arithmetic it
bears (:mod:`survey_gampen.posterior.fidelity`), all on galaxies kept from training.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survey_gampen.commit import replace
from survey_gampen.model.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from survey_gampen.model.novelty import Novelty
from survey_gampen.posterior.fidelity import GALAXIES, set_precisions
from survey_gampen.training.data import TrainingSet
from survey_gampen.training.validation import hidden_features, outputs
from survey_gampen.training.widths import set_widths

Rows = NDArray[np.int64]
#: The galaxies kept from training are mixed so often, with so many passes each. Many passes: a mask
#: moves all galaxies alike, and few masks have a mean of their own.
_MIXES, _PASSES = 3, 64
#: Galaxies whose features stand for the training set; images made at once.
_SEEN, _CHUNK = 4096, 256


def finish(
    path: Path,
    data: TrainingSet,
    trained: Rows,
    held_out: Rows,
    seed: int,
    staging: Path,
    say: Callable[[str], None],
) -> None:
    """Finish the model at `path`, once; it is replaced in one step.

    Parameters
    ----------
    path : Path
    data : TrainingSet
    trained, held_out : ndarray of int
        Rows that were trained on, and rows that were not.
    seed : int
        Of the images that are made for this.
    staging : Path
    say : callable
        Is told that it begins.
    """
    model = load_checkpoint(path)
    if model.novelty is not None:
        return
    say(
        "finishing the best model, which may take some minutes: how wide its posteriors are, what"
        " it has never seen, and in which precisions it may be used"
    )
    rng = np.random.Generator(np.random.Philox(key=[seed, 1 << 61]))
    model.network.to(data.device)
    if model.config.outputs > 3:
        batches = [data.mix(held_out, rng) for _ in range(_MIXES)]
        found = torch.cat([outputs(model.network, batch, _PASSES) for batch in batches])
        set_widths(model, found, np.concatenate([batch.truth for batch in batches]))
    galaxies = data.mix(held_out[:GALAXIES], rng).image.cpu().numpy()
    seen, unseen = (_features(model, data, rows, rng) for rows in (trained[:_SEEN], held_out))
    novelty = Novelty.fit(seen, unseen)
    model.network.cpu()
    set_precisions(model, galaxies)
    write = partial(
        save_checkpoint,
        network=model.network,
        targets=model.targets,
        meta=model.meta,
        novelty=novelty,
    )
    replace(path, write, staging)


def _features(model: Checkpoint, data: TrainingSet, rows: Rows, rng: np.random.Generator) -> Tensor:
    chunks = (rows[start : start + _CHUNK] for start in range(0, len(rows), _CHUNK))
    return torch.cat([hidden_features(model.network, data.mix(chunk, rng)) for chunk in chunks])
