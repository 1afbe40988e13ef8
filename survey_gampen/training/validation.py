"""How good is a network, judged by its passes, while it trains?"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from survey_gampen.model.head import negative_log_likelihood, predicted
from survey_gampen.model.network import Gampen
from survey_gampen.model.orientations import corrections, oriented
from survey_gampen.model.targets import Targets
from survey_gampen.training.data import Batch
from survey_gampen.training.metrics import nmad

#: Draws from the predicted Gaussian a pass, and galaxies at once.
_DRAWS, _BATCH = 16, 64
#: Figures other than the likelihood are of galaxies brighter than this.
BRIGHT = 21.0


def figures(network: Gampen, targets: Targets, data: Batch, passes: int) -> dict[str, float]:
    """Figures over Monte-Carlo passes; the same masks at each call, so that they compare.

    Parameters
    ----------
    network : Gampen
    targets : Targets
    data : Batch
        Galaxies kept from training.
    passes : int

    Returns
    -------
    dict
        ``nll``: negative log-likelihood of the mixture of all passes; for galaxies brighter than
        :data:`BRIGHT` sigma of B/T and of R_e [arcsec] and NMAD of the flux, from the median of
        the draws, and the share of truths in their central 68.27 % intervals.
    """
    out = outputs(network, data, passes)
    target = torch.from_numpy(targets.to_scaled(*data.truth.T))
    likelihood = torch.logsumexp(-negative_log_likelihood(out, target[:, None]), 1)
    mean, deviation = predicted(out, _DRAWS)
    draws = targets.to_physical(mean + deviation)
    bright = 31.4 - 2.5 * np.log10(data.truth[:, 2]) < BRIGHT
    bright |= not bright.any()  # rather the figures of faint galaxies than none
    truth = data.truth[bright]
    low, middle, high = np.quantile(draws[bright].numpy(), [0.15865, 0.5, 0.84135], axis=1)
    covered = ((low <= truth) & (truth <= high)).mean(0)
    return {
        "nll": math.log(passes) - likelihood.mean().item(),
        "sigma_bt": float((middle - truth)[:, 0].std()),
        "sigma_r_e": float((middle - truth)[:, 1].std()),
        "nmad_flux": nmad(middle[:, 2] / truth[:, 2] - 1),
        "covered_bt": float(covered[0]),
        "covered_r_e": float(covered[1]),
        "covered_flux": float(covered[2]),
    }


def hidden_features(network: Gampen, data: Batch) -> Tensor:
    """What the last layer sees without dropout, (n, features) float32 on the CPU."""
    network.eval()
    with torch.inference_mode():
        found = [network.hidden(*network.prefix(image)) for image in data.image.split(_BATCH)]
    return torch.cat(found).float().cpu()


def outputs(network: Gampen, data: Batch, passes: int) -> Tensor:
    """What the passes give, (n, passes, outputs) float32 on the CPU; masks shared by a batch.

    As the engine's in bfloat16: the centre of the orientations is computed in float32. Widths are
    set by these, and the rounding of the whole network is as wide as a good flux.
    """
    network.eval()
    device = data.image.device
    count = network.arch.orientations
    found = []
    with torch.random.fork_rng(), torch.inference_mode():
        torch.manual_seed(0)
        for image in data.image.split(_BATCH):
            seen = [network.prefix(oriented(image, k, count)) for k in range(count)]
            exact = torch.stack([network.tail(*prefix) for prefix in seen])
            with torch.autocast(device.type, torch.bfloat16):
                undropped = torch.stack([network.tail(*prefix) for prefix in seen]).float()
                added = corrections(undropped, exact)
                outs = [
                    network.tail(*seen[k % count], network.random_masks(1, image))
                    + added[k % count]
                    for k in range(passes)
                ]
            found.append(torch.stack(outs, 1).float().cpu())
    return torch.cat(found)
