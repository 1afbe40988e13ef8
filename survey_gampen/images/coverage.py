"""Which image a galaxy lies on, known without reading a pixel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from survey_gampen.images.base import ImageSource
from survey_gampen.images.pixels.grid import quiet
from survey_gampen.images.places.files import LocalFiles
from survey_gampen.images.ready.gampen import GampenSource
from survey_gampen.images.ready.group import ReadySource
from survey_gampen.images.stack import StackedSource
from survey_gampen.images.tiles.source import TileSource


def located(
    source: ImageSource,
    ra: NDArray[np.float64],
    dec: NDArray[np.float64],
    object_id: Sequence[Any],
) -> NDArray[np.int64] | None:
    """The image that each galaxy would be cut from.

    Parameters
    ----------
    source : ImageSource
    ra, dec : ndarray, shape (n,)
        Degrees, ICRS.
    object_id : sequence of n names

    Returns
    -------
    ndarray of int64, shape (n,), or None
        The number of a tile, by which its source knows it; 0 where galaxies are found by name; -1
        where there is none. Of several bands that of the first; -1 where any has none. None where
        the source has to be asked for each cutout, as a service, or for each patch, as a tree that
        is not here.
    """
    if isinstance(source, StackedSource):
        each = [located(one, ra, dec, object_id) for one in source.sources]
        known = [home for home in each if home is not None]
        if len(known) < len(each):
            return None
        return np.where(np.min(known, axis=0) < 0, np.int64(-1), known[0])
    if isinstance(source, TileSource):
        elsewhere = not isinstance(source.tiles.files, LocalFiles)
        if not source.tiles.listed and elsewhere:
            return None
        with quiet():
            return source.assign(ra, dec)[0]
    if isinstance(source, GampenSource | ReadySource):
        return np.where(source.has(object_id), np.int64(0), np.int64(-1))
    return None
