"""Does fine-tuning on a few hundred labelled real galaxies pay?

A network that has seen parametric galaxies alone is fine-tuned on real ones: HST images at the
depth, pixels and PSF of HSC, labelled by a fit of bulge and disk. It is compared with the network
as it was, and with one that saw nothing but these few hundred. Every step is a command of the
package: ``simulate --as-tiles --real-galaxies``, ``run --keep-cutouts``, ``train --labels``,
``simulate``, ``evaluate``.

The test galaxies are others than those trained on: every third of the catalogue is kept for them.

    python benchmarks/transfer.py CATALOG --work FOLDER [--model survey]

CATALOG is GalSim's RealGalaxyCatalog (its COSMOS sample, or a part of it).
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import tomli_w
from astropy.io import fits
from rich.console import Console
from rich.table import Table

from survey_gampen import tomlfile
from survey_gampen.model.targets import PARAMETERS
from survey_gampen.simulation import population
from survey_gampen.training import recipe

#: Of the catalogue's galaxies: every third is kept for the test.
_EVERY = 3
FIGURES = ("p50_median", "p50_sigma", "p50_nmad", "crps", "coverage_ci68")


def command(*words: object) -> None:
    """Run a command of the package, and stop if it fails."""
    said = [str(word) for word in words]
    print("survey-gampen", *said, flush=True)
    subprocess.run([sys.executable, "-m", "survey_gampen.cli", *said], check=True)


def part(catalog: Path, folder: Path, test: bool) -> Path:
    """A catalogue of one part of the galaxies, beside links to the images."""
    folder.mkdir(parents=True, exist_ok=True)
    with fits.open(catalog) as hdus:
        rows = hdus[1].data
        keep = [(i % _EVERY == 0) == test for i in range(len(rows))]
        own = folder / "galaxies.fits"
        fits.BinTableHDU(rows[keep]).writeto(own, overwrite=True)
        columns = ("GAL_FILENAME", "PSF_FILENAME", "NOISE_FILENAME")
        names = {n.strip() for c in columns if c in rows.names for n in rows[c]}
    for name in names:
        link = folder / name
        if not link.exists():
            link.symlink_to((catalog.parent / name).resolve())
    return own


def own_population(work: Path, magnitude: list[float]) -> Path:
    """``hsc-wide`` within a range of magnitudes."""
    shipped = Path(population.__file__).parent / "populations" / "hsc-wide.toml"
    path = work / "real.toml"
    table = tomlfile.read(shipped) | {"name": "real-hst", "magnitude": magnitude}
    path.write_text(tomli_w.dumps(table))
    return path


def own_recipe(work: Path, name: str, **changes: Any) -> Path:
    """The recipe ``survey`` with changes."""
    path = work / f"{name}.toml"
    path.write_text(tomli_w.dumps(recipe.load_recipe("survey", **changes)))
    return path


def main() -> None:
    """Simulate, train, evaluate, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("catalog", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--model", default="survey")
    parser.add_argument("--n", type=int, default=1200, help="labelled galaxies: 30 %% train")
    parser.add_argument("--test", type=int, default=512)
    parser.add_argument("--passes", type=int, default=100)
    parser.add_argument("--magnitude", type=float, nargs=2, default=[18.0, 22.0])
    parser.add_argument("--epochs", type=int, default=20, help="of the fine-tuning")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    args = parser.parse_args()
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    chosen = own_population(work, args.magnitude)
    train, test = (part(args.catalog, work / name, name == "test") for name in ("train", "test"))

    labelled, unseen = work / "labelled", work / "unseen"
    simulate = ("simulate", chosen, "--n", args.n, "--out", labelled, "--as-tiles")
    command(*simulate, "--seed", 1, "--real-galaxies", train)
    run = ("run", labelled / "catalog.parquet", "--images", labelled / "tiles")
    command(*run, "--out", work / "run", "--passes", 2, "--keep-cutouts", "--model", args.model)
    command(
        *("simulate", chosen, "--n", args.test, "--out", unseen, "--seed", 2),
        *("--real-galaxies", test),
    )

    labels = ("--data", work / "run", "--labels", labelled / "truth.parquet")
    few = {"batch": 32, "guide": 0.0}
    fine = few | {"epochs": args.epochs, "learning_rate": args.learning_rate}
    trainings = {
        "all layers": (own_recipe(work, "all", **fine), True),
        "crop frozen": (own_recipe(work, "crop", **fine, freeze="crop"), True),
        "features frozen": (own_recipe(work, "features", **fine, freeze="features"), True),
        # As many steps as it takes: the likelihood on the galaxies kept apart picks the epoch.
        "from nothing": (own_recipe(work, "scratch", batch=32, epochs=4 * args.epochs), False),
    }
    models = {"as it was": args.model}
    for name, (file, goes_on) in trainings.items():
        out = work / file.stem
        start = ("--init", args.model) if goes_on else ()
        command("train", file, *labels, "--out", out, *start)
        models[name] = str(out / "model.safetensors")
    found = {}
    for name, model in models.items():
        out = work / "evaluation" / name.replace(" ", "-")
        command("evaluate", model, unseen, "--out", out, "--passes", args.passes)
        found[name] = json.loads((out / "evaluation.json").read_text())["figures"]["all"]
    table = Table("network", "parameter", *FIGURES, title=f"{args.test} galaxies never seen")
    for name, figures in found.items():
        for p in PARAMETERS:
            cells = ["{:.4f} ± {:.4f}".format(*figures[p][key]) for key in FIGURES]
            table.add_row(name, p, *cells)
    Console(width=max(130, shutil.get_terminal_size().columns)).print(table)
    (work / "transfer.json").write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
