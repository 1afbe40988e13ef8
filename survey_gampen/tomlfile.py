"""Reading TOML that people write by hand: every mistake is named in one line.

Settings and survey profiles share the same rule: an unknown key is an error that names the
nearest known one, never something silently ignored.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Iterable
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


def nearest(word: str, known: Iterable[str]) -> str:
    """Return the known word most like `word` (there must be at least one)."""
    return difflib.get_close_matches(word, sorted(known), n=1, cutoff=0.0)[0]


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
