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
    image : Tensor, (n, size, size)
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
    """

    device: torch.device
    settings: dict[str, Any]
    size: int
    pixel_scale: float

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
    def mix(self, rows: NDArray[np.int64], rng: np.random.Generator, share: slice = ALL) -> Batch:
        """Images of rows (n,), with all that is random drawn from `rng`.

        Of these only those in `share` are made; who makes the others, makes them as they are here.
        """

    @abstractmethod
    def trained_on(self) -> dict[str, Any]:
        """What a model will have seen: name, and ranges of magnitude, sky, PSF and pixel scale."""

    def epoch(
        self, rows: NDArray[np.int64], batch: int, seed: int, epoch: int, share: slice = ALL
    ) -> Iterator[Batch]:
        """A share of whole batches over `rows`; order and mixture are keyed by (seed, epoch)."""
        order = np.random.Generator(np.random.Philox(key=[seed, epoch << 32])).permutation(rows)

        def mixed(step: int) -> Batch:
            rng = np.random.Generator(np.random.Philox(key=[seed, (epoch << 32) + step + 1]))
            return self.mix(order[step * batch : (step + 1) * batch], rng, share)

        steps = range(len(order) // batch)
        # A GPU would wait for the truth, which the CPU works out; on a CPU all compete anyway.
        return _ahead(mixed, steps) if self.device.type == "cuda" else map(mixed, steps)


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
    """Each image (n, y, x) turned by its number of right angles and mirrored or not."""
    out = torch.empty_like(images)
    for turn in range(4):
        for flip in range(2):
            which = torch.from_numpy(np.flatnonzero((turns == turn) & (flips == flip)))
            which = which.to(images.device)
            one = torch.rot90(images[which], turn, (1, 2))
            out[which] = one.flip(2) if flip else one
    return out
