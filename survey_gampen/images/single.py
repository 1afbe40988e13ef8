"""A FITS file that holds one galaxy: what its headers say, and where the galaxy is in it."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from survey_gampen.errors import UnreadableFile
from survey_gampen.images.grid import Grid, celestial_text
from survey_gampen.images.planes import PlaneGroup, find_groups, psf_fwhm, unit_of
from survey_gampen.images.tile import Tile, reading
from survey_gampen.survey import Survey


def look(
    hdus: fits.HDUList, name: str, survey: Survey, band: str | None, model_scale: float
) -> tuple[PlaneGroup, Grid | None, dict[str, Any]]:
    """Read the headers of a file.

    Parameters
    ----------
    hdus : HDUList
        The open file.
    name : str
        For an error, and for the band where no header tells it.
    survey : Survey
        Gives pixel scale and zero point where the headers don't.
    band : str or None
        Label where the file tells none.
    model_scale : float
        Arcsec a pixel, where neither file nor survey tell the scale.

    Returns
    -------
    group : PlaneGroup
        The first image and what belongs to it.
    grid : Grid or None
        Its pixels on the sky; None without a celestial WCS.
    facts : dict
        As in :class:`~survey_gampen.images.base.Cutouts`, but for tile and sky.

    Raises
    ------
    UnreadableFile
        There is no image in it.
    """
    groups = find_groups(hdus, name)
    if not groups:
        raise UnreadableFile(f"{name}: holds no 2-D image")
    group = groups[0]
    header, primary = hdus[group.image].header, hdus[0].header
    text = celestial_text(header)
    grid = Grid(text, group.shape[1], group.shape[0]) if text else None
    scale = (survey.pixel_scale or model_scale,) * 2
    scale = grid.pixel_scales() if grid else scale
    unit = unit_of(header, primary, scale[0] * scale[1])
    facts = {
        "band": group.band or band,
        "zero_point": unit[0] if unit else survey.zero_point,
        "zero_point_from": unit[1] if unit else "survey",
        "pixel_scale": float(np.sqrt(scale[0] * scale[1])),
        "psf_fwhm": psf_fwhm(header, primary),
    }
    return group, grid, facts


class GalaxyImage:
    """One such file in memory.

    Parameters
    ----------
    name : str
        What to call it.
    content : bytes
        The file.
    survey, band, model_scale
        See :func:`look`.
    variance : bool
        Whether its boxes have variances.

    Attributes
    ----------
    x, y : float
        The galaxy's pixel, 0-based, and its `depth` in pixels from the border: after
        :meth:`locate`.

    Raises
    ------
    UnreadableFile
        It can't be read, has no WCS, or nobody tells its unit.
    """

    def __init__(
        self,
        name: str,
        content: bytes,
        survey: Survey,
        band: str | None,
        model_scale: float,
        variance: bool = False,
    ) -> None:
        self.name, path = name, Path(name)
        with reading(path), fits.open(io.BytesIO(content)) as hdus:
            group, grid, self.facts = look(hdus, name, survey, band, model_scale)
        if grid is None:
            raise UnreadableFile(f"{name}: no WCS")
        if self.facts["zero_point"] is None:
            raise UnreadableFile(f"{name}: no zero point in the header nor in the survey profile")
        self.grid, self.scales = grid, grid.pixel_scales()
        zero_point = self.facts["zero_point"]
        self.tile = Tile(path, group, survey, zero_point, variance=variance, content=content)
        self.x, self.y, self.depth = np.nan, np.nan, -np.inf

    def locate(self, ra: float, dec: float) -> None:
        """Find the galaxy."""
        # Rounded as in tiles: the same pixel is chosen whatever the image's own reference pixel is.
        x, y = (np.round(value, 4) for value in self.grid.to_pixel([ra], [dec]))
        self.x, self.y, self.depth = float(x[0]), float(y[0]), float(self.grid.depth(x, y)[0])
