"""Names of the files of a tree by tract and patch, and how one and the same may be written."""

from __future__ import annotations

import re
from collections.abc import Iterator

from survey_gampen.errors import InputError
from survey_gampen.images.pixels.planes import short_band
from survey_gampen.images.tiles.skymap import RingsSkymap
from survey_gampen.survey import Survey


class Template:
    """Names of the files of a tree.

    Parameters
    ----------
    survey : Survey
        Its ``tree`` holds ``path`` with ``{rerun}``, ``{band}``, ``{tract}`` and ``{patch}``, the
        words ``filters`` for bands, and how a ``patch`` is written.
    band : str
        Short name.
    skymap : RingsSkymap

    Raises
    ------
    InputError
        The profile has no usable template.
    """

    def __init__(self, survey: Survey, band: str, skymap: RingsSkymap) -> None:
        tree, short = survey.tree, short_band(band)
        self.rerun, self.path = str(tree.get("rerun", "")), str(tree.get("path", ""))
        if "{tract}" not in self.path or "{patch}" not in self.path:
            raise InputError(
                f"profile {survey.name}: path of [tree] needs {{tract}} and {{patch}} in it"
            )
        try:
            self.path.format(rerun="", band="", tract="", patch="")
        except (KeyError, IndexError, ValueError):
            raise InputError(
                f"profile {survey.name}: path of [tree] may hold {{rerun}}, {{band}}, {{tract}} "
                "and {patch} only"
            ) from None
        word = str(tree.get("filters", {}).get(short, band))
        # HSC's r and i filters were replaced in 2016 and 2018; some trees keep their coadds apart.
        self.filters = [word, f"{word}2"] if re.fullmatch(r"HSC-[RI]", word) else [word]
        self._numbered, self._skymap = tree.get("patch", "x,y") == "number", skymap

    def layouts(self) -> Iterator[tuple[str, str]]:
        """Templates that may hold below an address, each with the folder that tells so.

        The address may be that of one release, or that of the folder with all of them.
        """
        own = self.path.removeprefix("{rerun}/").replace("{rerun}", self.rerun)
        for path in (own, f"{self.rerun}/{own}" if self.rerun else own):
            yield path, path[: path.index("{")].rpartition("/")[0]

    def spellings(self, x: int, y: int, address: bool) -> list[str]:
        """How a patch may be written; `address`: in one that is sent to a server."""
        if self._numbered:
            return [str(self._skymap.patch_number((x, y)))]
        # As it is, as browsers send it, and as programs save what they got under an address.
        return [f"{x},{y}", f"{x}%2C{y}", *([f"{x}%252C{y}"] if address else [])]
