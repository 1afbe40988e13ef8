"""Settings of a run: what they are, and which of several places has the last word.

From the last word to the first: command line, ``--config`` file, ``survey-gampen.toml`` beside the
catalogue, the catalogue's own Parquet metadata, the survey profile, the defaults below. An unknown
key is an error that names the nearest known one.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from survey_gampen import paths, tomlfile
from survey_gampen.addresses import is_address, join, parent, refuse_secrets, shown, stem
from survey_gampen.catalogmetadata import catalog_metadata
from survey_gampen.errors import InputError
from survey_gampen.survey import Survey, load_survey

#: File that may lie beside a catalogue on this machine.
BESIDE = "survey-gampen.toml"

PRECISIONS = ("auto", "int8", "bf16", "fp32")


@dataclass(frozen=True)
class Settings:
    """All options of ``survey-gampen run``, resolved.

    Paths are absolute; a shipped thing is its bare name; a URL stays as it is.

    Attributes
    ----------
    catalog : str
        Parquet file, folder of Parquet files, HATS catalogue, or a table; here or elsewhere.
    images : str
        Folder or glob of the survey's images.
    out : str
        Folder of this run's results.
    survey : str
        Survey profile: name or TOML file.
    band : str
        Band of the images that are measured; it labels every row. Empty where nobody has said it
        and a model is named, which may know: then the model says it, or the survey profile.
    channels : tuple of str
        Where the model sees several bands together: all of them in its order, `band` first.
    model : str
        Shipped model's name, or a safetensors file. Where none is given: the survey profile's for
        the band, else the default one.
    cluster : str
        Cluster profile: name or YAML file.
    passes : int
        Monte-Carlo passes, that is, draws a galaxy.
    seed : int
        Key of the dropout masks and of the draws, 0 <= seed < 2**63 (TOML's integers end there).
    precision : {"auto", "int8", "bf16", "fp32"}
        Arithmetic of the forward passes; auto takes the fastest that is accurate enough.
    partition_rows : int or None
        Most rows a partition should have. None: measured at planning.
    limit : int or None
        Only the first so many rows (after `select`).
    select : str or None
        Only the rows for which this expression over the catalogue's columns is true.
    columns : tuple of str
        Extra columns of the catalogue that are passed through to the output.
    keep_samples : bool
        Whether the joint draws are written as well.
    keep_cutouts : bool or None
        Whether cutouts stay once their posteriors are published. None: decided by their size.
    lossy : float
        0: cutouts are stored without loss; else the quantum of their pixels in units of the sky's
        standard deviation.
    plan_only : bool
        Whether to stop after the plan.
    """

    catalog: str
    images: str
    out: str
    survey: str = "hsc-wide"
    band: str = ""
    channels: tuple[str, ...] = ()
    model: str = "survey"
    cluster: str = "local"
    passes: int = 1000
    seed: int = 0
    precision: str = "auto"
    partition_rows: int | None = None
    limit: int | None = None
    select: str | None = None
    columns: tuple[str, ...] = ()
    keep_samples: bool = False
    keep_cutouts: bool | None = None
    lossy: float = 0.0
    plan_only: bool = False

    @property
    def image_bands(self) -> tuple[str, ...]:
        """Bands of the images of one galaxy, in the order of the model's channels."""
        return self.channels or (self.band,)

    def as_table(self) -> dict[str, Any]:
        """The settings as plain TOML values; :func:`from_table` makes the same settings of it."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        values["columns"] = list(self.columns)
        values["channels"] = list(self.channels) or None
        return {key: value for key, value in values.items() if value is not None}


#: Settings whose value is a place: relative to the file that names it.
_PLACES = ("catalog", "images", "out")
#: Images that are no place: the services of the survey's profile.
_SERVICES = ("das", "soda", "tree")
#: Settings whose value is a shipped thing's name, or a file.
_NAMES = ("survey", "model", "cluster")
#: Settings that say what is done once, not what a run is: only the command line has them.
_COMMAND_ONLY = ("catalog", "plan_only")
#: What comes of other settings: it stands in ``run.toml`` alone.
_RESOLVED = ("channels",)

#: What a value must be: its type, and what to call it in an error.
_TYPES: dict[str, tuple[type, str]] = {
    **dict.fromkeys((*_PLACES, *_NAMES, "band", "precision", "select"), (str, "a text")),
    **dict.fromkeys(("passes", "seed", "partition_rows", "limit"), (int, "a whole number")),
    **dict.fromkeys(("keep_samples", "keep_cutouts", "plan_only"), (bool, "true or false")),
    "columns": (list, 'a list of column names such as ["z", "mag_g"]'),
    "channels": (list, 'a list of bands such as ["g", "r"]'),
    "lossy": (float, "a number"),
}
_LOWEST = {"passes": 2, "seed": 0, "partition_rows": 1, "limit": 1}


def resolve(cli: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Settings of a run, from all the places that may hold them.

    Parameters
    ----------
    cli : Mapping
        Options given on the command line, by field name of :class:`Settings`; those not given are
        absent or None. ``catalog`` is always there.
    config : Path, optional
        TOML file of ``--config``.

    Returns
    -------
    Settings
        Complete and checked.

    Raises
    ------
    InputError
        For an unknown key, a value of a wrong type or out of range, a catalogue that is not there,
        or when no images or no band are given anywhere.
    """
    catalog = _absolute(str(cli["catalog"]), os.getcwd(), "command line: catalog")
    if not is_address(catalog) and not Path(catalog).exists():
        raise InputError(f"{catalog}: no such catalogue; give a file, or a folder of Parquet files")

    merged: dict[str, Any] = {"out": _default_out(catalog)}
    for where, base, raw in _layers(catalog, config, cli):
        merged.update(_layer(raw, where, base))
    if "images" not in merged:
        raise InputError(
            f'no images: give --images PATH, or write images = "PATH" in {BESIDE} beside the '
            "catalogue"
        )
    survey = load_survey(merged.get("survey", Settings.survey))
    bands = _bands(merged.get("band", ""), survey)
    if not bands and "model" not in merged:
        bands = (own_band(survey),)
    merged["band"], merged["channels"] = "".join(bands[:1]), bands if len(bands) > 1 else ()
    merged.setdefault("model", survey.models.get(merged["band"], Settings.model))
    return from_table(merged, "settings")


def from_table(table: Mapping[str, Any], where: str) -> Settings:
    """Settings from a complete table, such as the one in ``run.toml``.

    Raises
    ------
    InputError
        For an unknown or missing key, or a value of a wrong type or out of range.
    """
    tomlfile.check_keys(table, _TYPES, where)
    for key in _PLACES:
        if key not in table:
            raise InputError(f"{where}: key {key!r} is missing")
    return Settings(**{key: _checked(key, value, where) for key, value in table.items()})


def _layers(
    catalog: str, config: Path | None, cli: Mapping[str, Any]
) -> Iterator[tuple[str, str, Mapping[str, Any]]]:
    """Yield (what to call it, folder its paths are relative to, keys), weakest first."""
    remote = is_address(catalog)
    home = parent(catalog) if remote else os.path.dirname(catalog)
    text = catalog_metadata(catalog)
    if text is not None:
        where = f"metadata of {shown(catalog)}"
        yield where, home, _file_keys(tomlfile.parse(text, where), where)
    for path in (None if remote else Path(home, BESIDE), config):
        if path is not None and (path == config or path.is_file()):
            path = path.expanduser().absolute()
            yield str(path), str(path.parent), _file_keys(tomlfile.read(path), str(path))
    given = {key: value for key, value in cli.items() if value is not None}
    yield "command line", os.getcwd(), given | {"catalog": catalog}


def _default_out(catalog: str) -> str:
    """Beside the catalogue, or here where the catalogue lies elsewhere."""
    if is_address(catalog):
        return os.path.abspath(f"{stem(catalog)}.gampen")
    return str(Path(catalog).parent / f"{Path(catalog).stem}.gampen")


def _file_keys(raw: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Keys of a file, hyphens as on the command line allowed, checked."""
    table = {key.replace("-", "_"): value for key, value in raw.items()}
    tomlfile.check_keys(table, set(_TYPES) - {*_COMMAND_ONLY, *_RESOLVED}, where)
    return table


def _layer(raw: Mapping[str, Any], where: str, base: str) -> dict[str, Any]:
    """One layer, checked and with its paths made absolute."""
    values = {key: _checked(key, value, where) for key, value in raw.items()}
    for key in values.keys() & {*_PLACES, *_NAMES}:
        if key == "images" and (values[key] in _SERVICES or values[key].startswith("butler:")):
            continue
        if key in _PLACES or paths.is_path(values[key]):
            # Nobody writes results into somebody else's folder.
            home = os.getcwd() if key == "out" and is_address(base) else base
            values[key] = _absolute(values[key], home, f"{where}: {key}")
    return values


def _checked(key: str, value: Any, where: str) -> Any:
    """The value of a key, if it has the key's type and lies in its range."""
    value = _typed(key, value, where)
    if value == "" and key != "band":
        raise InputError(f"{where}: {key} is empty")
    if key in _LOWEST and value < _LOWEST[key]:
        raise InputError(f"{where}: {key} must be {_LOWEST[key]} or more, is {value}")
    if key in _LOWEST and value >= 2**63:
        raise InputError(f"{where}: {key} must be less than 2^63, is {value}")
    if key == "lossy" and not 0 <= value <= 1:
        raise InputError(f"{where}: lossy is in units of the sky noise, 0 (off) to 1, is {value}")
    if key == "precision" and value not in PRECISIONS:
        raise InputError(f"{where}: precision must be one of {', '.join(PRECISIONS)}, is {value!r}")
    return value


def _typed(key: str, value: Any, where: str) -> Any:
    wanted, called = _TYPES[key]
    if wanted is float and isinstance(value, int) and not isinstance(value, bool):
        value = float(value)
    if wanted is list and isinstance(value, tuple):
        value = list(value)
    # A bool is an int to Python, not to a reader.
    if not isinstance(value, wanted) or (isinstance(value, bool) and wanted is not bool):
        raise InputError(f"{where}: {key} must be {called}, is {value!r}")
    if isinstance(value, list):
        if not all(isinstance(word, str) and word for word in value):
            raise InputError(f"{where}: {key} must be {called}, is {value!r}")
        return tuple(dict.fromkeys(value))
    return value


def own_band(survey: Survey) -> str:
    """The band that a survey is measured in where none is asked for.

    Raises
    ------
    InputError
        If it has none.
    """
    if not survey.default_band:
        raise InputError(
            f"no band: survey {survey.name!r} has no band of its own; give --band, such as --band g"
        )
    return survey.default_band


def _bands(text: str, survey: Survey) -> tuple[str, ...]:
    """The band or bands asked for, none twice; must be such as the survey has."""
    bands = [band.strip() for band in text.split(",")] if text else []
    for band in bands:
        if survey.bands and band not in survey.bands:
            raise InputError(
                f"survey {survey.name!r} has no band {band!r}: choose one of"
                f" {', '.join(survey.bands)}"
            )
    if "" in bands or len(set(bands)) < len(bands):
        raise InputError(f"band {text!r}: give each band once, such as g,r,i")
    return tuple(bands)


def _absolute(text: str, base: str, what: str) -> str:
    """A place as it is known from everywhere; `base` is a folder or an address."""
    text = text.removeprefix("file://")
    if is_address(text):
        refuse_secrets(text, what)
        return text
    path = Path(text).expanduser()
    if is_address(base) and not path.is_absolute():
        return join(base, text)
    # abspath and not resolve: a link the user made is the name the user knows.
    return os.path.abspath(base / path)
