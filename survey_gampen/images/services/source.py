"""Cutouts from a service that cuts by itself: asked in large requests, kept until they are cut.

Answers lie in the run's folder of what can be made again, each under the hash of what was asked and
published by one rename: whoever asks the same again finds it there. A process that is killed loses
the request that it waits for and no other. What a partition needed is removed when its cutouts are
published (:func:`fetched`).
"""

from __future__ import annotations

import contextlib
import hashlib
import tempfile
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from hats.pixel_math.spatial_index import compute_spatial_index
from numpy.typing import ArrayLike, NDArray

from survey_gampen import commit
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.images.base import Cutouts, ImageSource
from survey_gampen.images.pixels.finish import native_size
from survey_gampen.images.pixels.grid import quiet
from survey_gampen.images.services.answers import Answer, AnswerWriter
from survey_gampen.images.services.collect import Ask, Service, collect
from survey_gampen.images.services.members import cut_member
from survey_gampen.images.stack import StackedSource
from survey_gampen.images.status import Status
from survey_gampen.survey import Survey

#: Pixels that are asked for around the box that is needed, for positions between pixels.
_MARGIN = 2
#: Answers whose lists of members are kept in memory.
_OPEN = 2
Floats = NDArray[np.float64]


class ServiceSource:
    """Cutouts from a service.

    The part of a box that lies on no image is padded and flagged, as from tiles; the service cuts
    off there. Where it sends several images of a galaxy the deepest counts and the others fill.

    Parameters
    ----------
    service : Service
    survey : Survey
        Must tell the pixel scale: what is asked for is an angle.
    band : str or None
        Band that was asked for.
    pixel_scale : float or None
        Arcsec a pixel of the cutouts; None: the survey's.
    cache : Path or None
        Folder for answers; None: a temporary one.
    variance : bool
        Whether cutouts come with variances.
    frozen : bool
        On a worker: what was usable at planning and is no more stops the run, which can go on.

    Raises
    ------
    InputError
        No pixel scale is known.
    """

    def __init__(
        self,
        service: Service,
        survey: Survey,
        band: str | None,
        pixel_scale: float | None,
        cache: Path | None,
        *,
        variance: bool = False,
        frozen: bool = False,
    ) -> None:
        if survey.pixel_scale is None:
            raise InputError(
                f"survey {survey.name}: give pixel_scale in the profile; a service is asked for"
                " boxes in arcsec"
            )
        self.service, self.survey, self.band = service, survey, band
        self.variance, self.frozen = variance, frozen
        self.native_scale = float(survey.pixel_scale)
        self.pixel_scale = float(pixel_scale or survey.pixel_scale)
        self.warnings: list[str] = []
        self._temporary = None if cache else tempfile.TemporaryDirectory(prefix="survey-gampen-")
        self.cache = cache or Path(self._temporary.name if self._temporary else "")

    def inventory(self) -> str:
        """SHA-256 of the service's address and the release: what is released does not change."""
        return hashlib.sha256(self.service.inventory().encode()).hexdigest()

    def describe(self) -> str:
        """One line: which service."""
        return self.service.describe()

    def footprints(self) -> pa.Table:
        """Empty: the service alone knows what it covers."""
        return pa.table(
            {
                "tile": pa.array([], pa.string()),
                **{name: pa.array([], pa.float64()) for name in ("ra", "dec", "radius")},
            }
        )

    def cutouts(
        self, ra: ArrayLike, dec: ArrayLike, size: int, object_id: Sequence[Any] | None = None
    ) -> Iterator[Cutouts]:
        """Cut out galaxies, a batch each; see :meth:`ImageSource.cutouts`."""
        part = ServicePart(self, ra, dec, size)
        yield from part.cutouts(ra, dec, size, object_id)
        part.forget()

    def close(self) -> None:
        """Remove a temporary folder; connections close by themselves."""
        if self._temporary is not None:
            self._temporary.cleanup()
            self._temporary = None


@contextlib.contextmanager
def fetched(source: ImageSource, ra: ArrayLike, dec: ArrayLike, size: int) -> Iterator[ImageSource]:
    """The source for all galaxies that are cut inside the block.

    A service is told of all of them at once, so that it is asked in large requests. Its answers
    are kept if the block fails, and removed when it ends well.

    Parameters
    ----------
    source : ImageSource
        Any; another one than a service's, of one band or several, is given back as it is.
    ra, dec : array_like, shape (n,)
        Degrees.
    size : int
        Pixels a side.
    """
    if isinstance(source, StackedSource):
        with contextlib.ExitStack() as each:
            near = [each.enter_context(fetched(one, ra, dec, size)) for one in source.sources]
            yield StackedSource(source.bands, near)
        return
    if not isinstance(source, ServiceSource):
        yield source
        return
    part = ServicePart(source, ra, dec, size)
    yield part
    part.forget()


class ServicePart:
    """A service's cutouts of galaxies that are known beforehand; an :class:`ImageSource`.

    Parameters
    ----------
    source : ServiceSource
    ra, dec : array_like, shape (n,)
        Degrees.
    size : int
        Pixels a side.
    """

    def __init__(self, source: ServiceSource, ra: ArrayLike, dec: ArrayLike, size: int) -> None:
        self.source, self.size = source, size
        self.pixel_scale, self.warnings = source.pixel_scale, source.warnings
        native = native_size(size, (source.native_scale,) * 2, source.pixel_scale)
        half = (native / 2 + _MARGIN) * source.native_scale
        lon, lat = _unique(*(np.atleast_1d(np.asarray(angle, float)) for angle in (ra, dec)))
        lines = source.service.lines
        self._asks = [
            Ask(lon[start : start + lines], lat[start : start + lines], half)
            for start in range(0, len(lon), lines)
        ]
        self._place = {
            (float(one_ra), float(one_dec)): (number, place)
            for number, ask in enumerate(self._asks)
            for place, (one_ra, one_dec) in enumerate(zip(ask.ra, ask.dec, strict=True))
        }
        self._answers: OrderedDict[int, Answer] = OrderedDict()

    def cutouts(
        self, ra: ArrayLike, dec: ArrayLike, size: int, object_id: Sequence[Any] | None = None
    ) -> Iterator[Cutouts]:
        """Cut out some of the galaxies; asks for those that are not there yet."""
        lon, lat = np.atleast_1d(np.asarray(ra, float)), np.atleast_1d(np.asarray(dec, float))
        nowhere = (-1, -1)
        where = [
            self._place.get((float(x), float(y)), nowhere) for x, y in zip(lon, lat, strict=True)
        ]
        for galaxy in sorted(range(len(where)), key=where.__getitem__):
            number, place = where[galaxy]
            batch = Cutouts.empty(np.array([galaxy]), size, self.source.variance)
            if number < 0:
                batch.status[0] = int(Status.NO_IMAGE)
            else:
                answer, at = self._answer(number), (float(lon[galaxy]), float(lat[galaxy]))
                with quiet():
                    cut_member(batch, answer, place, at, self.source.survey, self.pixel_scale)
            yield batch

    def forget(self) -> None:
        """Remove the answers."""
        self._answers.clear()
        for ask in self._asks:
            self._path(ask).unlink(missing_ok=True)

    def _path(self, ask: Ask) -> Path:
        digest = hashlib.sha256(self.source.service.words(ask).encode()).hexdigest()
        return self.source.cache / f"{digest}.tar"

    def _answer(self, number: int) -> Answer:
        """The answer to a request; asked for unless it is there."""
        if number not in self._answers:
            while len(self._answers) >= _OPEN:
                self._answers.popitem(last=False)
            self._answers[number] = self._open(self._asks[number])
        return self._answers[number]

    def _open(self, ask: Ask) -> Answer:
        path, source = self._path(ask), self.source
        staging = source.cache / "staging"
        with contextlib.suppress(ValueError, FileNotFoundError):
            return Answer(path)
        path.unlink(missing_ok=True)
        for left in staging.glob(f"{path.name}.*"):  # by a process that was killed
            left.unlink(missing_ok=True)

        def write(staged: Path) -> None:
            writer = AnswerWriter(staged)
            try:
                collect(
                    source.service, ask, source.survey, source.band, source.native_scale, writer
                )
            finally:
                writer.close()

        def check(staged: Path) -> None:
            if Answer(staged).places != len(ask):
                raise ValueError("the list of an answer is not that of its request")

        try:
            commit.publish(path, write, check, staging)
        except InputError as error:
            if not source.frozen:
                raise
            said = str(error)
        else:
            return Answer(path)
        raise OutsideFault(f"{said}; then go on with the run")

    def inventory(self) -> str:
        """As of the source."""
        return self.source.inventory()

    def describe(self) -> str:
        """As of the source."""
        return self.source.describe()

    def footprints(self) -> pa.Table:
        """As of the source."""
        return self.source.footprints()

    def close(self) -> None:
        """Nothing stays open."""


def _unique(ra: Floats, dec: Floats) -> tuple[Floats, Floats]:
    """The positions that can be asked for, each once, along the sky.

    Neighbours in one request lie on one image of the service, which then opens it once.
    """
    there = np.isfinite(ra) & np.isfinite(dec) & (np.abs(dec) <= 90.0)
    positions = np.unique(np.stack([ra[there], dec[there]]), axis=1)
    order = np.argsort(compute_spatial_index(positions[0], positions[1]), kind="stable")
    return positions[0][order], positions[1][order]
