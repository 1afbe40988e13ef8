"""Cutouts by the Virtual Observatory's protocols, as the Rubin Science Platform offers them.

For some galaxies that lie together:

1. one ADQL query to the TAP service: which coadds of the band touch the field (``ivoa.ObsCore``);
2. once for each coadd, its DataLink: the address and the parameters of its cutout service;
3. for each galaxy a cutout (SODA 1.0, ``CIRCLE``) of the coadd in which it lies deepest, and of its
   neighbours where the box reaches beyond. Patches of a tract share one pixel grid, so that their
   cutouts join pixel by pixel.

Protocols: TAP 1.1, ObsCore 1.1, DataLink 1.1, SODA 1.0 (https://www.ivoa.net/documents). What Rubin
does with them: its tutorials (https://dp1.lsst.io, "Query for images with ObsTAP", "Small image
cutouts"), https://rsp.lsst.io/guides/api/soda.html (three services: ``cutout-sync`` gives pixels
alone, ``cutout-sync-maskedimage`` mask and variance as well), and the sources of its servers,
vo-cutouts and datalinker (https://github.com/lsst-sqre). A circle is answered with the square
around it, cut off at the coadd's edge, in nJy.
"""

from __future__ import annotations

import io
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar
from urllib.parse import urljoin

import numpy as np
from numpy.typing import NDArray

from survey_gampen.errors import InputError
from survey_gampen.images.pixels.grid import unit_vectors
from survey_gampen.images.services.collect import Ask, Member
from survey_gampen.images.services.http import Client
from survey_gampen.images.services.regions import Region, parse_region
from survey_gampen.net.faults import Refused
from survey_gampen.net.waiting import Backoff

#: Galaxies in one answer on disk; each is a request of its own.
LINES = 16
#: Cutout services of a coadd, the best first.
_SERVICES = ("cutout-sync-maskedimage", "cutout-sync-exposure", "cutout-sync")
_SODA = "ivo://ivoa.net/std/SODA#sync-1.0"
#: Degrees around the galaxies in which coadds are looked for: other galaxies of the partition need
#: no query of their own then.
_FIELD = 0.3
#: Galaxies farther from their middle, degrees, are asked about apart: a sparse catalogue's sixteen
#: lie all over the sky, and no service tells all of its coadds at once.
_WIDE = 3.0
#: Answers of TAP and DataLink are tables of some hundred rows.
_TABLE = 20_000_000
_FITS = 50_000_000
#: No pixels there: the code of SODA 1.0 (5.1), and what Rubin's says in a usage error.
_NOTHING = 204, "no intersection"
T = TypeVar("T")


@dataclass(frozen=True)
class Coadd:
    """One image that the service can cut from."""

    name: str
    links: str
    region: Region


class Soda:
    """The services; see :class:`~survey_gampen.images.services.collect.Service`.

    Parameters
    ----------
    client : Client
    tap : str
        Address of the TAP service.
    collection, product : str
        ``obs_collection`` and ``dataproduct_subtype``: ``LSST.DP1``, ``lsst.deep_coadd``.
    band : str
    """

    name = "rubin"
    lines = LINES

    def __init__(self, client: Client, tap: str, collection: str, product: str, band: str) -> None:
        self._client, self._tap, self.manners = client, tap, client.manners
        self._collection, self._product, self._band = collection, product, band
        self._fields: OrderedDict[tuple[float, float, float], list[Coadd]] = OrderedDict()
        self._services: OrderedDict[str, tuple[str, dict[str, str]]] = OrderedDict()
        self._lock = Lock()

    def words(self, ask: Ask) -> str:
        """The service and all positions."""
        places = [f"{x:.10f} {y:.10f}" for x, y in zip(ask.ra, ask.dec, strict=True)]
        return "\n".join([self.inventory(), f"{ask.half:.4f}", *places])

    def send(self, ask: Ask, places: Sequence[int], backoff: Backoff) -> Iterator[Member]:
        """Ask for each galaxy, some at once; see :meth:`Service.send`."""
        coadds = self._coadds(unit_vectors(ask.ra, ask.dec), ask.half, backoff)
        wanted = [
            (place, coadd, part, len(covering))
            for place in places
            for covering in [
                _covering(coadds, float(ask.ra[place]), float(ask.dec[place]), ask.half)
            ]
            for part, coadd in enumerate(covering)
        ]
        with ThreadPoolExecutor(self.manners.connections) as pool:
            tasks = [pool.submit(self._cut, ask, *each) for each in wanted]
            try:
                for task in tasks:
                    member = task.result()
                    if member is not None:
                        yield member
            finally:
                for task in tasks:
                    task.cancel()

    def _cut(self, ask: Ask, place: int, coadd: Coadd, part: int, parts: int) -> Member | None:
        backoff = self._client.backoff()
        where, parameters = self._service(coadd, backoff)
        circle = f"{ask.ra[place]:.10f} {ask.dec[place]:.10f} {ask.half / 3600:.10f}"
        words = {**parameters, "CIRCLE": circle}
        code, said = _NOTHING
        try:
            content = self._client.fetch("GET", where, backoff, _FITS, params=words)
        except Refused as refusal:
            if refusal.status != code and said not in str(refusal).lower():
                raise
            return None
        return Member(place, coadd.name, content, part=part, parts=parts)

    def _coadds(self, vectors: NDArray[np.float64], half: float, backoff: Backoff) -> list[Coadd]:
        """Coadds around the galaxies, which lie along the sky."""
        middle = vectors.mean(axis=0)
        middle /= max(float(np.linalg.norm(middle)), 1e-9)  # opposite each other
        reach = float(np.degrees(np.arccos(np.clip(vectors @ middle, -1, 1))).max())
        if reach > _WIDE and len(vectors) > 1:
            half_way = len(vectors) // 2
            found = {
                coadd.links: coadd
                for part in (vectors[:half_way], vectors[half_way:])
                for coadd in self._coadds(part, half, backoff)
            }
            return sorted(found.values(), key=_by_name)
        reach += half * np.sqrt(2) / 3600
        with self._lock:
            for (ra, dec, radius), coadds in self._fields.items():
                apart = np.degrees(np.arccos(np.clip(unit_vectors(ra, dec) @ middle, -1, 1)))
                if apart + reach <= radius:
                    return coadds
        ra = float(np.degrees(np.arctan2(middle[1], middle[0])) % 360)
        dec = float(np.degrees(np.arcsin(middle[2])))
        coadds = self._query(ra, dec, reach + _FIELD, backoff)
        with self._lock:
            self._fields[ra, dec, reach + _FIELD] = coadds
            while len(self._fields) > 8:
                self._fields.popitem(last=False)
        return coadds

    def _query(self, ra: float, dec: float, radius: float, backoff: Backoff) -> list[Coadd]:
        from pyvo.dal.exceptions import DALQueryError
        from pyvo.dal.tap import TAPResults

        adql = (
            "SELECT access_url, s_region, lsst_tract, lsst_patch FROM ivoa.ObsCore"
            f" WHERE obs_collection = '{self._collection}' AND dataproduct_type = 'image'"
            f" AND dataproduct_subtype = '{self._product}' AND lsst_band = '{self._band}'"
            f" AND INTERSECTS(CIRCLE('ICRS', {ra:.8f}, {dec:.8f}, {radius:.8f}), s_region) = 1"
        )
        form = {"REQUEST": "doQuery", "LANG": "ADQL", "FORMAT": "votable", "QUERY": adql}
        content = self._client.fetch("POST", f"{self._tap}/sync", backoff, _TABLE, data=form)
        band, collection = self._band, self._collection

        def images(table: Any) -> list[tuple[str, Region | None, str]]:
            rows = TAPResults(table)
            if rows.query_status == "OVERFLOW":  # a galaxy on one of the others would have none
                raise DALQueryError("there are more than the service tells at once")
            return [
                (str(row["access_url"]), parse_region(str(row["s_region"])),
                 f"{band}-{row['lsst_tract']}-{row['lsst_patch']}-{collection}")
                for row in rows
            ]  # fmt: skip

        found = self._understood(content, "the query for images", images)
        backoff.progress()
        base = f"{self._tap}/"
        coadds = [Coadd(name, urljoin(base, url), region) for url, region, name in found if region]
        return sorted(coadds, key=_by_name)

    def _service(self, coadd: Coadd, backoff: Backoff) -> tuple[str, dict[str, str]]:
        """Address and fixed parameters of a coadd's cutout service."""
        from pyvo.dal.adhoc import DatalinkResults, SodaQuery
        from pyvo.dal.exceptions import DALServiceError

        with self._lock:
            if coadd.links in self._services:
                return self._services[coadd.links]
        content = self._client.fetch("GET", coadd.links, backoff, _TABLE)

        def service(table: Any) -> tuple[str, dict[str, str]] | None:
            links = DatalinkResults(table, url=coadd.links)
            offered = {service.ID: service for service in links.iter_adhocservices()}
            name = next((name for name in _SERVICES if name in offered), None)
            try:
                resource = offered[name] if name else links.get_adhocservice_by_ivoid(_SODA)
            except DALServiceError:
                return None
            query = SodaQuery.from_resource(links, resource)
            words = {key: _text(value) for key, value in query.items() if _text(value)}
            return urljoin(coadd.links, query.queryurl), words

        found = self._understood(content, "the request for links", service)
        if found is None:
            raise InputError(f"{self._client.host} offers no cutouts of {coadd.name}")
        with self._lock:
            self._services[coadd.links] = found
            while len(self._services) > 1000:
                self._services.popitem(last=False)
        backoff.progress()
        return found

    def _understood(self, content: bytes, what: str, meaning: Callable[[Any], T]) -> T:
        """What a VOTable means; its own error, or what is wrong with it, without our secret."""
        from astropy.io.votable import parse
        from pyvo.dal.exceptions import DALQueryError

        failed = False
        try:
            return meaning(parse(io.BytesIO(content), verify="ignore"))
        except Exception as error:  # pyvo's, astropy's, an XML parser's
            failed = isinstance(error, DALQueryError)
            said = " ".join(self._client.without_secret(str(error)).split())[:200]
        host = self._client.host
        if failed:
            raise InputError(f"{host}: {what} failed: {said}")
        raise InputError(f"{host} answers with no table ({said}): check the address of the service")

    def backoff(self) -> Backoff:
        """A new count of failures."""
        return self._client.backoff()

    def enter(self) -> None:
        """Ask TAP for nothing: one row of a table that every service has."""
        form = {"REQUEST": "doQuery", "LANG": "ADQL", "MAXREC": "1"}
        form["QUERY"] = "SELECT TOP 1 table_name FROM tap_schema.tables"
        self._client.fetch("POST", f"{self._tap}/sync", self.backoff(), _TABLE, data=form)

    def inventory(self) -> str:
        """Address, collection, product, band."""
        return f"soda {self._tap} {self._collection} {self._product} {self._band}"

    def describe(self) -> str:
        """One line."""
        return f"{self._product} of {self._collection}, band {self._band}, cut out by {self._tap}"


def _by_name(coadd: Coadd) -> tuple[str, str]:
    """An order that is always the same, whatever that of the service's rows."""
    return coadd.name, coadd.links


def _covering(coadds: Sequence[Coadd], ra: float, dec: float, half: float) -> list[Coadd]:
    """The coadds that a box needs: the deepest that has its middle, others if it reaches beyond."""
    diagonal = half * np.sqrt(2) / 3600
    ranked = sorted(
        ((coadd.region.depth(ra, dec), coadd) for coadd in coadds),
        key=lambda pair: -pair[0],  # stable: the first by name of equals
    )
    if not ranked or ranked[0][0] <= 0:
        return []
    if ranked[0][0] >= diagonal:
        return [ranked[0][1]]
    return [coadd for depth, coadd in ranked if depth > -diagonal]


def _text(value: Any) -> str:
    """A parameter as it goes into an address; pyvo has bytes, arrays or texts."""
    value = value[0] if isinstance(value, list | tuple | np.ndarray) and len(value) else value
    return value.decode() if isinstance(value, bytes) else "" if value is None else str(value)
