"""Where the parts of galaxies lie: on the GPU, in memory, or on the disk until they are wanted.

Parts are half precision, 343 kB a galaxy of 239 px and band: 16 384 galaxies are 5.6 GB, and each
rank of a training has its own. What does not fit is read from its Zarr arrays row by row, which
gives the same images. Measured on a set of 239 px with other work on both cores: 150 rows a second,
all three parts, by one process from the page cache, most of it Zarr's own bookkeeping and the
decoding of chunks of 8 of which one row is wanted. A network that trains on two cores sees 90 and
hardly waits; a GPU does, and is better given ranks on more machines.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
import zarr
from numpy.typing import NDArray
from torch import Tensor

from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.outside import outside_faults
from survey_gampen.simulation.simulate import PARTS

#: What a user may ask for.
MEMORY = ("auto", "resident", "stream")
#: Rows that are read at once: the whole set decoded in one piece would be in memory twice.
_BLOCK = 1024


def room(ranks: int = 1, limit: int = 0) -> int:
    """Bytes that a set may take in the memory of one process.

    Half of what is free, for the network, its gradients and the batches need some too.

    Parameters
    ----------
    ranks : int
        Processes of the training on this machine.
    limit : int
        Bytes at which somebody ends this process; 0: never.
    """
    free = int(psutil.virtual_memory().available) // ranks
    return min(free, limit or free) // 2


class Parts:
    """Disk, bulge and neighbours of galaxies, by the row.

    Parameters
    ----------
    path : Path
        Folder written by ``simulate --parts``.
    device : torch.device
        Where they are wanted.
    memory : str
        ``resident``, ``stream``, or ``auto``: resident where they fit.
    room : int
        Bytes they may take in the memory of this process.

    Attributes
    ----------
    planes : Tensor, (part, galaxy, y, x), of several bands (part, galaxy, band, y, x), or None
        Float16 [ADU, for a flux of :data:`PARTS_FLUX`]; None when they are read as they are wanted.
    place : str
        Where they lie, in words.

    Raises
    ------
    InputError
        If `memory` is none of these.
    OutsideFault
        If pixels are gone from the disk.
    """

    def __init__(self, path: Path, device: torch.device, memory: str, room: int) -> None:
        if memory not in MEMORY:
            raise InputError(f"memory is {', '.join(MEMORY[:-1])} or {MEMORY[-1]}, not {memory!r}")
        self._path, self._device = path, device
        group: Any = zarr.open_group(str(path), mode="r")
        self._arrays = [group[name] for name in PARTS]
        self.shape = (len(PARTS), *self._arrays[0].shape)
        size = 2 * int(np.prod(self.shape))
        self.planes: Tensor | None = None
        told = f"{self.shape[1]} galaxies, {size / 1e9:.2g} GB of parts"
        where = self._where(size, memory, room)
        if where is None:
            auto = memory == "auto"
            why = f", for {room / 1e9:.2g} GB of memory are to spare" if auto else ""
            self.place = f"{told}: read from {path} as they are wanted{why}"
        else:
            self.planes = self._load(where)
            self.place = f"{told}: in memory{' of the GPU' if where.type == 'cuda' else ''}"

    def __len__(self) -> int:
        return int(self.shape[1])

    def take(self, rows: NDArray[np.int64]) -> Tensor:
        """Parts (part, n, ..., y, x), float32 on the device, of the galaxies `rows` (n,)."""
        if self.planes is not None:
            chosen = self.planes[:, torch.from_numpy(rows).to(self.planes.device)]
        else:
            planes = np.empty((len(PARTS), len(rows), *self.shape[2:]), np.float16)
            with outside_faults(self._path):
                for array, plane in zip(self._arrays, planes, strict=True):
                    # One by one: a selection of many rows costs Zarr twice as long.
                    for k, row in enumerate(rows.tolist()):
                        plane[k] = array[row]
            chosen = torch.from_numpy(self._whole(planes))
        return chosen.to(self._device).float()

    def _where(self, size: int, memory: str, room: int) -> torch.device | None:
        if memory == "stream":
            return None
        if self._device.type == "cuda" and size <= torch.cuda.mem_get_info()[0] // 2:
            return self._device
        return torch.device("cpu") if size <= room or memory == "resident" else None

    def _load(self, where: torch.device) -> Tensor:
        planes = torch.empty(self.shape, dtype=torch.float16, device=where)
        with outside_faults(self._path):
            for start in range(0, len(self), _BLOCK):
                some = slice(start, start + _BLOCK)
                block = self._whole(np.stack([array[some] for array in self._arrays]))
                planes[:, some] = torch.from_numpy(block)
        return planes

    def _whole(self, planes: NDArray[np.float16]) -> NDArray[np.float16]:
        """Refuse galaxies without light: Zarr gives zeros where a file is gone."""
        middle = self.shape[-1] // 2
        if not planes[:2, ..., middle, middle].any(0).all():
            raise OutsideFault(
                f"{self._path} lacks pixels of galaxies: bring its disk back, or simulate again"
            )
        return planes
