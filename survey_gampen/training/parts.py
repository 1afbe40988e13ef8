"""Training images mixed anew each time they are seen.

A set of *parts* (:mod:`survey_gampen.simulation.simulate`) holds, for each morphology and PSF, the
disk, the bulge and the neighbours apart and without noise. A training image takes a magnitude, a
B/T and a sky from the population, adds up the parts, turns and mirrors galaxy and neighbours
independently (the PSF is the same, only their places move), moves both by the recipe's ``shift``
and adds noise. No two epochs show the same image, and every image is a fair draw from the
population. Of several bands all have the same turn and move, and colours and skies of their own.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survey_gampen.errors import InputError
from survey_gampen.simulation.colours import mixed
from survey_gampen.simulation.noise import kernel
from survey_gampen.simulation.population import Population, half_light_radius
from survey_gampen.simulation.simulate import PARTS_FLUX, read_settings, read_truth
from survey_gampen.training.data import ALL, Batch, TrainingSet, drawn_shifts, moved, turned
from survey_gampen.training.memory import Parts, room

#: Images whose noise comes from one generator, if that many are next to each other in a batch.
_NOISE_BLOCK = 16


class PartsSet(TrainingSet):
    """A set of parts, in memory or on the disk: the images are the same.

    Parameters
    ----------
    path : Path
        Folder written by ``simulate --parts``.
    device : str
        Where images are made.
    memory, most : str, int
        Where the parts lie, and how many bytes of this process's memory they may take (default:
        :func:`~survey_gampen.training.memory.room`); see :class:`Parts`.

    Raises
    ------
    InputError
        If `path` is no finished set of parts.
    """

    def __init__(
        self, path: Path, device: str = "cpu", memory: str = "auto", most: int | None = None
    ) -> None:
        settings = read_settings(path)
        if not settings["parts"]:
            raise InputError(f"{path} holds finished cutouts: simulate with --parts for training")
        self.settings = settings
        self.population = Population(settings["population"])
        self.size, self.pixel_scale = self.population["size"], self.population["pixel_scale"]
        self.bands = self.population.bands
        self.device = torch.device(device)
        truth = read_truth(path)
        self.sersic_n, self.radius, self.axis_ratio = (
            np.stack([truth[f"{side}_{key}"].to_numpy() for side in ("disk", "bulge")])
            for key in ("sersic_n", "half_light_radius", "axis_ratio")
        )
        self.parts = Parts(path, self.device, memory, room() if most is None else most)
        self.place, self.streams = self.parts.place, self.parts.planes is None

    def __len__(self) -> int:
        return len(self.parts)

    def truth(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
        """B/T, R_e [arcsec] and flux [nJy] (n, 3) of the morphologies `rows`, in new light."""
        magnitude, bt = self.population.light(rng, len(rows))
        shape = (self.sersic_n[:, rows], self.radius[:, rows], self.axis_ratio[:, rows])
        r_e = half_light_radius(*shape, bt)
        flux = 10 ** (-0.4 * (magnitude - self.population["zero_point"])) * self.population.unit
        return np.stack([bt, r_e, flux], axis=1)

    def split(self, validation: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """All but the last `validation` rows, and those."""
        rows = np.arange(len(self))
        return rows[:-validation], rows[-validation:]

    def trained_on(self) -> dict[str, Any]:
        """Ranges of the population."""
        population = self.population
        seen = [population.observed(band) for band in self.bands]
        sky = [[s * population.unit for s in one["sky_sigma"]] for one in seen]
        psf = [one["fwhm"] for one in seen]
        return {
            "population": population["name"],
            "magnitude": population["magnitude"],
            "sky_sigma_njy": sky if len(seen) > 1 else sky[0],
            "psf_fwhm": psf if len(seen) > 1 else psf[0],
            "pixel_scale": population["pixel_scale"],
        }

    def mix(
        self,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        share: slice = ALL,
        shift: int = 0,
    ) -> Batch:
        """Images of the morphologies `rows` (n,), with all else drawn from `rng`."""
        n, device = len(rows), self.device
        population = self.population
        truth = self.truth(rows, rng)
        low, high = population["noise"]["sky_sigma"]
        sky_sigma = rng.uniform(low, high, size=n)
        turns, flips = rng.integers(0, 4, size=(2, n)), rng.integers(0, 2, size=(2, n))
        noise_seeds = rng.integers(2**62, size=n)
        shifts = drawn_shifts(rng, n, shift)[share]

        def planes(values: NDArray[np.float64]) -> Tensor:
            return torch.from_numpy(values.astype(np.float32)).to(device)[..., None, None]

        bt, flux = truth[:, 0], truth[:, 2] / population.unit
        # Of disk and bulge (2, n), and of several bands (2, n, bands); sky noise and level alike.
        light = flux * np.stack([1 - bt, bt]) / PARTS_FLUX
        sky_level: float | Tensor = population["noise"]["sky_level"]
        if len(self.bands) > 1:
            light = light[..., None] * mixed(population, rng, n)
            seen = [population.observed(band) for band in self.bands]
            lows, highs = np.transpose([one["sky_sigma"] for one in seen[1:]])
            sky_sigma = np.column_stack([sky_sigma, rng.uniform(lows, highs, (n, len(lows)))])
            sky_level = planes(np.array([one["sky_level"] for one in seen]))
        rows, truth, light, sky_sigma = rows[share], truth[share], light[:, share], sky_sigma[share]
        turns, flips, noise_seeds = turns[:, share], flips[:, share], noise_seeds[share]

        disk, bulge, around = self.parts.take(rows)
        galaxy = disk.mul_(planes(light[0])).add_(bulge.mul_(planes(light[1])))
        image = turned(galaxy, turns[0], flips[0]).add_(turned(around, turns[1], flips[1]))
        image = moved(image, shifts, "constant")
        noise = _normals(image.shape, noise_seeds, device, population.noise_correlation)
        # Fourier transforms ring: a little below zero around a very bright galaxy.
        above = image.clamp(min=0).div_(sky_level)
        sigma = above.add_(1).sqrt_().mul_(planes(sky_sigma))
        image.add_(sigma.mul_(noise))
        return Batch(image.mul_(population.unit), truth)


def _normals(
    shape: torch.Size, seeds: NDArray[np.int64], device: torch.device, correlation: float
) -> Tensor:
    """Normal deviates (n, ..., y, x), drawn by the block from the seed of the block's first image.

    Smoothed, and of unit variance still, where `correlation` > 0, as
    :func:`survey_gampen.simulation.noise.smoothed` does.
    """
    noise = torch.empty(shape, device=device)
    generator = torch.Generator(device)
    weights = kernel(correlation).tolist() if correlation else [1.0]
    reach = len(weights) // 2
    for start in range(0, len(noise), _NOISE_BLOCK):
        generator.manual_seed(int(seeds[start]))
        block = noise[start : start + _NOISE_BLOCK]
        if not reach:
            block.normal_(generator=generator)
            continue
        *several, height, width = block.shape
        wide = torch.empty((*several, height + 2 * reach, width + 2 * reach), device=device)
        rows = _weighted(wide.normal_(generator=generator), weights, -2)
        block.copy_(_weighted(rows, weights, -1))
    return noise


def _weighted(field: Tensor, weights: list[float], axis: int) -> Tensor:
    """Sums over as many neighbours along an axis as there are weights; shorter by that.

    Sums of shifted planes, in one order: a library's convolution may go another way for another
    number of images, and ranks that share a batch must get the same bits.
    """
    length = field.shape[axis] - len(weights) + 1
    total = field.narrow(axis, 0, length) * weights[0]
    for k, weight in enumerate(weights[1:], start=1):
        total.add_(field.narrow(axis, k, length) * weight)
    return total
