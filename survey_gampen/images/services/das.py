"""HSC's cutout service (DAS): a list goes up, a tar of FITS files comes down.

The protocol, as the official client ``downloadCutout.py`` speaks it (data access tools of the HSC
public data releases, https://hsc-gitlab.mtk.nao.ac.jp/ssp-software/data-access-tools) and the
service's manual describes it (https://hsc-release.mtk.nao.ac.jp/das_cutout/pdr3/manual.html):

* ``POST URL/cgi-bin/cutout``, basic authentication, multipart field ``list``: a text whose first
  line names the columns and whose other lines are one cutout each. ``sw`` and ``sh`` are half the
  width and half the height. The service takes up to 1000 lines; the official client sends 990.
* The answer is a tar that is made while it is sent. The member of line N (the first cutout is line
  2) is ``arch-DATE-TIME/N-cutout-FILTER-TRACT-RERUN.fits``. A cutout without data has no member. At
  an edge of the survey's images it is smaller than asked.
"""

from __future__ import annotations

import re
import tarfile
from collections.abc import Iterator, Sequence
from typing import Any, cast

from survey_gampen.errors import InputError
from survey_gampen.images.pixels.planes import short_band
from survey_gampen.images.services.collect import Ask, Member
from survey_gampen.images.services.http import Client
from survey_gampen.net.body import Body
from survey_gampen.net.faults import DENIED, is_later
from survey_gampen.net.waiting import Backoff, CutOff

HEADER = "#? rerun type filter tract ra dec sw sh image mask variance"
LINES = 990
#: Kinds of coadd, and how members of theirs are called.
KINDS = {"coadd": "cutout", "coadd/bg": "coadd+bg"}
_MEMBER = re.compile(
    r"(?:.*/)?(?P<line>[0-9]+)-(?P<kind>cutout|coadd\+bg)-(?P<filter>[^/]+)-(?P<tract>[0-9]+)"
    r"-(?P<rerun>[^/]+)\.fits"
)
#: Bytes of a member beyond its pixels: headers of four HDUs, with all that hscPipe writes there.
_HEADERS = 4_000_000


class Das:
    """The service; see :class:`~survey_gampen.images.services.collect.Service`.

    Parameters
    ----------
    client : Client
    url : str
        Up to and without ``/cgi-bin/cutout``.
    rerun : str
        Name of the release: ``pdr3_wide``.
    filter_name : str
        ``HSC-G``.
    kind : {"coadd", "coadd/bg"}
        Coadds with the local or with the global sky subtracted.
    scale : float
        Arcsec a pixel; bounds what a member may be long.
    variance : bool
        Whether variances are asked for.
    """

    name = "hsc"
    lines = LINES

    def __init__(
        self,
        client: Client,
        url: str,
        rerun: str,
        filter_name: str,
        kind: str,
        scale: float,
        variance: bool,
    ) -> None:
        self._client, self._url, self.manners = client, url, client.manners
        self._rerun, self._filter, self._kind = rerun, filter_name, kind
        self._scale, self._variance = scale, variance

    def words(self, ask: Ask) -> str:
        """The address and the list."""
        return f"{self._url}\n{self.list_of(ask, range(len(ask)))}"

    def list_of(self, ask: Ask, places: Sequence[int]) -> str:
        """The list to be sent for some galaxies."""
        half = f"{ask.half:.4f}asec"
        first = f"{self._rerun} {self._kind} {self._filter} any"
        last = f"{half} {half} true true {'true' if self._variance else 'false'}"
        lines = [
            f"{first} {ask.ra[place]:.10f}deg {ask.dec[place]:.10f}deg {last}" for place in places
        ]
        return "\n".join([HEADER, *lines, ""])

    def send(self, ask: Ask, places: Sequence[int], backoff: Backoff) -> Iterator[Member]:
        """Send the list, and read members as they come; see :meth:`Service.send`."""
        limit = int((2 * ask.half / self._scale + 64) ** 2) * 12 + _HEADERS
        files = {"list": ("coordlist.txt", self.list_of(ask, places))}
        where = f"{self._url}/cgi-bin/cutout"
        with self._client.ask(
            "POST", where, backoff, files=files, allow_redirects=False
        ) as response:
            if "html" in response.headers.get("Content-Type", ""):
                raise InputError(
                    f"{where} answers with a page and not with a tar: is that the address of a"
                    " cutout service, and is the rerun right?"
                )
            for name, size, content in _members(Body(response), limit):
                yield self._member(name, size, content, places)

    def _member(self, name: str, size: int, content: bytes, places: Sequence[int]) -> Member:
        found = _MEMBER.fullmatch(name)
        line = int(found["line"]) if found else 0
        if found is None or not 2 <= line < len(places) + 2:
            return Member(None, "", b"", "the service sent a member that belongs to no line")
        tile = f"{found['filter']}-{found['tract']}-{found['rerun']}"
        place, wrong = places[line - 2], ""
        if found["kind"] != KINDS[self._kind] or found["rerun"] != self._rerun:
            wrong = f"the answer is of {found['kind']} {found['rerun']}"
        elif short_band(found["filter"]) != short_band(self._filter):
            wrong = f"the answer is of {found['filter']}, not {self._filter}"
        elif not content:
            wrong = f"the answer is {size} bytes long"
        return Member(place, tile, content, wrong)

    def backoff(self) -> Backoff:
        """A new count of failures."""
        return self._client.backoff()

    def enter(self) -> None:
        """Ask for the service's front page, which wants the same password."""
        # Whatever the page is: only a refusal, or no answer, tells something.
        every = tuple(code for code in range(200, 500) if code not in DENIED and not is_later(code))
        with self._client.ask("GET", f"{self._url}/", self.backoff(), accept=every):
            pass

    def inventory(self) -> str:
        """Address, release, kind and filter."""
        return f"das {self._url} {self._rerun} {self._kind} {self._filter}"

    def describe(self) -> str:
        """One line."""
        return f"{self._filter} of {self._rerun} from the cutout service {self._url}"


class _Ended(tarfile.TarInfo):
    """Tells a tar's own end from an answer that just stops, which tarfile takes for one."""

    @classmethod
    def fromtarfile(cls, tar: tarfile.TarFile) -> _Ended:
        """Read the next header."""
        try:
            return super().fromtarfile(tar)
        except tarfile.EOFHeaderError:  # type: ignore[attr-defined]
            tar.has_ended = True  # type: ignore[attr-defined]
            raise


def _members(body: Body, limit: int) -> Iterator[tuple[str, int, bytes]]:
    """Name, size and content of each file of a tar; content is empty where it is above `limit`.

    Raises
    ------
    CutOff
        The tar is not whole, or is none.
    """
    trouble = ""
    try:
        with tarfile.open(fileobj=cast(Any, body), mode="r|", tarinfo=_Ended) as tar:
            for info in tar:
                if not info.isfile():
                    continue
                file = tar.extractfile(info) if 0 < info.size <= limit else None
                yield info.name, info.size, file.read() if file else b""
            if not getattr(tar, "has_ended", False):
                trouble = "the answer was cut off"
    except (tarfile.TarError, ValueError) as error:  # ValueError: a header of nonsense
        trouble = f"the answer was cut off ({error})"
    if trouble:
        raise CutOff(trouble)
