"""Ask a service until every galaxy of a request has what there is of it."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from astropy.io import fits
from numpy.typing import NDArray

from survey_gampen.images.pixels.grid import quiet
from survey_gampen.images.pixels.planes import short_band
from survey_gampen.images.pixels.single import Seen, look
from survey_gampen.images.services.answers import AnswerWriter
from survey_gampen.images.services.http import Manners
from survey_gampen.net.waiting import Backoff, CutOff, Transient
from survey_gampen.survey import Survey

#: A service may round a box up by so many pixels on each side.
_ROUNDING = 4.0
#: Bytes of a FITS record (FITS standard 4.0, section 3.1); the last may lack its padding.
_BLOCK = 2880


@dataclass(frozen=True)
class Ask:
    """Boxes of the sky, all of one size.

    Attributes
    ----------
    ra, dec : ndarray of float64, shape (n,)
        Degrees, ICRS.
    half : float
        Half a side, arcsec.
    """

    ra: NDArray[np.float64]
    dec: NDArray[np.float64]
    half: float

    def __len__(self) -> int:
        return len(self.ra)


@dataclass(frozen=True)
class Member:
    """One image of an answer.

    Attributes
    ----------
    place : int or None
        Its galaxy in the :class:`Ask`; None where the service does not make that clear.
    tile : str
        What it was cut from.
    content : bytes
        A FITS file.
    wrong : str
        Why it cannot be what was asked for; else empty.
    part, parts : int
        Which of its galaxy's members, the best first, and how many were asked for; 0 where that is
        not known: they are all that come before another galaxy's.
    """

    place: int | None
    tile: str
    content: bytes
    wrong: str = ""
    part: int = 0
    parts: int = 0


class Service(Protocol):
    """A service that cuts out boxes of the sky."""

    #: Short name, as in the names of variables for its password: ``hsc``.
    name: str
    #: Galaxies in one request, at most.
    lines: int
    manners: Manners

    def words(self, ask: Ask) -> str:
        """Say what is asked, whole: equal words get equal answers."""
        ...

    def send(self, ask: Ask, places: Sequence[int], backoff: Backoff) -> Iterator[Member]:
        """Ask once for some galaxies, in any order; those without an image have no member.

        A galaxy may have several members, of one tile each; they come one after the other, in
        order of `part`.

        Raises
        ------
        CutOff
            The answer ended too early.
        InputError
            The service does not let us in, or does not understand.
        OutsideFault
            It does not answer.
        """
        ...

    def backoff(self) -> Backoff:
        """A new count of failures."""
        ...

    def enter(self) -> None:
        """Look whether the service lets us in.

        Raises
        ------
        InputError
            It does not.
        OutsideFault
            It does not answer.
        """
        ...

    def inventory(self) -> str:
        """Text that changes when the images may be others."""
        ...

    def describe(self) -> str:
        """One line: what there is."""
        ...


def collect(
    service: Service, ask: Ask, survey: Survey, band: str | None, scale: float, to: AnswerWriter
) -> None:
    """Ask until all is there.

    What came whole is kept when an answer is cut off, and only the rest is asked for again: also
    the galaxy that came last, where the service does not tell how many members it has. So it is
    with wrong members: a galaxy is asked for again until each of its members was right once, and
    one that has a wrong member every time is given up, after some time: the service may have been
    ill.

    Parameters
    ----------
    service : Service
    ask : Ask
    survey, band
        What the images must be of.
    scale : float
        Arcsec a pixel of the service's images.
    to : AnswerWriter
        Receives the answer.

    Raises
    ------
    InputError, OutsideFault
        From :meth:`Service.send`; an answer that ends early without any progress counts as none.
    """
    open_, tries = set(range(len(ask))), dict.fromkeys(range(len(ask)), 0)
    bad: dict[int, str] = {}
    kept: set[tuple[int, str]] = set()
    backoff = service.backoff()
    while open_:
        whole: set[int] = set()
        wrong: dict[int, str] = {}
        stray = ""
        last: int | None = None
        cut: CutOff | None = None
        before, places = len(kept), sorted(open_)
        try:
            for member in service.send(ask, places, backoff):
                if member.place is None or member.place not in open_:
                    stray = member.wrong or "a member that nobody asked for"
                    continue
                place = member.place
                if last is not None and last != place:
                    whole.add(last)
                last = None if member.parts else place
                if (place, member.tile) not in kept:
                    seen: Seen | str = member.wrong or judge(
                        member.content, float(ask.ra[place]), float(ask.dec[place]), ask.half,
                        survey, band, scale,
                    )  # fmt: skip
                    if isinstance(seen, str):
                        wrong[place] = seen
                    else:
                        to.add(place, member.part, member.tile, member.content, seen)
                        kept.add((place, member.tile))
                        backoff.progress()
                if member.part == member.parts - 1:
                    whole.add(place)
        except CutOff as error:
            cut = error
        open_ -= whole - wrong.keys()
        if cut is not None:
            if len(kept) == before:
                backoff.wait(cut)
            continue
        if len(kept) > before:
            backoff.progress()
        # The answer was whole: who is not in it has no image, unless a member went astray.
        again = wrong.keys() | (open_ if stray else set())
        for place in again:
            tries[place] += 1
            if tries[place] >= service.manners.tries:
                bad[place] = wrong.get(place, stray)
        open_ = {place for place in again if place not in bad}
        if open_:
            backoff.wait(Transient(stray or next(iter(wrong.values()))))
    to.finish(len(ask), bad)


def judge(
    content: bytes,
    ra: float,
    dec: float,
    half: float,
    survey: Survey,
    band: str | None,
    scale: float,
) -> Seen | str:
    """What a file says of itself, or why it cannot be the image of a galaxy.

    It must be a FITS file with an image of the band and a WCS, and no larger in any direction than
    the box that was asked for around the galaxy. Smaller it may be: at an edge of the survey.
    """
    try:
        with quiet(), fits.open(io.BytesIO(content)) as hdus:
            seen = look(hdus, "the answer", survey, band, scale)
            group = seen.group
            planes = (group.image, group.mask, group.variance, group.invvar)
            if any(hdus[plane].data is None for plane in planes if plane is not None):
                return "the answer holds no pixels"
            last = hdus.fileinfo(len(hdus) - 1)
    except Exception as error:  # FITS readers fail on a broken file with a dozen classes
        reason = " ".join(str(error).split())[:100] or type(error).__name__
        return f"the answer is no image ({reason})"
    # astropy ends the list of HDUs where it can't go on: without its mask, say.
    end = last["datLoc"] + last["datSpan"]
    if end - len(content) >= _BLOCK or content[end : end + 8] == b"XTENSION":
        return "the answer is cut off"
    label, grid = seen.facts["band"], seen.grid
    if band and label and short_band(label) != short_band(band):
        return f"the answer is of band {label}, not {band}"
    if grid is None:
        return "the answer has no WCS"
    with quiet():
        x, y = (float(v[0]) for v in grid.to_pixel([ra], [dec]))
        scales = grid.pixel_scales()
    for at, pixels, size in ((x, grid.nx, scales[0]), (y, grid.ny, scales[1])):
        reach = half / size + _ROUNDING
        if not (-reach <= at <= pixels - 1 + reach and at <= reach and pixels - 1 - at <= reach):
            return "the answer shows another place of the sky"
    return seen
