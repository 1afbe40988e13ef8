"""A FITS file that holds one galaxy: what its headers say, and where the galaxy is in it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from astropy.io import fits

from survey_gampen.errors import UnreadableFile
from survey_gampen.images.pixels.grid import Grid, celestial_text
from survey_gampen.images.pixels.planes import PlaneGroup, find_groups, psf_fwhm, unit_of
from survey_gampen.images.pixels.tile import Tile
from survey_gampen.survey import Survey


@dataclass(frozen=True)
class Seen:
    """What the headers of such a file say.

    Attributes
    ----------
    group : PlaneGroup
        The first image and what belongs to it.
    wcs : str or None
        See :func:`~survey_gampen.images.pixels.grid.celestial_text`.
    facts : dict
        As in :class:`~survey_gampen.images.base.Cutouts`, but for tile and sky.
    """

    group: PlaneGroup
    wcs: str | None
    facts: dict[str, Any]

    @cached_property
    def grid(self) -> Grid | None:
        """The image's pixels on the sky; None without a celestial WCS."""
        return Grid(self.wcs, self.group.shape[1], self.group.shape[0]) if self.wcs else None

    def as_plain(self) -> dict[str, Any]:
        """The same as plain values, for a file."""
        return asdict(self)

    @classmethod
    def of_plain(cls, plain: dict[str, Any]) -> Seen:
        """Return what :meth:`as_plain` was made of."""
        group = plain["group"]
        return cls(
            PlaneGroup(**{**group, "shape": tuple(group["shape"])}), plain["wcs"], plain["facts"]
        )


def look(
    hdus: fits.HDUList, name: str, survey: Survey, band: str | None, model_scale: float
) -> Seen:
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

    Raises
    ------
    UnreadableFile
        There is no image in it.
    """
    groups = find_groups(hdus, name)
    if not groups:
        raise UnreadableFile(f"{name}: holds no 2-D image")
    group = groups[0]
    if group.plane is not None:
        raise UnreadableFile(f"{name}: a cube of several bands, and a galaxy's file must hold one")
    header, primary = hdus[group.image].header, hdus[0].header
    facts: dict[str, Any] = {}
    seen = Seen(group, celestial_text(header), facts)
    scale = (survey.pixel_scale or model_scale,) * 2
    scale = seen.grid.pixel_scales() if seen.grid else scale
    unit = unit_of(header, primary, scale[0] * scale[1])
    facts |= {
        "band": group.band or band,
        "zero_point": unit[0] if unit else survey.zero_point,
        "zero_point_from": unit[1] if unit else "survey",
        "pixel_scale": float(np.sqrt(scale[0] * scale[1])),
        "psf_fwhm": psf_fwhm(header, primary),
    }
    return seen


class GalaxyImage:
    """One such file in memory.

    Parameters
    ----------
    name : str
        What to call it.
    content : bytes
        The file.
    seen : Seen
        What its headers say.
    survey : Survey
        Says which mask planes are what.
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
        self, name: str, content: bytes, seen: Seen, survey: Survey, variance: bool = False
    ) -> None:
        self.name, self.facts = name, seen.facts
        if seen.grid is None:
            raise UnreadableFile(f"{name}: no WCS")
        zero_point = self.facts["zero_point"]
        if zero_point is None:
            raise UnreadableFile(f"{name}: no zero point in the header nor in the survey profile")
        self.grid, self.scales = seen.grid, seen.grid.pixel_scales()
        self.tile = Tile(
            Path(name), seen.group, survey, zero_point, variance=variance, content=content
        )
        self.x, self.y, self.depth = np.nan, np.nan, -np.inf

    def locate(self, ra: float, dec: float) -> None:
        """Find the galaxy."""
        # Rounded as in tiles: the same pixel is chosen whatever the image's own reference pixel is.
        x, y = (np.round(value, 4) for value in self.grid.to_pixel([ra], [dec]))
        self.x, self.y, self.depth = float(x[0]), float(y[0]), float(self.grid.depth(x, y)[0])
