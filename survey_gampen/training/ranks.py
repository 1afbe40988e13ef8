"""The processes of one training, each on its share of every batch.

They hold the same weights and see the same steps: gradients are averaged by
:class:`torch.nn.parallel.DistributedDataParallel`, over gloo on CPUs and NCCL on GPUs. One process
alone needs none of that, and is the same training with a share that is the whole.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from survey_gampen.errors import InputError

#: How long a process waits for the others: one of them may be validating, or loading its data.
PATIENCE = timedelta(minutes=30)


@dataclass(frozen=True)
class Ranks:
    """Which of the processes this one is.

    Attributes
    ----------
    index, size : int
        Its number, and how many there are.
    here : int
        How many are on this machine, and share its memory.
    """

    index: int = 0
    size: int = 1
    here: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that validates and saves."""
        return self.index == 0

    def share(self, batch: int) -> slice:
        """Which images of a batch are this process's.

        Raises
        ------
        InputError
            If they can't be shared out evenly.
        """
        if batch % self.size:
            raise InputError(
                f"a batch of {batch} images can't be shared evenly by {self.size} ranks: change "
                "batch in the recipe, or --ranks"
            )
        part = batch // self.size
        return slice(self.index * part, (self.index + 1) * part)

    def parallel(self, module: nn.Module, device: torch.device) -> nn.Module:
        """A module whose gradients are averaged over the processes."""
        if self.size == 1:
            return module
        ids = [device] if device.type == "cuda" else None
        return DistributedDataParallel(module, device_ids=ids, gradient_as_bucket_view=True)

    def mean(self, value: Tensor) -> float:
        """Mean of a number over the processes."""
        if self.size > 1:
            dist.all_reduce(value)
        return value.item() / self.size

    def agreed(self, value: bool, device: torch.device) -> bool:
        """What the first process says."""
        if self.size == 1:
            return value
        said = torch.tensor(int(value), device=device)
        dist.broadcast(said, src=0)
        return bool(said.item())


@contextlib.contextmanager
def joined(ranks: Ranks, device: str, store: Any) -> Iterator[Ranks]:
    """Be one of the processes, which meet at `store`, inside the block; knows who else is here."""
    kind: dict[str, Any] = {"backend": "nccl" if device == "cuda" else "gloo"}
    dist.init_process_group(
        **kind, store=store, rank=ranks.index, world_size=ranks.size, timeout=PATIENCE
    )
    try:
        host = socket.gethostname()
        store.set(f"host-{ranks.index}", host)
        hosts = [store.get(f"host-{index}").decode() for index in range(ranks.size)]
        yield replace(ranks, here=hosts.count(host))
    finally:
        dist.destroy_process_group()
