"""Recipes: how a network is trained, as TOML with a comment at every key."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from survey_gampen import tomlfile
from survey_gampen.errors import InputError
from survey_gampen.model.presets import Architecture
from survey_gampen.model.targets import FORMS

_RECIPES = Path(__file__).parent / "recipes"
#: Farther off [px], and a galaxy is no longer the one that a catalogue means.
_MOST_SHIFT = 16
#: Least and largest values that something can be trained with.
_RANGES = {
    "epochs": (0, math.inf),
    "batch": (1, math.inf),
    "morphologies": (0, math.inf),
    "validation": (1, math.inf),
    "passes": (1, math.inf),
    "seed": (0, math.inf),
    "shift": (0, _MOST_SHIFT),
    "patience": (0, math.inf),
    "momentum": (0, 0.9999),
    "learning_rate": (1e-12, 10),
    "localisation_factor": (0, 10),
    "weight_decay": (0, 10),
    "warm_up": (0, 0.99),
    "average": (0, 0.99999),
    "clip": (1e-12, math.inf),
    "guide": (0, math.inf),
    "radii": (1e-3, math.inf),
    "smallest": (0, 1),
}
_CHOICES = {
    "targets": FORMS,
    "freeze": ("nothing", "crop", "features"),
    "kind": ("adamw", "sgd"),
    "schedule": ("one-cycle", "constant"),
}


def load_recipe(name_or_path: str, **changes: Any) -> dict[str, Any]:
    """A recipe with single values changed.

    Raises
    ------
    InputError
        If it is missing, no TOML, its keys are not those of the shipped recipes, or a value is
        one that nothing can be trained with.
    """
    recipe, path = tomlfile.shipped_or_own(name_or_path, _RECIPES, "recipe")
    tomlfile.check_like(recipe, tomlfile.read(_RECIPES / "survey.toml"), str(path))
    for key, value in changes.items():
        if value is None:
            continue
        tables = [recipe, *(t for t in recipe.values() if isinstance(t, dict))]
        table = next((t for t in tables if key in t), None)
        if table is None:
            raise InputError(f"recipe {name_or_path!r} has no key {key!r}")
        table[key] = value
    flat = {**recipe, **recipe["optimiser"], **recipe["crop"]}
    for key, known in _CHOICES.items():
        if (value := flat[key]) not in known:
            raise InputError(f"{key} of a recipe is {' or '.join(known)}, not {value!r}")
    for factor in (1.0, *recipe["dropout_layers"]):
        if not 0 <= (rate := recipe["dropout_rate"] * factor) < 1:
            raise InputError(f"a dropout rate is 0 or more and below 1, not {rate:g}")
    for key, (least, most) in _RANGES.items():
        value = flat[key]
        if not (least <= value <= most and math.isfinite(value)):
            bounds = f"{least:g} or more" if math.isinf(most) else f"{least:g} to {most:g}"
            raise InputError(f"{key} of a recipe is {bounds}, not {value:g}")
    return recipe


def site_rates(recipe: dict[str, Any], arch: Architecture) -> list[float]:
    """Dropout rate at each site of a network.

    Layers before the first dropout of the shipped presets, which drop nothing but where
    ``dropout="everywhere"``, have no factor of their own.
    """
    before = [1.0] * 5 if arch.dropout == "everywhere" else []
    return [recipe["dropout_rate"] * factor for factor in recipe["dropout_layers"] + before]


def learning_share(progress: float, settings: dict[str, Any]) -> float:
    """Learning rate as a share of the recipe's, when a share `progress` of all steps is done."""
    if settings["schedule"] == "constant":
        return 1.0
    return one_cycle(progress, settings["warm_up"])


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
