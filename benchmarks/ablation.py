"""What does each choice in network and training give? One change at a time, from nothing.

Short trainings with the same galaxies, steps and schedule, one for each variant, judged by the
likelihood of galaxies kept from training (lower is better). They are short: what they rank is how
fast a network learns, and a difference within that of two seeds is none.

    python benchmarks/ablation.py PARTS --work FOLDER [--morphologies 8192] [--epochs 3]

PARTS is what ``survey-gampen simulate --parts`` makes. A variant that is done is not done again.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table

from survey_gampen.model.checkpoint import save_checkpoint
from survey_gampen.model.network import Gampen
from survey_gampen.model.presets import PRESETS, architecture
from survey_gampen.model.targets import Targets
from survey_gampen.training.loop import Training
from survey_gampen.training.parts import PartsSet
from survey_gampen.training.recipe import load_recipe
from survey_gampen.training.watch import Display

#: Changes of the architecture, of the recipe, and of the number of morphologies (a share).
VARIANTS: dict[str, tuple[dict[str, Any], dict[str, Any], float]] = {
    "as shipped": ({}, {}, 1.0),
    "another seed": ({}, {"seed": 1}, 1.0),
    "one orientation": ({"orientations": 1}, {}, 1.0),
    "head does not see the crop": ({"head_sees_crop": False}, {}, 1.0),
    "no pull on the crop": ({}, {"guide": 0.0}, 1.0),
    "no mean of the weights": ({}, {"average": 0.0}, 1.0),
    "dropout 0.01 everywhere": ({}, {"dropout_rate": 0.01}, 1.0),
    "dropout 0.01 in flat layers": (
        {},
        {"dropout_rate": 0.01, "dropout_layers": [0.0, 0.0, 0.0, 0.0, 1.0, 1.0, 1.0]},
        1.0,
    ),
    "dropout 0.01 in convolutions": (
        {},
        {"dropout_rate": 0.01, "dropout_layers": [1.0, 1.0, 1.0, 1.0, 0.0, 0.0, 0.0]},
        1.0,
    ),
    "hidden layers of 1024 and 512": ({"hidden": (1024, 512)}, {}, 1.0),
    "half the widths": (
        {"convolutions": (32, 96, 192, 128, 128), "hidden": (208, 256)},
        {},
        1.0,
    ),
    "GaMorNet's widths": (
        {key: getattr(PRESETS["gamornet"], key) for key in ("convolutions", "hidden")},
        {},
        1.0,
    ),
    "a quarter of the galaxies, seen four times": ({}, {}, 0.25),
}


def new_network(path: Path, changes: Mapping[str, Any], data: PartsSet, seed: int) -> None:
    """A network that knows nothing but the scale of its targets."""
    torch.manual_seed(seed)
    arch = architecture("survey", size=data.size, pixel_scale=data.pixel_scale, **changes)
    rows = np.arange(min(len(data), 8192))
    targets = Targets.fit(*data.truth(rows, np.random.default_rng(0)).T)
    save_checkpoint(path, Gampen(arch), targets, {}, dtype=torch.float32)


def train(args: argparse.Namespace, data: PartsSet, name: str) -> dict[str, Any]:
    """Train one variant; figures of its last epoch."""
    arch, changes, share = VARIANTS[name]
    folder = args.work / name.replace(" ", "-").replace("'", "")
    folder.mkdir(parents=True, exist_ok=True)
    result = folder / "result.json"
    if result.exists():
        return dict(json.loads(result.read_text()))
    settings = {
        "dropout_rate": 0.0,
        "morphologies": int(args.morphologies * share),
        "epochs": round(args.epochs / share),
        "passes": 16,
    }
    recipe = load_recipe("survey", **settings | changes)
    init = folder / "new.safetensors"
    new_network(init, arch, data, recipe["seed"])
    training = Training(recipe, data, folder, str(init))
    with Display() as display:
        display.says(name)
        training.to_the_last_epoch(display)  # the widths stay as they were learned
    found = training.history[-1] | {
        "megabytes": (folder / "model.safetensors").stat().st_size / 1e6
    }
    result.write_text(json.dumps(found))
    return found


def main() -> None:
    """Train, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--morphologies", type=int, default=8192)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=list(VARIANTS), default=list(VARIANTS))
    args = parser.parse_args()
    data = PartsSet(args.data)
    found = {name: train(args, data, name) for name in args.only}
    table = Table("", "-ln L", "sigma B/T", 'sigma R_e ["]', "NMAD flux", "images/s", "MB")
    for name, one in found.items():
        figures = [one[key] for key in ("nll", "sigma_bt", "sigma_r_e", "nmad_flux")]
        cells = [*(f"{v:.3f}" for v in figures), f"{one['images_per_second']:.0f}"]
        table.add_row(name, *cells, f"{one['megabytes']:.1f}")
    Console().print(table)
    (args.work / "ablation.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
