"""From what the user wrote after ``--images`` to a service that cuts out."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlunsplit

from survey_gampen.credentials import how_to, login, plain_url, token
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.images.services.collect import Service
from survey_gampen.images.services.das import KINDS, Das
from survey_gampen.images.services.http import Client, Manners
from survey_gampen.images.services.soda import Soda
from survey_gampen.images.services.source import ServiceSource
from survey_gampen.net.slots import Slots
from survey_gampen.survey import Survey

#: Words before the ``+`` of an address, and the service they mean.
_WORDS = {"das": "das", "soda": "soda", "datalink": "soda"}
#: What goes into a list or a query: it must not end its column, its line or its quotes.
_NAME = re.compile(r"[A-Za-z0-9_.+/-]+")


def is_service(spec: object) -> bool:
    """Whether ``--images`` means a service: ``das``, ``soda``, or one of them with an address."""
    return isinstance(spec, str) and (
        spec in ("das", "soda") or (spec.partition("+")[0] in _WORDS and "+http" in spec)
    )


def open_service(
    spec: str,
    survey: Survey,
    band: str | None,
    pixel_scale: float | None,
    cache: Path | None,
    *,
    variance: bool = False,
    frozen: bool = False,
    manners: Manners | None = None,
) -> ServiceSource:
    """Open a service.

    Parameters
    ----------
    spec : str
        ``das``, ``soda``: address and release of the profile's [das] or [soda]. Or with them:
        ``das+https://HOST/PATH?rerun=NAME`` (``&type=coadd/bg`` for the global sky subtraction),
        ``soda+https://HOST/PATH/tap?collection=NAME`` (``&product=NAME``).
    survey, band, pixel_scale, variance
        See :class:`ServiceSource`.
    cache : Path or None
        The run's folder of what can be made again.
    frozen : bool
        On a worker: the service is not knocked at first.
    manners : Manners, optional

    Raises
    ------
    InputError
        Address, release, band, password or token are missing or wrong; a package is missing.
    OutsideFault
        The service does not answer; or, on a worker, one of the above.
    """
    manners = manners or Manners()
    try:
        name = _WORDS[spec.partition("+")[0]]
        folder = cache / name if cache else None
        slots = Slots(folder / "slots" if folder else None, manners.connections)
        make = {"das": _das, "soda": _soda}[name]
        service = make(spec, survey, band, variance, manners, slots)
        source = ServiceSource(
            service, survey, band, pixel_scale, folder, variance=variance, frozen=frozen
        )
    except InputError as error:
        if not frozen:
            raise
        said = str(error)
    else:
        if not frozen:
            service.enter()
        return source
    raise OutsideFault(f"on this worker: {said}")  # at planning there was no such trouble


def _das(
    spec: str, survey: Survey, band: str | None, variance: bool, manners: Manners, slots: Slots
) -> Service:
    url, words = _address(spec, "das", "url", survey.das, ("rerun", "type"))
    url = url.removesuffix("/cgi-bin/cutout")
    rerun = _named(words, "rerun", url)
    kind = words.get("type", "coadd")
    if kind not in KINDS:
        raise InputError(f"{url}: type must be one of {', '.join(KINDS)}, is {kind!r}")
    label = _need_band(band)
    filter_name = str(survey.das.get("filters", {}).get(label) or f"HSC-{label.upper()}")
    if not _NAME.fullmatch(filter_name):
        raise InputError(f"{filter_name!r} is no filter of a cutout service")
    secret = login("hsc", url)
    if secret is None:
        raise InputError(f"{url}: name and password are missing: {how_to('hsc')}")
    client = Client("hsc", url, secret, manners, slots)
    return Das(client, url, rerun, filter_name, kind, survey.pixel_scale or 0.1, variance)


def _soda(
    spec: str, survey: Survey, band: str | None, variance: bool, manners: Manners, slots: Slots
) -> Service:
    try:
        import pyvo  # noqa: F401
    except ImportError:
        raise InputError(
            "images from the Virtual Observatory need pyvo: pip install 'survey-gampen[remote]'"
        ) from None
    tap, words = _address(spec, "soda", "tap", survey.soda, ("collection", "product"))
    tap = tap.removesuffix("/sync")
    collection = _named(words, "collection", tap)
    product = _named({"product": "lsst.deep_coadd", **words}, "product", tap)
    label = _need_band(band)
    secret = token("rubin", tap)
    if secret is None:
        raise InputError(f"{tap}: a token is missing: {how_to('rubin', 'token')}")
    return Soda(Client("rubin", tap, secret, manners, slots), tap, collection, product, label)


def _address(
    spec: str, word: str, key: str, profile: Mapping[str, Any], known: tuple[str, ...]
) -> tuple[str, dict[str, str]]:
    """The address, and what is known of the release: of the profile, and after the ``?``."""
    url = str(profile.get(key, ""))
    words = {name: str(profile[name]) for name in known if name in profile}
    if spec != word:
        parts = plain_url(spec.partition("+")[2])
        url = urlunsplit((parts.scheme, parts.netloc, parts.path, "", ""))
        asked = dict(parse_qsl(parts.query))
        for name in asked:
            if name not in known:
                raise InputError(f"{url}: unknown word {name!r} after the ?, use {known}")
        words |= asked
    if plain_url(url).scheme not in ("http", "https"):
        raise InputError(
            f"--images {word} needs {key} in [{word}] of the survey profile; or write"
            f" {word}+https://HOST/PATH?{known[0]}=NAME"
        )
    return url.rstrip("/"), words


def _named(words: Mapping[str, str], key: str, url: str) -> str:
    if not _NAME.fullmatch(words.get(key, "")):
        raise InputError(f"{url}: say which {key}: {url}?{key}=NAME, or {key} in the profile")
    return words[key]


def _need_band(band: str | None) -> str:
    if not band or not band.isalnum():
        raise InputError("a cutout service needs a band: give --band")
    return band
