"""Does the score rise on what the network has never seen?

The area under the ROC curve of ``ood_score`` (0.5: no better than chance), and the share with
status bit 7, of stars, empty sky, saturated stars, crowded fields and coarser pixels, against
galaxies of the population that the model was trained on; in all of them neighbours, PSF and noise
are the population's.

    python benchmarks/novelty.py [--model survey] [--population hsc-wide] [--n 512]
                                 [--json FILE]
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from ceilings import ceilings, told, write
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from survey_gampen.model.checkpoint import Checkpoint, load_checkpoint
from survey_gampen.simulation.noise import add_noise
from survey_gampen.simulation.population import Galaxy, Population
from survey_gampen.simulation.render import FAST, Renderer
from survey_gampen.training.data import Batch
from survey_gampen.training.metrics import rank_of_truth
from survey_gampen.training.validation import hidden_features

#: Point sources brighter than this saturate in HSC-Wide (Aihara et al. 2018, PASJ 70, S8: 17.6 to
#: 18.4 mag in i, by the seeing), and the magnitudes of those that do here.
SATURATES, SATURATED = 18.0, (12.0, 17.0)
#: Objects within a crowded cutout, in place of the population's few.
CROWD = 40
SEED = 5


class Scenes:
    """Noisy cutouts [nJy], one of each kind for each number."""

    def __init__(self, population: Population) -> None:
        self.population, self.renderer = population, Renderer(population, (), FAST)

    def galaxies(self, index: int) -> NDArray[np.float32]:
        """What the model knows."""
        galaxy = self._galaxy(index)
        return self._seen(self.renderer.image(galaxy), galaxy)

    def stars(self, index: int) -> NDArray[np.float32]:
        """A point source of a galaxy's magnitude."""
        galaxy = self._galaxy(index)
        return self._seen(self._around(galaxy) + self._star(galaxy, galaxy.flux), galaxy)

    def sky(self, index: int) -> NDArray[np.float32]:
        """Nothing but neighbours, where there are some."""
        galaxy = self._galaxy(index)
        return self._seen(self._around(galaxy), galaxy)

    def saturated(self, index: int) -> NDArray[np.float32]:
        """A bright star whose core is cut at the full well."""
        galaxy = self._galaxy(index)
        zero = self.population["zero_point"]
        magnitude = np.random.default_rng(index).uniform(*SATURATED)
        star, limit = (
            self._star(galaxy, 10 ** (-0.4 * (m - zero))) for m in (magnitude, SATURATES)
        )
        return self._seen(self._around(galaxy) + np.minimum(star, limit.max()), galaxy)

    def crowded(self, index: int) -> NDArray[np.float32]:
        """A galaxy among many others."""
        galaxy = self._galaxy(index)
        others: list[Any] = []
        for k in range(100):
            others += self._galaxy(1_000_000 + 100 * index + k).neighbours
        galaxy = replace(galaxy, neighbours=tuple(others[:CROWD]))
        return self._seen(self.renderer.image(galaxy), galaxy)

    def coarse(self, index: int) -> NDArray[np.float32]:
        """A galaxy whose pixels are four of the right ones each, every one twice wide and high."""
        image = self.galaxies(index)
        half = image.shape[0] // 2 + 1
        start = image.shape[0] // 4
        return np.kron(image, np.ones((2, 2), np.float32))[2 * start :, 2 * start :][
            : 2 * half - 1, : 2 * half - 1
        ]

    def _galaxy(self, index: int) -> Galaxy:
        return self.population.draw(SEED, index)

    def _around(self, galaxy: Galaxy) -> NDArray[np.float32]:
        canvas = self.renderer.canvas()
        for neighbour in galaxy.neighbours:
            self.renderer.add(canvas, (neighbour,), self.renderer.psf(galaxy), stamp=True)
        return np.asarray(canvas.array, dtype=np.float32)

    def _star(self, galaxy: Galaxy, flux: float) -> NDArray[np.float32]:
        canvas = self.renderer.canvas()
        at = (galaxy.disk.x, galaxy.disk.y)
        star = self.renderer.psf(galaxy).withFlux(flux)
        star.drawImage(canvas, center=at, scale=self.renderer.scale, add_to_image=True)
        return np.asarray(canvas.array, dtype=np.float32)

    def _seen(self, image: NDArray[np.float32], galaxy: Galaxy) -> NDArray[np.float32]:
        rng = np.random.default_rng([SEED, galaxy.index])
        noisy = add_noise(image, galaxy.sky_sigma, self.renderer.sky_level, rng)
        return noisy * np.float32(self.population.unit)


def scores(model: Checkpoint, images: NDArray[np.float32]) -> NDArray[np.float32]:
    """``ood_score`` of images (n, size, size) [nJy], (n,)."""
    assert model.novelty is not None
    features = hidden_features(model.network, Batch(torch.from_numpy(images), np.empty(0)))
    return model.novelty.score(features).numpy()


def main() -> None:
    """Score, print a table, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="survey")
    parser.add_argument("--population", default="hsc-wide")
    parser.add_argument("--n", type=int, default=512)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    args = parser.parse_args()
    model = load_checkpoint(args.model)
    if model.novelty is None:
        parser.error(f"{args.model} has no out-of-distribution score: train it again")
    ceiling = ceilings()
    scenes = Scenes(Population.load(args.population))
    found = {}
    for kind in ("galaxies", "stars", "sky", "saturated", "crowded", "coarse"):
        make = getattr(scenes, kind)
        images = np.stack([make(i) for i in track(range(args.n), description=kind)])
        found[kind] = scores(model, images)
    # The share of galaxies that score lower, of each object: its mean is the area.
    known = found["galaxies"][None]
    table = Table("", "AUC", "median score", "with bit 7", title=f"{args.n} of each")
    result: dict[str, Any] = {"n": args.n, "threshold": model.novelty.threshold}
    for kind, score in found.items():
        area = float(rank_of_truth(known.repeat(len(score), 0), score).mean())
        flagged = float((score > model.novelty.threshold).mean())
        result[kind] = {"auc": area, "median": float(np.median(score)), "flagged": flagged}
        table.add_row(kind, f"{area:.3f}", f"{np.median(score):.2f}", f"{flagged:.3f}")
    print(told(ceiling))
    Console().print(table)
    write(args.json, ceiling, result)


if __name__ == "__main__":
    main()
