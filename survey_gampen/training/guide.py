"""Where a crop should look, until the likelihood knows better.

Small moves of a crop change the likelihood little and noisily, so a spatial transformer that
begins at the identity hardly learns to zoom in, and the convolutions then see small galaxies at
the few pixels they have. Training therefore begins with a pull towards a square around the
centre whose side is in proportion to the galaxy; the pull fades, and what remains is learned.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def distance(
    theta: Tensor, r_e: NDArray[np.float64], half_side: float, settings: dict[str, Any]
) -> Tensor:
    """How far transformations are from the squares that suit the galaxies.

    Parameters
    ----------
    theta : Tensor, (n, 2, 3)
        Affine transformations: output coordinates (-1 to 1) to input coordinates.
    r_e : ndarray, (n,)
        Half-light radii [arcsec].
    half_side : float
        Half the side of the cutout [arcsec].
    settings : dict
        ``radii``: half the side of the square in half-light radii; ``smallest``: its least
        value as a share of the cutout's. It is never larger than the cutout.

    Returns
    -------
    Tensor, scalar
        Mean over galaxies of the squared distance in the six parameters.
    """
    scale = np.clip(settings["radii"] * r_e / half_side, settings["smallest"], 1.0)
    square = torch.eye(2, 3, device=theta.device) * torch.from_numpy(scale).to(theta)[:, None, None]
    return (theta - square).square().sum((1, 2)).mean()
