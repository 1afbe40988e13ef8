"""What a training needs of its galaxies: rows, truths, and images mixed anew at each epoch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

#: The share of a process that trains alone.
ALL = slice(None)


@dataclass(frozen=True)
class Batch:
    """Images with their truth.

    Attributes
    ----------
    image : Tensor, (n, size, size), or (n, bands, size, size) of several bands
        [nJy], on the device.
    truth : ndarray, (n, 3)
        B/T, R_e [arcsec], flux [nJy].
    weight : ndarray, (n,), or None
        How much each counts in the loss.
    """

    image: Tensor
    truth: NDArray[np.float64]
    weight: NDArray[np.float64] | None = None


class TrainingSet(ABC):
    """Galaxies to train on, by the row.

    Attributes
    ----------
    device : torch.device
        Where images are made.
    settings : dict
        What the set is, as JSON: a training goes on with the same set only.
    size, pixel_scale : int, float
        Of the images [px; arcsec / px].
    bands : tuple of str
        Bands of the images; truths are of the first.
    place : str
        Where its pixels lie, in words.
    streams : bool
        Whether they are read from the disk as they are wanted.
    """

    device: torch.device
    settings: dict[str, Any]
    size: int
    pixel_scale: float
    bands: tuple[str, ...]
    place: str
    streams: bool = False

    @abstractmethod
    def __len__(self) -> int:
        """Galaxies."""

    @abstractmethod
    def split(self, validation: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows to train on, and rows that are kept from training."""

    @abstractmethod
    def truth(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
        """B/T, R_e [arcsec] and flux [nJy] (n, 3) of rows."""

    @abstractmethod
    def mix(
        self,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        share: slice = ALL,
        shift: int = 0,
    ) -> Batch:
        """Images of rows (n,), with all that is random drawn from `rng`.

        Of these only those in `share` are made; who makes the others, makes them as they are here.
        Each is moved by at most `shift` pixels along either axis, drawn last.
        """

    @abstractmethod
    def trained_on(self) -> dict[str, Any]:
        """What a model will have seen: name, and ranges of magnitude, sky, PSF and pixel scale; of
        several bands lists of the ranges of sky and PSF in each."""

    def epoch(
        self,
        rows: NDArray[np.int64],
        batch: int,
        seed: int,
        epoch: int,
        share: slice = ALL,
        shift: int = 0,
    ) -> Iterator[Batch]:
        """A share of whole batches over `rows`; order and mixture are keyed by (seed, epoch)."""
        order = np.random.Generator(np.random.Philox(key=[seed, epoch << 32])).permutation(rows)

        def mixed(step: int) -> Batch:
            rng = np.random.Generator(np.random.Philox(key=[seed, (epoch << 32) + step + 1]))
            return self.mix(order[step * batch : (step + 1) * batch], rng, share, shift)

        steps = range(len(order) // batch)
        # A GPU would wait for the truth, which the CPU works out, and all would for the disk; else
        # on a CPU all compete anyway.
        ahead = self.streams or self.device.type == "cuda"
        return _ahead(mixed, steps) if ahead else map(mixed, steps)


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


def turned(images: Tensor, turns: NDArray[np.int64], flips: NDArray[np.int64]) -> Tensor:
    """Each image (n, ..., y, x) turned by its number of right angles and mirrored or not."""
    out = torch.empty_like(images)
    for turn in range(4):
        for flip in range(2):
            which = torch.from_numpy(np.flatnonzero((turns == turn) & (flips == flip)))
            which = which.to(images.device)
            one = torch.rot90(images[which], turn, (-2, -1))
            out[which] = one.flip(-1) if flip else one
    return out


def drawn_shifts(rng: np.random.Generator, n: int, shift: int) -> NDArray[np.int64]:
    """Whole pixels (n, 2) along y and x, at most `shift`; 0 draws nothing from `rng`.

    Whole ones leave pixels and their noise as they are. Parts of a pixel are in the simulations
    already (``centre_offset`` of the population), and catalogues of a survey place its galaxies
    to about a pixel.
    """
    return rng.integers(-shift, shift + 1, size=(n, 2)) if shift else np.zeros((n, 2), np.int64)


def moved(images: Tensor, shifts: NDArray[np.int64], edge: str) -> Tensor:
    """Each image moved by its own whole pixels along y and x, all its bands alike.

    Parameters
    ----------
    images : Tensor, (n, y, x) or (n, bands, y, x)
    shifts : ndarray, (n, 2)
    edge : str
        What is seen beyond the edge: ``constant`` (zeros) or ``reflect``.
    """
    most = int(np.abs(shifts).max(initial=0))
    if not most:
        return images
    y, x = images.shape[-2:]
    padded = torch.nn.functional.pad(images, (most,) * 4, mode=edge)
    # A view with one window for each shift there can be; one copy takes each image's own.
    windows = padded.unfold(-2, y, 1).unfold(-2, x, 1)
    down, right = torch.from_numpy(most - shifts).to(images.device).T
    which = torch.arange(len(images), device=images.device)
    return windows[which, ..., down, right, :, :]
