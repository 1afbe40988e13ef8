"""How a pass sees an image: as it lies, turned by right angles, or mirrored.

Bulge-to-total ratio, half-light radius and flux do not depend on how a galaxy lies on the sky, and
the eight symmetries of the square map pixels onto pixels. A network learns that from turned
examples, but never exactly: what is left differs from one orientation to the next, and the mean
over them is nearer to the truth (Dieleman et al. 2015, MNRAS 450, 1441, on Galaxy Zoo).

The network that is meant is therefore the mean over orientations. Under the masks of pass k it
would cost eight passes. But how orientations differ hardly depends on the masks, so that one pass
and the differences of one network, the same for all passes, are enough::

    mean over o of f_k(x_o)  =  f_k(x_p) - f(x_p) + mean over o of f(x_o),    p = k mod 8

with f a network that drops nothing and x_o the image in orientation o. Over the passes the two
terms of f cancel whatever it is; the nearer it is to f_k, the less is left of how orientations
differ. Of the outputs, the predicted means are so corrected; the predicted covariance is that of
f_k(x_p).
"""

from __future__ import annotations

from functools import reduce

import torch
from torch import Tensor

#: Numbers of orientations there are: as it lies; turned; turned and mirrored.
COUNTS = (1, 4, 8)
#: Outputs that are predicted means.
_MEANS = 3


def oriented(images: Tensor, k: int, count: int) -> Tensor:
    """Images as pass k sees them.

    Parameters
    ----------
    images : Tensor, (..., size, size)
    k : int
        Pass. ``k mod count`` is the orientation; 0 leaves the images as they are.
    count : int
        Of orientations, one of :data:`COUNTS`.
    """
    mirrored, turns = divmod(k % count, 4)
    if turns:
        images = torch.rot90(images, turns, (-2, -1))
    if mirrored:
        images = images.flip(-1)
    return images.contiguous()


def corrections(rounded: Tensor, exact: Tensor) -> Tensor:
    """What is to be added to the outputs of passes in each orientation.

    Parameters
    ----------
    rounded : Tensor, (orientations, n, outputs)
        Of a network that drops nothing, in the arithmetic of the passes: what rounding does to
        these it does to passes too, and so it falls out.
    exact : Tensor, (orientations, n, outputs)
        The same in float32.

    Returns
    -------
    Tensor, (orientations, n, outputs) float32
    """
    # Added up one by one, so that no library chooses the order of the sum.
    centre = reduce(torch.add, exact[..., :_MEANS].unbind()) / len(exact)
    wanted = torch.cat([centre.expand_as(exact[..., :_MEANS]), exact[..., _MEANS:]], dim=-1)
    return wanted - rounded
