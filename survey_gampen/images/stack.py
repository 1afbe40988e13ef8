"""Images of several bands, one behind the other: what a network sees that knows several bands.

Each band has a source of its own, and each knows its own tiles. The first, the reference, says
which galaxies lie on one tile and come together; the others are asked for the same ones. So pixels
of at most a batch are in memory, and tiles are opened once, as with one band.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import ArrayLike, NDArray

from survey_gampen.images.base import Cutouts, ImageSource
from survey_gampen.images.status import NULL_BITS, names

#: What is told of a tile, and differs from band to band.
_FACTS = ("tile", "zero_point", "pixel_scale", "psf_fwhm")


class StackedSource:
    """Cutouts of shape (n, bands, size, size); an :class:`ImageSource`.

    A galaxy has the flags of all bands, and no image where it has none in any of them; its note
    says in which. A pixel counts as replaced where it was replaced in any. Sky level and noise, and
    the facts of the tile, have the shape (n, bands). There are no variances.

    Parameters
    ----------
    bands : sequence of str
        Names in the order of the channels; the first is the reference.
    sources : sequence of ImageSource
        One a band, of one pixel scale.
    """

    def __init__(self, bands: Sequence[str], sources: Sequence[ImageSource]) -> None:
        self.bands, self.sources = tuple(bands), tuple(sources)
        self.pixel_scale = self.sources[0].pixel_scale
        said = (line for source in self.sources for line in source.warnings)
        self.warnings = list(dict.fromkeys(said))

    def inventory(self) -> str:
        """SHA-256 over the bands and what there is of each."""
        each = zip(self.bands, self.sources, strict=True)
        told = "\n".join(f"{band} {source.inventory()}" for band, source in each)
        return hashlib.sha256(told.encode()).hexdigest()

    def describe(self) -> str:
        """One line: what there is of each band."""
        each = zip(self.bands, self.sources, strict=True)
        return "; ".join(f"{band}: {source.describe()}" for band, source in each)

    def footprints(self) -> pa.Table:
        """Images of all bands and where they lie."""
        return pa.concat_tables([source.footprints() for source in self.sources])

    def cutouts(
        self, ra: ArrayLike, dec: ArrayLike, size: int, object_id: Sequence[Any] | None = None
    ) -> Iterator[Cutouts]:
        """Cut out galaxies, in the batches of the reference; see :meth:`ImageSource.cutouts`."""
        lon, lat = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        reference, *others = self.sources
        for first in reference.cutouts(lon, lat, size, object_id):
            index = first.index
            called = None if object_id is None else [object_id[i] for i in index]
            stack = _Stack(index, size, self.bands)
            stack.put(0, replace(first, index=np.arange(len(index))))
            for channel, source in enumerate(others, start=1):
                for batch in source.cutouts(lon[index], lat[index], size, called):
                    stack.put(channel, batch)
            yield stack.cutouts()

    def close(self) -> None:
        """Close all files; they open again when needed."""
        for source in self.sources:
            source.close()


class _Stack:
    """The bands of one batch, band by band, in whatever order their galaxies come."""

    def __init__(self, index: NDArray[np.int64], size: int, bands: Sequence[str]) -> None:
        n, self.bands = len(index), bands
        self.index = index
        self.image = np.zeros((n, len(bands), size, size), np.float32)
        self.replaced = np.zeros((n, size, size), bool)
        self.status = np.zeros((n, len(bands)), np.int32)
        self.note = np.full((n, len(bands)), None, object)
        self.sky_level, self.sky_sigma = np.full((2, n, len(bands)), np.nan, np.float32)
        self.facts: dict[str, NDArray[Any]] = {
            name: np.full((n, len(bands)), "" if name == "tile" else np.nan, object)
            for name in _FACTS
        }

    def put(self, channel: int, batch: Cutouts) -> None:
        """Take some galaxies of one band; their index counts in this batch."""
        at = (batch.index, channel)
        self.image[at], self.status[at] = batch.image, batch.status
        self.note[at] = batch.note
        self.replaced[batch.index] |= batch.replaced
        self.sky_level[at], self.sky_sigma[at] = batch.sky_level, batch.sky_sigma
        for name, values in self.facts.items():
            if (value := batch.facts.get(name)) is not None:
                values[at] = value

    def cutouts(self) -> Cutouts:
        """All bands together."""
        return Cutouts(
            index=self.index,
            image=self.image,
            status=np.bitwise_or.reduce(self.status, axis=1),
            note=[self._note(galaxy) for galaxy in range(len(self.index))],
            replaced=self.replaced,
            sky_level=self.sky_level,
            sky_sigma=self.sky_sigma,
            facts={
                "band": self.bands[0],
                "tile": self.facts["tile"],
                **{name: self.facts[name].astype(np.float32) for name in _FACTS[1:]},
            },
        )

    def _note(self, galaxy: int) -> str | None:
        """In which bands there is no usable image, and why."""
        null = self.status[galaxy] & int(NULL_BITS)
        said = [
            f"{band}: {note or ', '.join(names(bits))}"
            for band, note, bits in zip(self.bands, self.note[galaxy], null.tolist(), strict=True)
            if note or bits
        ]
        return "; ".join(said) or None
