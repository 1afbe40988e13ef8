"""Values as a cluster profile writes them, read with one clear line where they are no good.

What is ``auto`` or missing comes as None. Single values raise ValueError (or TypeError) that names
the key; a file or a list of changes as a whole raises InputError.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import yaml
from dask.utils import parse_bytes

from survey_gampen.errors import InputError


def read(path: Path) -> dict[str, Any]:
    """Return keys and values of a profile's file."""
    try:
        given = yaml.load(path.read_bytes(), _Loader)
    except (OSError, UnicodeError, yaml.YAMLError) as error:
        raise InputError(f"{path} is no readable YAML: {' '.join(str(error).split())}") from None
    if not isinstance(given, dict):
        raise InputError(f"{path} is no cluster profile: it must be keys and values")
    return given


def changes(text: str) -> dict[str, Any]:
    """Return keys that were set beside a profile's name."""
    found = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError(f"--cluster: {pair!r} sets no key: write NAME:key=value,key=value")
        if not value.strip():
            raise InputError(f"--cluster: {key.strip()} is empty: write auto, or leave it out")
        try:
            found[key.strip()] = yaml.load(value, _Loader)
        except yaml.YAMLError:
            raise InputError(
                f"--cluster: {value!r} is no value of {key}: lists and the like go into a profile"
            ) from None
    return found


class _Loader(yaml.SafeLoader):
    """YAML in which 12:00:00 is a text: YAML 1.1 has it as a number to the base of sixty."""

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, regexp) for tag, regexp in resolvers if not tag.endswith((":int", ":float"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:int", re.compile(r"[-+]?[0-9]+$"), list("-+0123456789")
)


def number(given: Mapping[str, Any], key: str, least: int, most: int | None = None) -> int | None:
    """Return a whole number of the profile, None where it is left to us."""
    value = given.get(key, "auto")
    if value in ("auto", None):
        return None
    whole = isinstance(value, int) and not isinstance(value, bool)
    if not whole or value < least or (most is not None and value > most):
        span = f"of at least {least}" if most is None else f"from {least} to {most}"
        raise ValueError(f"{key} must be a whole number {span}, or auto, and is {value!r}")
    return int(value)


def size(given: Mapping[str, Any], key: str) -> int | None:
    """Return a number of bytes, written with its unit."""
    value = given.get(key, "auto")
    if value in ("auto", None):
        return None
    # A bare 32 would be 32 bytes, which nobody means.
    if not re.fullmatch(r"\s*(0|\d+(\.\d+)?\s*[kKMGTP]i?B?)\s*", str(value)):
        raise ValueError(f'{key} must be a number and its unit, such as "16 GiB", and is {value!r}')
    return int(parse_bytes(str(value)))


def text(given: Mapping[str, Any], key: str) -> str | None:
    """Return a text."""
    value = given.get(key, "auto")
    if value in ("auto", None):
        return None
    if not str(value).strip():
        raise ValueError(f"{key} is empty: write auto, or leave it out")
    return str(value)


def lines(given: Mapping[str, Any], key: str) -> tuple[str, ...]:
    """Return texts, of which one may stand alone."""
    value = given.get(key) or ()
    found = (value,) if isinstance(value, str) else tuple(value)
    if not all(isinstance(line, str) for line in found):
        raise ValueError(f"{key} must be a list of texts")
    return found


def yes(given: Mapping[str, Any], key: str, default: bool) -> bool:
    """Return true or false."""
    value = given.get(key, default)
    if not isinstance(value, bool):
        raise ValueError(f"{key} must be true or false")
    return value


def seconds(value: Any, key: str) -> int | None:
    """Seconds of a time as batch systems write it: [D-]HH:MM[:SS]."""
    if value in ("auto", None):
        return None
    match = re.fullmatch(r"(?:(\d+)-)?(\d+):([0-5]\d)(?::([0-5]\d))?", str(value).strip())
    if match is None:
        raise ValueError(f"{key} must be HH:MM:SS, or D-HH:MM:SS, and is {value!r}")
    days, hours, minutes, rest = (int(part or 0) for part in match.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
