"""What a service sent, on disk until it is cut: one file for each request.

The file is a tar whose members have names of our own, with a list of what they are as the last
one. Members are read by their place in it; nothing is ever unpacked.
"""

from __future__ import annotations

import io
import json
import tarfile
from collections import defaultdict
from pathlib import Path
from typing import Any

from survey_gampen.images.pixels.single import Seen

_LIST = "answer.json"


class AnswerWriter:
    """An answer in the making.

    Parameters
    ----------
    path : Path
        A staged file.
    """

    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "w")  # noqa: SIM115
        self._images: list[tuple[int, int, str, dict[str, Any]]] = []

    def add(self, place: int, part: int, tile: str, content: bytes, seen: Seen) -> None:
        """Keep an image of the galaxy at `place` of the request, cut from `tile`.

        Whatever the order in which a galaxy's images come: they are read by `part`, then tile.
        """
        self._put(f"{len(self._images)}.fits", content)
        self._images.append((place, part, tile, seen.as_plain()))

    def finish(self, places: int, bad: dict[int, str]) -> None:
        """Write the list: how many galaxies were asked for, and why some have nothing usable."""
        said = {"places": places, "images": self._images, "bad": sorted(bad.items())}
        self._put(_LIST, json.dumps(said).encode())
        self._tar.close()

    def close(self) -> None:
        """Close an unfinished one."""
        self._tar.close()

    def _put(self, name: str, content: bytes) -> None:
        info = tarfile.TarInfo(name)
        info.size = len(content)
        self._tar.addfile(info, io.BytesIO(content))


class Answer:
    """A whole answer.

    Raises
    ------
    ValueError
        The file is not one.

    Attributes
    ----------
    places : int
        Galaxies that were asked for.
    bad : dict of int to str
        Why what came for a galaxy cannot be used.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            with tarfile.open(path, "r:") as tar:
                members = {info.name: (info.offset_data, info.size) for info in tar}
            said = json.loads(self._read(*members[_LIST]))
        except (tarfile.TarError, KeyError, ValueError) as error:
            raise ValueError(f"{path}: no answer of a service") from error
        self.places: int = said["places"]
        self.bad: dict[int, str] = dict(said["bad"])
        self._images: dict[int, list[tuple[int, str, dict[str, Any], int, int]]] = defaultdict(list)
        for number, (place, part, tile, seen) in enumerate(said["images"]):
            self._images[place].append((part, tile, seen, *members[f"{number}.fits"]))
        for images in self._images.values():
            images.sort(key=lambda image: image[:2])  # the tile where the part is equal

    def images(self, place: int) -> list[tuple[str, bytes, Seen]]:
        """Tile, FITS file, and what its headers say, of each image of the galaxy at `place`."""
        return [
            (tile, self._read(offset, size), Seen.of_plain(seen))
            for _, tile, seen, offset, size in self._images.get(place, [])
        ]

    def _read(self, offset: int, size: int) -> bytes:
        with self.path.open("rb") as file:
            file.seek(offset)
            content = file.read(size)
        if len(content) != size:
            raise ValueError(f"{self.path}: cut off")
        return content
