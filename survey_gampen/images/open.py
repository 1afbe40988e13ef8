"""From what the user wrote after ``--images`` to a source of pixels."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from survey_gampen.errors import InputError
from survey_gampen.images.base import ImageSource, NoSuchBand
from survey_gampen.images.ready.gampen import GampenSource, is_gampen_folder
from survey_gampen.images.ready.group import ReadySource, is_zarr
from survey_gampen.images.services.open import is_service, open_service
from survey_gampen.images.stack import StackedSource
from survey_gampen.images.tiles.butler import coadd_files, is_butler
from survey_gampen.images.tiles.indexed import IndexedTiles
from survey_gampen.images.tiles.open import is_address, open_tiles
from survey_gampen.images.tiles.source import TileSource
from survey_gampen.storage import at, home, is_remote
from survey_gampen.survey import Survey


def open_images(
    spec: str | os.PathLike[str] | Sequence[str],
    survey: Survey,
    band: str | None = None,
    model_pixel_scale: float | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    *,
    variance: bool = False,
    frozen: bool = False,
) -> ImageSource:
    """Open a folder, file, glob pattern, list or address of images.

    Parameters
    ----------
    spec : str, path or list of them
        A folder with ``info.csv`` and ``cutouts/`` is of GaMPEN's layout, and so is any folder
        under a profile that says so; a Zarr group holds cutouts that are ready; ``das``, ``soda``,
        and addresses with such a word before a ``+``, are cutout services; ``butler:...`` is a
        Butler repository; all else are tiles, see
        :func:`~survey_gampen.images.tiles.open.open_tiles`.
    survey : Survey
        The profile.
    band : str, optional
        Images of other bands are left out; those that do not tell theirs are taken.
    model_pixel_scale : float, optional
        Arcsec a pixel of the cutouts; default: the images' own.
    cache_dir : path, optional
        Where the index of images is kept. Without one all headers are read.
    variance : bool
        Whether cutouts come with variances where the files have them.
    frozen : bool
        Take the cached index of tiles as it is, without looking which files there are now; where
        there is none it is made. For workers.

    Raises
    ------
    InputError
        Nothing usable there.
    OutsideFault
        The file system fails.
    """
    if isinstance(spec, str | os.PathLike) and os.fspath(spec).rstrip("/").endswith(".zarr"):
        return ReadySource(at(spec), survey, band, model_pixel_scale, variance=variance)
    cache = at(cache_dir) if cache_dir else None
    # What a service answered is kept on a disk, also where the run's folder is of an object store.
    disk = home(cache) if cache is not None and is_remote(cache) else cache
    if is_service(spec):
        return open_service(
            str(spec), survey, band, model_pixel_scale, disk, variance=variance, frozen=frozen
        )
    if is_butler(spec):
        spec = coadd_files(str(spec), band, disk, frozen)
    if isinstance(spec, str | os.PathLike) and not is_address(spec):
        folder = Path(spec).expanduser().absolute()
        if is_gampen_folder(folder) or (survey.layout == "gampen" and folder.is_dir()):
            return GampenSource(folder, survey, band, model_pixel_scale, variance=variance)
        if is_zarr(folder):
            return ReadySource(folder, survey, band, model_pixel_scale, variance=variance)
    if survey.layout == "gampen":
        raise InputError(f"{spec}: profile {survey.name} wants a folder with info.csv and cutouts/")
    tiles = open_tiles(spec, survey, band, cache, frozen)
    return TileSource(tiles, survey, model_pixel_scale, variance=variance)


def open_bands(
    spec: str,
    survey: Survey,
    bands: Sequence[str],
    model_pixel_scale: float,
    cache_dir: str | os.PathLike[str] | None,
    *,
    frozen: bool = False,
) -> ImageSource:
    """Open the images of one band, or those of several to be stacked in this order.

    The other parameters are those of :func:`open_images`.

    Raises
    ------
    InputError
        As :func:`open_images`; of several bands also where images do not tell theirs.
    OutsideFault
        The file system fails.
    """
    try:
        sources = [
            open_images(spec, survey, band, model_pixel_scale, cache_dir, frozen=frozen)
            for band in bands
        ]
    except NoSuchBand as error:
        if len(bands) == 1:
            raise
        raise InputError(
            f"{error.lack}, and the model takes {', '.join(bands)} together: bring those that are"
            " missing, or choose another --model"
        ) from None
    if len(sources) == 1:
        return sources[0]
    for source in sources:
        if not _tells_band(source):
            raise InputError(
                f"{spec}: images that do not tell their band would be taken for each of"
                f" {', '.join(bands)}: give them a card FILTER, a cube also cube_bands in the"
                " profile, a Zarr group an array band"
            )
        if isinstance(source, TileSource):
            source.most_open = max(2, source.most_open // len(sources))
    return StackedSource(bands, sources)


def _tells_band(source: ImageSource) -> bool:
    """Whether all images of a source are known to be of the band that was asked for."""
    if isinstance(source, ReadySource):
        return source.has_bands
    if isinstance(source, TileSource) and isinstance(source.tiles, IndexedTiles):
        return not source.tiles.index["band"].null_count
    return not isinstance(source, GampenSource)
