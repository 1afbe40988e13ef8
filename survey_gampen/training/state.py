"""The state of a training between two epochs, as one safetensors file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn, optim


@dataclass(frozen=True)
class State:
    """What a training needs to go on.

    Attributes
    ----------
    header : dict
        Recipe, targets, settings of the data, epochs done and their figures.
    weights : dict of str to Tensor
        Of the network, float32.
    averaged : dict of str to Tensor
        Of the network whose weights are the mean over the latest steps.
    moments : dict of int to dict
        What the optimiser keeps for each parameter.
    """

    header: dict[str, Any]
    weights: dict[str, Tensor]
    averaged: dict[str, Tensor]
    moments: dict[int, dict[str, Tensor]]

    @classmethod
    def of(
        cls,
        network: nn.Module,
        averaged: nn.Module,
        optimiser: optim.Optimizer,
        header: dict[str, Any],
    ) -> State:
        """The present state."""
        moments = optimiser.state_dict()["state"]
        return cls(header, network.state_dict(), averaged.state_dict(), moments)

    def save(self, path: Path) -> None:
        """Write everything to a file."""
        tensors = {f"network.{name}": tensor for name, tensor in self.weights.items()}
        tensors |= {f"averaged.{name}": tensor for name, tensor in self.averaged.items()}
        for index, kept in self.moments.items():
            # Plain SGD keeps None where it has no momentum yet.
            tensors |= {f"optimiser.{index}.{k}": v for k, v in kept.items() if v is not None}
        # Where no mean is made, both are the same tensors, which a file may not hold twice.
        tensors = {n: t.detach().cpu().contiguous().clone() for n, t in tensors.items()}
        save_file(tensors, path, {"training": json.dumps(self.header)})

    @classmethod
    def load(cls, path: Path) -> State:
        """Read what :meth:`save` wrote."""
        networks: dict[str, dict[str, Tensor]] = {"network": {}, "averaged": {}}
        moments: dict[int, dict[str, Tensor]] = {}
        with safe_open(path, framework="pt") as f:
            header = json.loads(f.metadata()["training"])
            for name in f.keys():  # noqa: SIM118
                kind, _, rest = name.partition(".")
                tensor = f.get_tensor(name)
                if kind in networks:
                    networks[kind][rest] = tensor
                else:
                    index, key = rest.split(".")
                    moments.setdefault(int(index), {})[key] = tensor
        return cls(header, networks["network"], networks["averaged"], moments)

    def restore(self, network: nn.Module, averaged: nn.Module, optimiser: optim.Optimizer) -> None:
        """Put everything back where it came from."""
        network.load_state_dict(self.weights)
        averaged.load_state_dict(self.averaged)
        moments = {
            index: {key: _as_weights_lie(tensor) for key, tensor in kept.items()}
            for index, kept in self.moments.items()
        }
        optimiser.load_state_dict(optimiser.state_dict() | {"state": moments})


def _as_weights_lie(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor
