"""From a folder or an address to the tiles that lie there."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.images.places.cache import default_cache
from survey_gampen.images.places.files import Files, LocalFiles
from survey_gampen.images.places.listing import holds_many, is_image_name
from survey_gampen.images.places.objects import ObjectStore
from survey_gampen.images.places.remote import RemoteFiles
from survey_gampen.images.places.web import HttpStore
from survey_gampen.images.tiles import footprints
from survey_gampen.images.tiles.indexed import IndexedTiles
from survey_gampen.images.tiles.skymap import RingsSkymap
from survey_gampen.images.tiles.source import Tiles
from survey_gampen.images.tiles.template import Template
from survey_gampen.images.tiles.tract_tree import TreeTiles, is_there
from survey_gampen.survey import Survey

#: The word for the place that the survey's profile names.
TREE = "tree"
#: A folder with more files than this is taken as a tree, where the profile says how it is laid out:
#: reading all headers would take longer than finding the patches needed.
MANY = 5000
#: How long a service that fails is waited for at planning, seconds.
PLANNING = 60.0

Spec = str | os.PathLike[str] | Sequence[str]


def is_address(spec: Spec) -> bool:
    """Whether `spec` means a place elsewhere, and not a file or folder."""
    return isinstance(spec, str) and (spec == TREE or "://" in spec)


def open_tiles(
    spec: Spec, survey: Survey, band: str | None, cache: Path | None, frozen: bool
) -> Tiles:
    """Find out which tiles there are.

    Parameters
    ----------
    spec : str, path or list of them
        Local files; ``http://``, ``https://`` or ``s3://`` and a folder, a file or (s3) a pattern;
        or ``tree``: the address that the profile names. An address, and a large local folder, that
        is laid out as the profile's ``[tree]`` says is not listed: its patches are found by the
        sky map. All else is listed, and the headers of all files are read.
    survey, band, cache, frozen
        See :func:`~survey_gampen.images.open.open_images`.

    Raises
    ------
    InputError
        Nothing usable there, or it wants a login.
    OutsideFault
        Disk, network or server fail.
    """
    if not is_address(spec):
        return _open(LocalFiles(spec), _key(spec), spec, survey, band, cache, frozen)
    address = str(spec)
    if address == TREE:
        address = str(survey.tree.get("url", ""))
        if not address or not survey.skymap:
            raise InputError(
                f"profile {survey.name} has no [tree] with a url, or no [skymap]: give --images the"
                " place of the images"
            )
    try:
        files = RemoteFiles(_store(address, survey), default_cache())
        if not frozen:  # somebody waits at the terminal
            seconds = min(files.patience.seconds, PLANNING)
            files.patience = replace(files.patience, seconds=seconds)
        return _open(files, address, spec, survey, band, cache, frozen)
    except InputError as error:
        if not frozen:
            raise
        raise OutsideFault(str(error)) from error  # it could be used at planning


def _open(
    files: Files,
    key: str,
    spec: Spec,
    survey: Survey,
    band: str | None,
    cache: Path | None,
    frozen: bool,
) -> Tiles:
    if not (frozen and footprints.is_indexed(key, cache)):
        layout = _layout(files, spec, survey, band)
        if layout is not None and band:
            return TreeTiles(files, survey, band, layout)
    found, index = footprints.open_index(files, key, cache, frozen)
    return IndexedTiles(files, found, index, survey, band)


def _store(address: str, survey: Survey) -> HttpStore | ObjectStore:
    scheme = address.partition("://")[0]
    if scheme in ("http", "https"):
        # "hsc" of "hsc-wide": releases and layers of a survey share a login.
        return HttpStore(address, survey.name.partition("-")[0])
    if scheme == "s3":
        return ObjectStore(address)
    raise InputError(f"{scheme}://: images are taken from https:// and s3:// addresses and folders")


def _layout(files: Files, spec: Spec, survey: Survey, band: str | None) -> str | None:
    """The template of the files where they are to be taken as a tree, else None."""
    if not survey.tree.get("path") or not survey.skymap:
        return None
    if isinstance(spec, list | tuple) or is_image_name(os.fspath(spec)):  # type: ignore[arg-type]
        return None
    if isinstance(files, LocalFiles):
        folder = Path(os.fspath(spec)).expanduser().absolute()  # type: ignore[arg-type]
        if not folder.is_dir():
            return None
        files.root = folder
    if not band:
        return None
    skymap = RingsSkymap.from_table(survey.skymap, f"profile {survey.name}")
    for path, folder_name in Template(survey, band, skymap).layouts():
        if is_there(files, folder_name):
            large = not isinstance(files, LocalFiles) or holds_many(files.root, MANY)
            return path if large else None
    if spec == TREE:
        raise InputError(f"{files.address}/: no coadds as profile {survey.name} lays them out")
    return None


def _key(spec: Spec) -> str:
    specs = [spec] if isinstance(spec, str | os.PathLike) else spec
    return "\0".join(str(Path(one).expanduser().absolute()) for one in specs)
