"""A survey profile: the facts about a survey that its files do not always tell.

Profiles are the TOML files of ``catalogs/``; a file of the user's own serves as well. Which pixels
are bad is a decision about the survey's pipeline, so it is made there, by name of mask plane.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from survey_gampen import paths, tomlfile
from survey_gampen.errors import InputError

#: The three things every catalogue must have, under whatever name.
ROLES = ("object_id", "ra", "dec")
LAYOUTS = ("tiles", "gampen")


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

    def as_table(self) -> dict[str, Any]:
        """The profile as plain TOML values; :func:`parse_survey` makes the same profile of it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        plain = {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}
        return {k: v for k, v in plain.items() if v is not None}


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
    return survey


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
