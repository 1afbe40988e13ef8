"""A survey profile: the facts about a survey that its files do not always tell.

Profiles are the TOML files of ``catalogs/``; a file of the user's own serves as well. Which pixels
are bad is a decision about the survey's pipeline, so it is made there, by name of mask plane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from survey_gampen import paths, tomlfile
from survey_gampen.errors import InputError

#: The three things every catalogue must have, under whatever name.
ROLES = ("object_id", "ra", "dec")
LAYOUTS = ("tiles", "gampen")
#: What a run's results depend on, and so its fingerprint. Addresses, advice and sources may be
#: mended in a profile while a run goes on; which tiles there are, the images' inventory tells.
_RESULTS = (
    *("name", "columns", "bands", "default_band", "pixel_scale", "zero_point"),
    *("bad_planes", "no_data_planes", "saturated_planes", "bright_planes", "layout"),
)
#: Keys of the tables about where images lie, and what each must be; none has to be there.
_SKYMAP: dict[str, type] = {
    **dict.fromkeys(("name", "projection", "tract_builder"), str),
    **dict.fromkeys(("rings", "version", "patch_border", "patch_inner"), int),
    **dict.fromkeys(("ra_start", "pixel_scale", "tract_overlap"), float),
}
_TREE: dict[str, type] = {**dict.fromkeys(("url", "rerun", "path", "patch"), str), "filters": dict}
_DAS: dict[str, type] = {"url": str, "rerun": str, "filters": dict}
_SODA: dict[str, type] = dict.fromkeys(
    ("tap", "sia", "datalink", "soda", "collection", "product"), str
)
_CALLED = {str: "a text", int: "a whole number"}


@dataclass(frozen=True)
class Survey:
    """What is known about a survey.

    Attributes
    ----------
    name : str
        Short name.
    columns : dict of str to str
        The catalogue's names for ``object_id``, ``ra`` and ``dec`` (degrees, ICRS).
    bands : tuple of str
        Bands of the survey; empty if any name will do.
    default_band : str
        Band used when none is asked for; empty if it has to be said.
    pixel_scale : float or None
        Arcsec; used for images without a celestial WCS. None: not known, then the WCS must tell.
    zero_point : float or None
        AB magnitude of one image unit, used for images whose header holds none. None: not known,
        then the header must tell.
    bad_planes : tuple of str
        Mask planes (without the prefix ``MP_``) whose pixels hold no usable value: replaced.
    no_data_planes : tuple of str
        Mask planes of pixels that were never observed.
    saturated_planes : tuple of str
        Mask planes of saturated pixels: kept, and flagged when near the centre.
    bright_planes : tuple of str
        Mask planes of the surroundings of bright stars: kept, and flagged.
    layout : {"tiles", "gampen"}
        How the images lie: coadd tiles, or GaMPEN's one FITS file a galaxy.
    cuts : dict of str to str
        Quality cuts of the catalogue by name: expressions that ``--select`` takes as ``@name``.
    models : dict of str to str
        The model for a band, name or file, where none is asked for.
    skymap : dict
        How the sky is cut into tracts and patches (LSST's "rings"): ``name``, ``rings``,
        ``ra_start`` [deg], ``projection``, ``pixel_scale`` [arcsec], ``tract_overlap`` [deg],
        ``patch_inner`` and ``patch_border`` [px], ``tract_builder`` ("legacy" or "cells"),
        ``version`` of the numbering of tracts. Empty: not known.
    tree : dict
        The tree of coadd files: ``url`` of its top, ``rerun``, ``path`` of a file below it with
        ``{rerun}``, ``{band}``, ``{tract}``, ``{patch}``; ``filters`` (band to what stands for
        ``{band}``), ``patch`` ("x,y", or "number" = x + y * patches along x).
    das : dict
        HSC's cutout service: ``url``, ``rerun``, ``filters`` (band to filter name).
    soda : dict
        Cutouts by the Virtual Observatory's protocols: addresses of ``tap``, ``sia``, ``datalink``
        and ``soda``, the ``collection`` and the data ``product`` asked for.
    references : dict of str to str
        Where the profile's facts come from.
    """

    name: str
    columns: dict[str, str]
    bands: tuple[str, ...] = ()
    default_band: str = ""
    pixel_scale: float | None = None
    zero_point: float | None = None
    bad_planes: tuple[str, ...] = ()
    no_data_planes: tuple[str, ...] = ()
    saturated_planes: tuple[str, ...] = ()
    bright_planes: tuple[str, ...] = ()
    layout: str = "tiles"
    cuts: dict[str, str] = field(default_factory=dict)
    models: dict[str, str] = field(default_factory=dict)
    skymap: dict[str, Any] = field(default_factory=dict)
    tree: dict[str, Any] = field(default_factory=dict)
    das: dict[str, Any] = field(default_factory=dict)
    soda: dict[str, Any] = field(default_factory=dict)
    references: dict[str, str] = field(default_factory=dict)

    def as_table(self) -> dict[str, Any]:
        """The profile as plain TOML values; :func:`parse_survey` makes the same profile of it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return {k: v for k, v in plain.items() if v is not None and v != {}}

    def for_results(self) -> dict[str, Any]:
        """The part of :meth:`as_table` that results depend on: what a fingerprint is made of."""
        return {key: value for key, value in self.as_table().items() if key in _RESULTS}


def load_survey(name_or_path: str | Path) -> Survey:
    """Load a shipped profile by name, or one from a TOML file.

    Raises
    ------
    InputError
        If there is no such profile, or for an unknown key or a value of a wrong type.
    """
    spec = str(name_or_path)
    if paths.is_path(spec):
        path = Path(spec).expanduser()
    else:
        path = paths.data_file("catalogs", f"{spec}.toml")
    return parse_survey(tomlfile.read(path), str(path))


def parse_survey(raw: Mapping[str, Any], where: str) -> Survey:
    """Build a profile from the content of a TOML document.

    Parameters
    ----------
    raw : Mapping
        The document.
    where : str
        What to call it in an error.

    Raises
    ------
    InputError
        For an unknown or missing key or a value of a wrong type.
    """
    tomlfile.check_keys(raw, [f.name for f in fields(Survey)], where)
    columns = raw.get("columns")
    if not isinstance(columns, Mapping):
        raise InputError(f"{where}: needs a table [columns] with {', '.join(ROLES)}")
    tomlfile.check_keys(columns, ROLES, f"{where} [columns]")
    survey = Survey(
        name=_text(raw, "name", where),
        columns={role: _text(columns, role, f"{where} [columns]") for role in ROLES},
        bands=_words(raw, "bands", where),
        default_band=_text(raw, "default_band", where, default=""),
        pixel_scale=_number(raw, "pixel_scale", where, low=0.0),
        zero_point=_number(raw, "zero_point", where),
        bad_planes=_words(raw, "bad_planes", where),
        no_data_planes=_words(raw, "no_data_planes", where),
        saturated_planes=_words(raw, "saturated_planes", where),
        bright_planes=_words(raw, "bright_planes", where),
        layout=_text(raw, "layout", where, default="tiles"),
        cuts=_texts(raw, "cuts", where),
        models=_texts(raw, "models", where),
        skymap=_table(raw, "skymap", where, _SKYMAP),
        tree=_table(raw, "tree", where, _TREE),
        das=_table(raw, "das", where, _DAS),
        soda=_table(raw, "soda", where, _SODA),
        references=_texts(raw, "references", where),
    )
    if survey.layout not in LAYOUTS:
        raise InputError(
            f"{where}: layout is {survey.layout!r}, must be one of {', '.join(LAYOUTS)}"
        )
    if survey.bands and survey.default_band and survey.default_band not in survey.bands:
        raise InputError(
            f"{where}: default_band {survey.default_band!r} is not among bands "
            f"{', '.join(survey.bands)}"
        )
    _check_meaning(survey, where)
    return survey


def _check_meaning(survey: Survey, where: str) -> None:
    """Refuse what has the right type and can't be meant."""
    tables = {"models": survey.models}
    tables |= {f"{k} filters": getattr(survey, k).get("filters", {}) for k in ("tree", "das")}
    for table, by_band in tables.items():
        if survey.bands:
            tomlfile.check_keys(by_band, survey.bands, f"{where} [{table}]")
    for table, key, choices in (
        ("skymap", "projection", ("TAN",)),
        ("skymap", "tract_builder", ("legacy", "cells")),
        ("skymap", "version", (0, 1)),
        ("tree", "patch", ("x,y", "number")),
    ):
        value = getattr(survey, table).get(key, choices[0])
        if value not in choices:
            known = ", ".join(str(choice) for choice in choices)
            raise InputError(f"{where} [{table}]: {key} is {value!r}, must be one of {known}")
    for name in survey.cuts:
        if not name.isidentifier():
            raise InputError(
                f"{where} [cuts]: {name!r} must be a word of letters, digits and _ to be used as"
                " @word in --select"
            )


def _text(raw: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    value = raw.get(key, default)
    if not isinstance(value, str) or (default is None and not value):
        raise InputError(f"{where}: {key} must be a text, is {value!r}")
    return value


def _words(raw: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    value = raw.get(key, [])
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise InputError(f'{where}: {key} must be a list of texts such as ["a", "b"], is {value!r}')
    return tuple(value)


def _number(raw: Mapping[str, Any], key: str, where: str, low: float = -math.inf) -> float | None:
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: {key} must be a number, is {value!r}")
    if value <= low:
        raise InputError(f"{where}: {key} must be above {low:g}, is {value!r}")
    return float(value)


def _texts(raw: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    """A table of texts under names of the author's own choice."""
    table = raw.get(key, {})
    if not isinstance(table, Mapping):
        raise InputError(f"{where}: {key} must be a table [{key}], is {table!r}")
    return {name: _text(table, name, f"{where} [{key}]") for name in table}


def _table(
    raw: Mapping[str, Any], key: str, where: str, kinds: Mapping[str, type]
) -> dict[str, Any]:
    """A table that holds only the keys of `kinds`, each of its type; numbers are not negative."""
    table = raw.get(key, {})
    if not isinstance(table, Mapping):
        raise InputError(f"{where}: {key} must be a table [{key}], is {table!r}")
    where = f"{where} [{key}]"
    tomlfile.check_keys(table, kinds, where)
    checked: dict[str, Any] = {}
    for name, value in table.items():
        kind = kinds[name]
        if kind is dict:
            checked[name] = _texts(table, name, where)
        elif kind is float:
            checked[name] = _number(table, name, where)
        elif type(value) is not kind or value == "":
            raise InputError(f"{where}: {name} must be {_CALLED[kind]}, is {value!r}")
        else:
            checked[name] = value
        if kind in (int, float) and checked[name] < 0:
            raise InputError(f"{where}: {name} must not be negative, is {value!r}")
    return checked
