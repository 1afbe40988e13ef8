"""Does a network say the same in a fast arithmetic as in float32? And what eight bits must know.

The third promise of a run: in units of the posterior's width (half of p84 - p16), the percentiles
of the median galaxy move by less than 5 %, those of the 95th of 100 by less than 15 %. Whether a
model keeps it is measured when it is made, and stands in its header.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from survey_gampen.model.checkpoint import Checkpoint
from survey_gampen.model.targets import PARAMETERS
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.settings import PRECISIONS, has
from survey_gampen.posterior.summary import PERCENTILES, summarise
from survey_gampen.posterior.tail import Tail

#: Galaxies and passes that tell. A percentile of the shifts needs a hundred of the former.
GALAXIES, _PASSES = 128, 64
Images = NDArray[np.float32]
Columns = Mapping[str, NDArray[Any]]
#: Largest shifts of the median galaxy and of the 95th of 100.
MEDIAN, P95 = 0.05, 0.15
#: Share of the galaxies whose activations all lie inside the range. A range for the very brightest
#: would leave few of its 255 steps to the others.
_INSIDE = 0.95
_BATCH, _CHUNK = 32, 8


def set_precisions(model: Checkpoint, images: Images) -> None:
    """Let a model say in which precisions of this machine it can be trusted, in place.

    Parameters
    ----------
    model : Checkpoint
        On the CPU; gets ``activation_ranges`` and ``fidelity`` into its ``meta``.
    images : ndarray, (n, [channels,] size, size)
        Pixels [nJy] of galaxies like those that it is made for, :data:`GALAXIES` or more.
    """
    model.meta.pop("fidelity", None)
    if model.config.dropout != "regression":  # nothing but float32 is used there
        return
    model.meta["activation_ranges"] = activation_ranges(model, images)
    model.meta["fidelity"] = fidelity(model, images, _PASSES)


def activation_ranges(model: Checkpoint, images: Images) -> list[float]:
    """The largest activation that each masked convolution takes, but for 5 % of galaxies.

    Parameters
    ----------
    model : Checkpoint
    images : ndarray, (n, [channels,] size, size)
        Pixels [nJy] of galaxies like those that it is made for.
    """
    network = model.network
    tail = Tail(network, [0.0] * len(network.rates), "fp32")
    largest: list[list[torch.Tensor]] = [[] for _ in tail.convolutions]
    with torch.inference_mode():
        for chunk in torch.from_numpy(images).split(_CHUNK):
            x, theta = network.prefix(chunk)
            for layer, found in zip(tail.convolutions, largest, strict=True):
                found.append(x.flatten(1).amax(1))
                x = layer(layer.takes(x), layer.bias(theta))
        return [torch.cat(found).quantile(_INSIDE).item() for found in largest]


def shifts(exact: Columns, rounded: Columns) -> dict[str, NDArray[np.float64]]:
    """By how much percentiles move, over the width of the posterior.

    Parameters
    ----------
    exact, rounded : dict of str to ndarray, (n,)
        Columns of :func:`~survey_gampen.posterior.summary.summarise`.

    Returns
    -------
    dict of str to ndarray, (n,)
        By column, such as ``bt_p50``. Where a posterior has no width (all draws a pure disk) 0 if
        nothing moved, else infinite.
    """
    found = {}
    for quantity in PARAMETERS:
        width = (exact[f"{quantity}_p84"].astype(float) - exact[f"{quantity}_p16"]) / 2
        for name in PERCENTILES:
            column = f"{quantity}_{name}"
            shift = np.abs(rounded[column].astype(float) - exact[column])
            endless = np.where(shift > 0, np.inf, 0.0)
            found[column] = np.divide(shift, width, out=endless, where=width > 0)
    return found


def fidelity(
    model: Checkpoint, images: Images, passes: int, precisions: Iterable[str] = PRECISIONS
) -> dict[str, dict[str, Any]]:
    """Measure it for the precisions that this machine's CPU has, by the CPU's arithmetic.

    A GPU's differs: where passes drop few elements, it computes the whole first block in the
    reduced precision. So what is found here says nothing certain of one.

    Parameters
    ----------
    model : Checkpoint
        With :attr:`~survey_gampen.model.checkpoint.Checkpoint.ranges`, if int8 is asked for.
    images : ndarray, (n, [channels,] size, size)
        Pixels [nJy] of galaxies like those that it is made for.
    passes : int
    precisions : iterable of str
        float32 is what they are compared with.

    Returns
    -------
    dict
        By precision: ``median`` and ``p95``, the largest shift of any percentile of the median
        galaxy and of the 95th of 100; ``galaxies``, ``passes``; whether the promise is ``kept``.
    """
    exact = posteriors(model, images, passes, "fp32")
    found = {}
    for precision in precisions:
        if precision == "fp32" or not has(precision, "cpu"):
            continue
        moved = np.stack([*shifts(exact, posteriors(model, images, passes, precision)).values()])
        median = float(np.median(moved, axis=1).max())
        p95 = float(np.percentile(moved, 95, axis=1).max())
        found[precision] = {
            "median": round(median, 4),
            "p95": round(p95, 4),
            "galaxies": len(images),
            "passes": passes,
            "kept": median < MEDIAN and p95 < P95,
        }
    return found


def posteriors(
    model: Checkpoint, images: Images, passes: int, precision: str, device: str = "cpu"
) -> Columns:
    """Summaries of galaxies under the same masks and noise, whatever the precision."""
    # The threads that this process has now: a training that goes on must not find others.
    threads = torch.get_num_threads()
    engine = Engine(
        model,
        passes=passes,
        seed=0,
        precision=precision,
        batch=_BATCH,
        device=device,
        threads=threads,
    )
    keys = np.arange(len(images), dtype=np.uint64)
    parts = []
    for start in range(0, len(images), _BATCH):
        where = slice(start, start + _BATCH)
        parts.append(summarise(engine.draws(images[where], keys[where])))
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
