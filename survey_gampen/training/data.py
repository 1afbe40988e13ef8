"""Training images mixed anew each time they are seen.

A set of *parts* (:mod:`survey_gampen.training.simulate`) holds, for each morphology and PSF, the
disk, the bulge and the neighbours apart and without noise. A training image takes a magnitude, a
B/T and a sky from the population, adds up the parts, turns and mirrors galaxy and neighbours
independently (the PSF is the same, only their places move) and adds noise. No two epochs show
the same image, and every image is a fair draw from the population.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from survey_gampen.errors import InputError
from survey_gampen.training.population import Population, half_light_radius
from survey_gampen.training.simulate import PARTS, PARTS_FLUX, read_settings, read_truth

_ALL = slice(None)
#: Images whose noise comes from one generator, if that many are next to each other in a batch.
_NOISE_BLOCK = 16


@dataclass(frozen=True)
class Batch:
    """Images (n, size, size) [nJy] and their truth: B/T, R_e [arcsec], flux [nJy], (n, 3)."""

    image: Tensor
    truth: NDArray[np.float64]


class PartsSet:
    """A set of parts in memory.

    Parameters
    ----------
    path : Path
        Folder written by ``simulate --parts``.
    device : str
        Where the parts lie: on a GPU if they fit.

    Raises
    ------
    InputError
        If `path` is no finished set of parts.
    """

    def __init__(self, path: Path, device: str = "cpu") -> None:
        settings = read_settings(path)
        if not settings["parts"]:
            raise InputError(f"{path} holds finished cutouts: simulate with --parts for training")
        self.settings = settings
        self.population = Population(settings["population"])
        truth = read_truth(path)
        self.sersic_n, self.radius, self.axis_ratio = (
            np.stack([truth[f"{side}_{key}"].to_numpy() for side in ("disk", "bulge")])
            for key in ("sersic_n", "half_light_radius", "axis_ratio")
        )
        group: Any = zarr.open_group(str(path), mode="r")
        shape = (len(PARTS), *group[PARTS[0]].shape)
        self.parts = torch.empty(shape, dtype=torch.float16, device=device)
        for k, name in enumerate(PARTS):
            # By the block: the whole array decoded at once would stand in memory twice.
            for start in range(0, shape[1], 1024):
                block = torch.from_numpy(group[name][start : start + 1024])
                self.parts[k, start : start + 1024] = block

    def __len__(self) -> int:
        return int(self.parts.shape[1])

    def truth(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
        """B/T, R_e [arcsec] and flux [nJy] (n, 3) of the morphologies `rows`, in new light."""
        magnitude, bt = self.population.light(rng, len(rows))
        shape = (self.sersic_n[:, rows], self.radius[:, rows], self.axis_ratio[:, rows])
        r_e = half_light_radius(*shape, bt)
        flux = 10 ** (-0.4 * (magnitude - self.population["zero_point"])) * self.population.unit
        return np.stack([bt, r_e, flux], axis=1)

    def mix(self, rows: NDArray[np.int64], rng: np.random.Generator, share: slice = _ALL) -> Batch:
        """Images of the morphologies `rows` (n,), with all else drawn from `rng`.

        Of these only those in `share` are made; who makes the others, makes them as they are here.
        """
        n, device = len(rows), self.parts.device
        population = self.population
        truth = self.truth(rows, rng)
        low, high = population["noise"]["sky_sigma"]
        sky_sigma = rng.uniform(low, high, size=n)
        turns, flips = rng.integers(0, 4, size=(2, n)), rng.integers(0, 2, size=(2, n))
        noise_seeds = rng.integers(2**62, size=n)
        rows, truth, sky_sigma = rows[share], truth[share], sky_sigma[share]
        turns, flips, noise_seeds = turns[:, share], flips[:, share], noise_seeds[share]
        bt, flux = truth[:, 0], truth[:, 2] / population.unit

        def column(values: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(values.astype(np.float32)).to(device)[:, None, None]

        disk, bulge, around = self.parts[:, torch.from_numpy(rows).to(device)].float()
        galaxy = disk.mul_(column(flux * (1 - bt) / PARTS_FLUX)).add_(
            bulge.mul_(column(flux * bt / PARTS_FLUX))
        )
        image = _turned(galaxy, turns[0], flips[0]).add_(_turned(around, turns[1], flips[1]))
        noise = _normals(image.shape, noise_seeds, device)
        # Fourier transforms ring: a little below zero around a very bright galaxy.
        light = image.clamp(min=0).div_(population["noise"]["sky_level"])
        sigma = light.add_(1).sqrt_().mul_(column(sky_sigma))
        image.add_(sigma.mul_(noise))
        return Batch(image.mul_(population.unit), truth)

    def epoch(
        self, rows: NDArray[np.int64], batch: int, seed: int, epoch: int, share: slice = _ALL
    ) -> Iterator[Batch]:
        """A share of whole batches over `rows`; order and mixture are keyed by (seed, epoch)."""
        order = np.random.Generator(np.random.Philox(key=[seed, epoch << 32])).permutation(rows)

        def mixed(step: int) -> Batch:
            rng = np.random.Generator(np.random.Philox(key=[seed, (epoch << 32) + step + 1]))
            return self.mix(order[step * batch : (step + 1) * batch], rng, share)

        steps = range(len(order) // batch)
        # A GPU would wait for the truth, which the CPU works out; on a CPU all compete anyway.
        return _ahead(mixed, steps) if self.parts.is_cuda else map(mixed, steps)


def _ahead(
    function: Callable[[int], Batch], steps: Iterable[int], threads: int = 4
) -> Iterator[Batch]:
    """What ``map`` gives, in its order, computed by a few threads a little ahead."""
    waiting: deque[Future[Batch]] = deque()
    with ThreadPoolExecutor(threads) as pool:
        for step in steps:
            waiting.append(pool.submit(function, step))
            if len(waiting) > threads:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def _normals(shape: torch.Size, seeds: NDArray[np.int64], device: torch.device) -> Tensor:
    """Normal deviates (n, y, x), drawn by the block from the seed of the block's first image."""
    noise = torch.empty(shape, device=device)
    generator = torch.Generator(device)
    for start in range(0, len(noise), _NOISE_BLOCK):
        generator.manual_seed(int(seeds[start]))
        noise[start : start + _NOISE_BLOCK].normal_(generator=generator)
    return noise


def _turned(images: Tensor, turns: NDArray[np.int64], flips: NDArray[np.int64]) -> Tensor:
    """Each image (n, y, x) turned by its number of right angles and mirrored or not."""
    out = torch.empty_like(images)
    for turn in range(4):
        for flip in range(2):
            which = torch.from_numpy(np.flatnonzero((turns == turn) & (flips == flip)))
            which = which.to(images.device)
            turned = torch.rot90(images[which], turn, (1, 2))
            out[which] = turned.flip(2) if flip else turned
    return out
