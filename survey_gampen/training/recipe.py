"""Recipes: how a network is trained, as TOML with a comment at every key."""

from __future__ import annotations

import math
import tomllib
from pathlib import Path
from typing import Any

from survey_gampen.errors import InputError
from survey_gampen.tomlfile import check_keys

_RECIPES = Path(__file__).parent / "recipes"


def load_recipe(name_or_path: str, **changes: Any) -> dict[str, Any]:
    """A recipe with single values changed.

    Raises
    ------
    InputError
        If it is missing, no TOML, or has a key that the shipped recipes do not have.
    """
    shipped = _RECIPES / f"{name_or_path}.toml"
    path = shipped if shipped.is_file() else Path(name_or_path)
    try:
        recipe = tomllib.loads(path.read_text())
    except OSError:
        known = ", ".join(sorted(p.stem for p in _RECIPES.glob("*.toml")))
        raise InputError(
            f"no recipe {name_or_path!r}: give a TOML file or one of {known}"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None
    _check_keys(recipe, str(path))
    for key, value in changes.items():
        if value is None:
            continue
        table = recipe if key in recipe else recipe["optimiser"]
        if key not in table:
            raise InputError(f"recipe {name_or_path!r} has no key {key!r}")
        table[key] = value
    return recipe


def _check_keys(recipe: dict[str, Any], where: str) -> None:
    """Refuse keys that no training looks at; the shipped recipe has all that one does."""
    known = tomllib.loads((_RECIPES / "survey.toml").read_text())
    check_keys(recipe, known, where)
    for name, table in recipe.items():
        if isinstance(known[name], dict) and isinstance(table, dict):
            check_keys(table, known[name], f"{where}, [{name}]")


def one_cycle(progress: float, warm_up: float) -> float:
    """Learning rate as a share of its peak: half a cosine up, half a cosine down to zero.

    Parameters
    ----------
    progress : float
        Share of all steps done, 0 to 1.
    warm_up : float
        Where the peak lies.
    """
    if progress < warm_up:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / warm_up))
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))
