"""Reading TOML that people write by hand: every mistake is named in one line.

Settings and survey profiles share the same rule: an unknown key is an error that names the
nearest known one, never something silently ignored.
"""

from __future__ import annotations

import difflib
import math
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from survey_gampen.errors import InputError


def parse(text: str, where: str) -> dict[str, Any]:
    """Parse TOML text.

    Parameters
    ----------
    text : str
        The TOML document.
    where : str
        What to call it in an error: a path, or a place inside another file.

    Raises
    ------
    InputError
        If it is not TOML; carries the parser's line and column.
    """
    try:
        return tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{where}: not valid TOML: {error}") from error


def read(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises
    ------
    InputError
        If it cannot be read or is not TOML.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise InputError(f"{path}: cannot be read: {reason}") from error
    return parse(text, str(path))


def shipped_or_own(
    name_or_path: str | Path, folder: Path, what: str
) -> tuple[dict[str, Any], Path]:
    """Read a shipped TOML file by its name, or a file of the user's own.

    Parameters
    ----------
    name_or_path : str or Path
        Name, without suffix, of a file in `folder`, or any path.
    folder : Path
        Where the shipped ones are.
    what : str
        What such a file holds, for the error.

    Returns
    -------
    dict, Path
        The document, and where it was found.

    Raises
    ------
    InputError
        If there is neither; names the shipped ones. Else as :func:`read`.
    """
    shipped = folder / f"{name_or_path}.toml"
    path = shipped if shipped.is_file() else Path(name_or_path)
    if not path.exists():
        known = ", ".join(sorted(p.stem for p in folder.glob("*.toml")))
        raise InputError(f"no {what} {str(name_or_path)!r}: give a TOML file or one of {known}")
    return read(path), path


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word most like `word` (there must be at least one)."""
    return difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.0)[0]


def near(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that `word` is a slip of; None where it is like none of them."""
    found = difflib.get_close_matches(word.lower(), sorted(known), n=1, cutoff=0.5)
    return found[0] if found else None


def check_like(table: Mapping[str, Any], model: Mapping[str, Any], where: str) -> None:
    """Refuse a table whose keys or kinds of values are not those of a model table.

    Raises
    ------
    InputError
        For an unknown key, naming the nearest known one, for missing ones, and for a value of
        another type (a whole number may stand for a number) or length; in tables within it too.
    """
    check_keys(table, model, where)
    if lacking := [key for key in model if key not in table]:
        raise InputError(f"{where}: lacks {', '.join(lacking)}; copy the shipped file's line")
    for key, wanted in model.items():
        value = table[key]
        if not _alike(value, wanted):
            raise InputError(f"{where}: {key} must be like {wanted!r}, is {value!r}")
        if isinstance(wanted, Mapping):
            check_like(value, wanted, f"{where} [{key}]")


def _alike(value: Any, wanted: Any) -> bool:
    """Whether a value is of the kind, and a list of the length, of another."""
    if type(value) is list and type(wanted) is list:
        same_length = len(value) == len(wanted)
        return same_length and all(map(_alike, value, wanted))
    return type(value) in ((float, int) if isinstance(wanted, float) else (type(wanted),))


def check_keys(keys: Iterable[str], known: Iterable[str], where: str) -> None:
    """Refuse keys that are not known.

    Raises
    ------
    InputError
        For the first unknown key; names the nearest known one.
    """
    known = set(known)
    for key in keys:
        if key not in known:
            raise InputError(f"{where}: unknown key {key!r}; did you mean {nearest(key, known)!r}?")


def text(raw: Mapping[str, Any], key: str, where: str, default: str | None = None) -> str:
    """The text under a key; without a default it must be there, and not empty.

    Raises
    ------
    InputError
        If it is something else.
    """
    value = raw.get(key, default)
    if not isinstance(value, str) or (default is None and not value):
        raise InputError(f"{where}: {key} must be a text, is {value!r}")
    return value


def words(raw: Mapping[str, Any], key: str, where: str) -> tuple[str, ...]:
    """The list of texts under a key; empty where there is none.

    Raises
    ------
    InputError
        If it is something else.
    """
    value = raw.get(key, [])
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise InputError(f'{where}: {key} must be a list of texts such as ["a", "b"], is {value!r}')
    return tuple(value)


def number(raw: Mapping[str, Any], key: str, where: str, low: float = -math.inf) -> float | None:
    """The finite number above `low` under a key; None where there is none.

    Raises
    ------
    InputError
        If it is something else.
    """
    value = raw.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise InputError(f"{where}: {key} must be a number, is {value!r}")
    if value <= low:
        raise InputError(f"{where}: {key} must be above {low:g}, is {value!r}")
    return float(value)


def texts(raw: Mapping[str, Any], key: str, where: str) -> dict[str, str]:
    """The table of texts, under names of the author's own choice; empty where there is none.

    Raises
    ------
    InputError
        If it is something else.
    """
    table = _table(raw, key, where)
    return {name: text(table, name, f"{where} [{key}]") for name in table}


def typed(
    raw: Mapping[str, Any], key: str, where: str, kinds: Mapping[str, type]
) -> dict[str, Any]:
    """The table of known keys, each of its type; empty where there is none.

    Parameters
    ----------
    raw, key, where
        The table that has it, its key, what to call it in an error.
    kinds : mapping
        Key to str (not empty), int or float (not negative), or dict (of texts).

    Raises
    ------
    InputError
        For an unknown key, naming the nearest known one, or a value of another type.
    """
    table = _table(raw, key, where)
    where = f"{where} [{key}]"
    check_keys(table, kinds, where)
    checked: dict[str, Any] = {}
    for name, value in table.items():
        kind = kinds[name]
        if kind is str:
            checked[name] = text(table, name, where)
        elif kind is dict:
            checked[name] = texts(table, name, where)
        else:
            checked[name] = number(table, name, where)
            if kind is int and type(value) is not int:
                raise InputError(f"{where}: {name} must be a whole number, is {value!r}")
            if value < 0:
                raise InputError(f"{where}: {name} must not be negative, is {value!r}")
            checked[name] = kind(value)
    return checked


def _table(raw: Mapping[str, Any], key: str, where: str) -> Mapping[str, Any]:
    table = raw.get(key, {})
    if not isinstance(table, Mapping):
        raise InputError(f"{where}: {key} must be a table [{key}], is {table!r}")
    return table
