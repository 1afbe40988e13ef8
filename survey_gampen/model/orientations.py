"""How a pass sees an image: as it lies, turned by right angles, or mirrored.

Bulge-to-total ratio, half-light radius and flux do not depend on how a galaxy lies on the sky, and
the eight symmetries of the square map pixels onto pixels. A network learns that from turned
examples, but never exactly: what is left differs from one orientation to the next, and the mean
over them is nearer to the truth (Dieleman et al. 2015, MNRAS 450, 1441, on Galaxy Zoo). So pass k
sees every galaxy in orientation ``k mod 8``. That costs nothing a pass: what comes before the
first dropout is computed once an orientation rather than once.
"""

from __future__ import annotations

import torch
from torch import Tensor

#: Numbers of orientations there are: as it lies; turned; turned and mirrored.
COUNTS = (1, 4, 8)


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
