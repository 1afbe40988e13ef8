"""A galaxy's cutout from what a service sent of it."""

from __future__ import annotations

import numpy as np

from survey_gampen.errors import UnreadableFile
from survey_gampen.images.base import Cutouts
from survey_gampen.images.pixels.finish import finish_into, native_size
from survey_gampen.images.pixels.mosaic import fill_from
from survey_gampen.images.pixels.single import GalaxyImage
from survey_gampen.images.pixels.tile import MISSING
from survey_gampen.images.services.answers import Answer
from survey_gampen.images.status import Status
from survey_gampen.survey import Survey


def cut_member(
    batch: Cutouts,
    answer: Answer,
    place: int,
    at: tuple[float, float],
    survey: Survey,
    pixel_scale: float,
) -> None:
    """Cut out one galaxy, from the deepest of its images; the others fill.

    Parameters
    ----------
    batch : Cutouts
        Of one galaxy; receives pixels, status and facts.
    answer : Answer
    place : int
        The galaxy's place in the answer.
    at : (float, float)
        Right ascension and declination, degrees.
    survey : Survey
    pixel_scale : float
        Arcsec a pixel of the cutout.
    """
    if place in answer.bad:
        batch.status[0] = int(Status.BAD_CUTOUT)
        batch.note[0] = answer.bad[place]
        return
    images: list[GalaxyImage] = []
    try:
        for tile, content, seen in answer.images(place):
            image = GalaxyImage(tile, content, seen, survey, batch.variance is not None)
            images.append(image)
            image.locate(*at)
        images = sorted(images, key=lambda image: -image.depth)  # stable: the first of equals
        if images and images[0].depth > 0:
            _cut_from(batch, images, pixel_scale)
        else:
            batch.status[0] = int(Status.NO_IMAGE)
    except UnreadableFile as error:
        batch.status[0], batch.note[0] = int(Status.BAD_CUTOUT), str(error)
    finally:
        for image in images:
            image.tile.close()


def _cut_from(batch: Cutouts, images: list[GalaxyImage], pixel_scale: float) -> None:
    home, others = images[0], images[1:]
    batch.facts = {"tile": home.name, **home.facts, "sky_sigma": None}
    n = native_size(batch.image.shape[1], home.scales, pixel_scale)
    x, y = int(np.floor(home.x + 0.5)), int(np.floor(home.y + 0.5))
    x0, y0 = x - n // 2, y - n // 2
    box = home.tile.box(x0, y0, n, n)
    for other in others:
        if not (box.flags & MISSING).any():
            break
        fill_from(box, x0, y0, home.grid, other.grid, other.tile)
    finish_into(batch, 0, box, (home.x - x, home.y - y), home.scales, pixel_scale)
    if np.isfinite(batch.sky_sigma[0]):
        batch.facts["sky_sigma"] = float(batch.sky_sigma[0])
