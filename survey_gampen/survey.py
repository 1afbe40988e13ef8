"""A survey profile: the facts about a survey that its files do not always tell.

Profiles are the TOML files of ``catalogs/``; a file of the user's own serves as well. Which pixels
are bad is a decision about the survey's pipeline, so it is made there, by name of mask plane.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from survey_gampen import cuts, paths, tomlfile
from survey_gampen.errors import InputError

#: The three things every catalogue must have, under whatever name.
ROLES = ("object_id", "ra", "dec")
LAYOUTS = ("tiles", "gampen")
#: What a run's results depend on, and so its fingerprint. Addresses, advice and sources may be
#: mended in a profile while a run goes on; which tiles there are, the images' inventory tells.
_RESULTS = (
    *("name", "columns", "bands", "default_band", "pixel_scale", "zero_point"),
    *("bad_planes", "no_data_planes", "saturated_planes", "bright_planes", "layout"),
    "cube_bands",
)
#: Keys of the tables about where images lie, and what each must be; none has to be there.
_SKYMAP: dict[str, type] = {
    **dict.fromkeys(("name", "projection", "tract_builder"), str),
    **dict.fromkeys(("rings", "version", "patch_border", "patch_inner"), int),
    **dict.fromkeys(("ra_start", "pixel_scale", "tract_overlap"), float),
}
_TREE: dict[str, type] = {**dict.fromkeys(("url", "rerun", "path", "patch"), str), "filters": dict}
_DAS: dict[str, type] = {**dict.fromkeys(("url", "rerun", "type"), str), "filters": dict}
_SODA: dict[str, type] = dict.fromkeys(
    ("tap", "sia", "datalink", "soda", "collection", "product"), str
)


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
    cube_bands : tuple of str
        Bands of the planes of an image cube whose header does not tell them.
    cuts : dict of str to str
        Quality cuts of the catalogue by name: expressions that ``--select`` takes as ``@name``;
        ``{band}`` in them stands for the run's band.
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
        HSC's cutout service: ``url``, ``rerun``, ``filters`` (band to filter name), ``type`` of
        image ("coadd" where there is none).
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
    cube_bands: tuple[str, ...] = ()
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
        # A profile without cubes has the fingerprint that it had before there was such a key.
        plain["cube_bands"] = plain["cube_bands"] or None
        return {k: v for k, v in plain.items() if v is not None and v != {}}

    def for_results(self) -> dict[str, Any]:
        """The part of :meth:`as_table` that results depend on: what a fingerprint is made of."""
        return {key: value for key, value in self.as_table().items() if key in _RESULTS}

    def cuts_in(self, band: str) -> dict[str, str]:
        """The named cuts as they are for one band."""
        return {name: text.replace("{band}", band) for name, text in self.cuts.items()}


def known() -> dict[str, Path]:
    """All profiles that have a name: the user's own go before the shipped ones."""
    shipped = {
        n: paths.data_file("catalogs", f"{n}.toml") for n in paths.names("catalogs", ".toml")
    }
    own = {path.stem: path for path in sorted(paths.own_dir("catalogs").glob("*.toml"))}
    return dict(sorted((shipped | own).items()))


def find(name_or_path: str | Path) -> Path:
    """The file of a profile.

    Raises
    ------
    InputError
        If no profile has that name; those that there are are named.
    """
    spec = str(name_or_path)
    if paths.is_path(spec):
        return Path(spec).expanduser()
    named = known()
    if spec not in named:
        near = tomlfile.near(spec, named)
        hint = f"did you mean {near!r}? There are" if near else "there are"
        raise InputError(
            f"no survey profile {spec!r}; {hint} {', '.join(named)}; or give the path of a TOML"
            " file of your own"
        )
    return named[spec]


def load_survey(name_or_path: str | Path) -> Survey:
    """Load a profile by name, or one from a TOML file.

    Raises
    ------
    InputError
        If there is no such profile, or for an unknown key or a value of a wrong type.
    """
    path = find(name_or_path)
    survey = parse_survey(tomlfile.read(path), str(path))
    beside = path.absolute().parent  # a model's file is named as seen from the profile
    models = {
        band: str(beside / Path(model).expanduser()) if paths.is_path(model) else model
        for band, model in survey.models.items()
    }
    return replace(survey, models=models)


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
        name=tomlfile.text(raw, "name", where),
        columns={role: tomlfile.text(columns, role, f"{where} [columns]") for role in ROLES},
        bands=tomlfile.words(raw, "bands", where),
        default_band=tomlfile.text(raw, "default_band", where, default=""),
        pixel_scale=tomlfile.number(raw, "pixel_scale", where, low=0.0),
        zero_point=tomlfile.number(raw, "zero_point", where),
        bad_planes=tomlfile.words(raw, "bad_planes", where),
        no_data_planes=tomlfile.words(raw, "no_data_planes", where),
        saturated_planes=tomlfile.words(raw, "saturated_planes", where),
        bright_planes=tomlfile.words(raw, "bright_planes", where),
        cube_bands=tomlfile.words(raw, "cube_bands", where),
        layout=tomlfile.text(raw, "layout", where, default="tiles"),
        cuts=tomlfile.texts(raw, "cuts", where),
        models=tomlfile.texts(raw, "models", where),
        skymap=tomlfile.typed(raw, "skymap", where, _SKYMAP),
        tree=tomlfile.typed(raw, "tree", where, _TREE),
        das=tomlfile.typed(raw, "das", where, _DAS),
        soda=tomlfile.typed(raw, "soda", where, _SODA),
        references=tomlfile.texts(raw, "references", where),
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
    for name, text in survey.cuts_in("g").items():
        if not name.isidentifier():
            raise InputError(
                f"{where} [cuts]: {name!r} must be a word of letters, digits and _ to be used as"
                " @word in --select"
            )
        cuts.written_out(text, survey.cuts_in("g"), f"{where} [cuts] {name}", (name,))
