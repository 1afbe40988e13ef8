"""Where the shipped data files lie: cluster profiles, survey profiles, demo catalogue.

``cluster/`` and ``catalogs/`` hold data and no code, so they stand at the top level of the
repository. A wheel carries them inside the package (see ``[tool.hatch.build.targets.wheel]`` in
pyproject.toml). Nothing but this file knows the difference.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from survey_gampen.errors import InputError

Kind = Literal["cluster", "catalogs"]

_PACKAGE = Path(__file__).resolve().parent
_FILE_SUFFIXES = {".toml", ".yaml", ".yml", ".safetensors"}


def data_dir(kind: Kind) -> Path:
    """Directory of the shipped files of one kind.

    Parameters
    ----------
    kind : {"cluster", "catalogs"}
        Cluster profiles, or survey profiles and the demo catalogue.

    Returns
    -------
    Path
        ``survey_gampen/_data/<kind>`` in an installed wheel, ``<kind>`` beside the package in a
        checkout.
    """
    installed = _PACKAGE / "_data" / kind
    return installed if installed.is_dir() else _PACKAGE.parent / kind


def data_file(kind: Kind, name: str) -> Path:
    """Path of one shipped file.

    Parameters
    ----------
    kind : {"cluster", "catalogs"}
        Which of the two folders.
    name : str
        File name with its suffix, such as ``"hsc-wide.toml"``.

    Raises
    ------
    InputError
        If there is no such file; the message names those there are.
    """
    path = data_dir(kind) / name
    if Path(name).name != name or not path.is_file():
        known = ", ".join(names(kind, Path(name).suffix)) or "none"
        raise InputError(
            f"no {Path(name).stem!r} among the shipped files of {kind}/: choose one of {known}, "
            "or give the path of a file of your own"
        )
    return path


def own_dir(kind: Kind) -> Path:
    """Directory of the user's own files of one kind; files there have a name as shipped ones do."""
    home = os.environ.get("XDG_CONFIG_HOME") or "~/.config"
    return Path(home).expanduser() / "survey-gampen" / kind


def names(kind: Kind, suffix: str) -> list[str]:
    """Names, without the suffix, of the shipped files of one kind, in alphabetical order."""
    return sorted(path.stem for path in data_dir(kind).glob(f"*{suffix}"))


def is_path(spec: str) -> bool:
    """Whether `spec` means a file of the user's own and not the name of a shipped one.

    A shipped name is one bare word: what has a directory, a ``~`` or a suffix of ours is a path.
    """
    return "/" in spec or spec.startswith("~") or Path(spec).suffix in _FILE_SUFFIXES
