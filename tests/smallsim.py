"""A population that renders fifty times faster than the shipped one, for tests of the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tomli_w

from survey_gampen.model.checkpoint import save_checkpoint
from survey_gampen.model.targets import Targets
from survey_gampen.simulation import simulate
from survey_gampen.simulation.population import Population
from survey_gampen.training.parts import PartsSet
from tests.networks import make_checkpoint, tiny

SIZE = 119
#: Galaxies of the set of parts that networks are trained on.
N = 72


def small_population(folder: Path, size: int = SIZE, **changes: Any) -> Path:
    """Write ``small.toml``: small galaxies, smooth bulges, at most one neighbour."""
    table = Population.load("hsc-wide").table | {"name": "small", "size": size}
    table["disk"] = table["disk"] | {"half_light_radius": [0.3, 1.0], "axis_ratio": [0.5, 1.0]}
    table["bulge"] = table["bulge"] | {
        "sersic_n": [2.0, 2.1],
        "half_light_radius": [0.3, 0.6],
        "axis_ratio": [0.5, 1.0],
    }
    table["neighbours"] = table["neighbours"] | {
        "count": [0, 1],
        "sersic_n": [0.9, 1.1],
        "half_light_radius": [0.2, 0.6],
    }
    for key, value in changes.items():
        table[key] = table[key] | value if isinstance(value, dict) else value
    path = folder / "small.toml"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(tomli_w.dumps(table))
    return path


def inline(
    function: Callable[..., Any], calls: Iterable[tuple[Any, ...]], what: str, *_: object
) -> None:
    """What :func:`survey_gampen.pool.compute` does, in this process."""
    for arguments in calls:
        function(*arguments)


def make_parts(folder: Path) -> Path:
    """A set of parts of galaxies bright enough to learn from."""
    return _simulated(folder, "parts", parts=True)


def make_cutouts(folder: Path) -> Path:
    """The same galaxies as finished cutouts."""
    return _simulated(folder, "cutouts", parts=False)


def _simulated(folder: Path, name: str, *, parts: bool) -> Path:
    population = small_population(folder, magnitude=[16.0, 20.0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "compute", inline)
        simulate.main(str(population), N, folder / name, parts=parts)
    return folder / name


def make_init(path: Path, parts: PartsSet) -> str:
    """A tiny network that knows nothing, with the targets of the set."""
    truth = parts.truth(np.arange(len(parts)), np.random.default_rng(0))
    save_checkpoint(path, make_checkpoint(tiny()).network, Targets.fit(*truth.T), {})
    return str(path)
