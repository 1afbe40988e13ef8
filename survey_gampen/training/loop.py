"""`survey-gampen train`: one process, a checkpoint an epoch, resumable at any moment.

OUT holds ``state.safetensors`` (weights, moments of the optimiser, history; replaced atomically
after each epoch) and ``model.safetensors`` (the best epoch by the likelihood over passes, in
half precision: what ``run --model`` takes). The same command goes on where it stopped.
"""

from __future__ import annotations

import json
import math
import platform
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from survey_gampen.commit import replace
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.model.checkpoint import load_checkpoint, save_checkpoint
from survey_gampen.model.head import gaussian_parts, negative_log_likelihood
from survey_gampen.model.network import Gampen
from survey_gampen.model.presets import architecture
from survey_gampen.model.targets import Targets
from survey_gampen.training.data import Batch, PartsSet

_RECIPES = Path(__file__).parent / "recipes"
#: Steps between two looks at the loss.
_LOOK = 20


def main(
    recipe: str,
    data: Path,
    out: Path,
    *,
    init: str | None = None,
    device: str = "cpu",
    **changes: Any,
) -> int:
    """Train a network.

    Parameters
    ----------
    recipe : str
        Name of a shipped recipe, or a TOML file.
    data : Path
        Folder made by ``simulate --parts``.
    out : Path
        State and model; a state that is there is gone on with.
    init : str, optional
        Start from the weights of this model.
    device : str
    **changes
        Top-level values of the recipe to set differently (None: as it is), and ``learning_rate``.

    Raises
    ------
    InputError
        If recipe, data or initial model cannot be used, or `out` holds another training.
    OutsideFault
        If there is no such device.
    """
    chosen = load_recipe(recipe, **changes)
    training = Training(chosen, PartsSet(data, _usable(device)), out, init)
    training.run()
    return 0


def _usable(device: str) -> str:
    if device == "cuda":
        if not torch.cuda.is_available():
            raise OutsideFault("there is no GPU here: train with --device cpu, or elsewhere")
        # All steps have one shape: the fastest kernels are worth looking for.
        torch.backends.cudnn.benchmark = True
    elif device != "cpu":
        raise InputError(f"no device {device!r}: choose cpu or cuda")
    return device


def load_recipe(name_or_path: str, **changes: Any) -> dict[str, Any]:
    """A recipe with single values changed.

    Raises
    ------
    InputError
        If it is missing, no TOML, or has no such key.
    """
    shipped = _RECIPES / f"{name_or_path}.toml"
    path = shipped if shipped.is_file() else Path(name_or_path)
    try:
        recipe = tomllib.loads(path.read_text())
    except OSError:
        known = ", ".join(sorted(p.stem for p in _RECIPES.glob("*.toml")))
        raise InputError(
            f"no recipe {name_or_path!r}: give a TOML file or one of {known}"
        ) from None
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not valid TOML: {error}") from None
    for key, value in changes.items():
        if value is None:
            continue
        table = recipe if key in recipe else recipe["optimiser"]
        if key not in table:
            raise InputError(f"recipe {name_or_path!r} has no key {key!r}")
        table[key] = value
    return recipe


def one_cycle(progress: float, warm_up: float) -> float:
    """Learning rate as a share of its peak: half a cosine up, half a cosine down to zero.

    Parameters
    ----------
    progress : float
        Share of all steps done, 0 to 1.
    warm_up : float
        Where the peak lies.
    """
    if progress < warm_up:
        return 0.04 + 0.96 * 0.5 * (1 - math.cos(math.pi * progress / warm_up))
    return 0.5 * (1 + math.cos(math.pi * (progress - warm_up) / (1 - warm_up)))


class Training:
    """One training run: everything that changes from step to step.

    Parameters
    ----------
    recipe : dict
        From :func:`load_recipe`.
    data : PartsSet
    out : Path
    init : str, optional
        Model whose weights and targets to start from.
    """

    def __init__(
        self, recipe: dict[str, Any], data: PartsSet, out: Path, init: str | None = None
    ) -> None:
        self.recipe, self.data, self.out = recipe, data, out
        self.device = data.parts.device
        rows = np.arange(len(data))
        held_out = rows[-recipe["validation"] :]
        self.train_rows = rows[: -recipe["validation"]][: recipe["morphologies"] or None]
        if not self.steps:
            raise InputError(
                f"{len(data)} morphologies, less {recipe['validation']} for validation, do not "
                f"fill a batch of {recipe['batch']}: simulate more"
            )
        rng = np.random.Generator(np.random.Philox(key=[recipe["seed"], 1 << 62]))
        self.validation = data.mix(held_out, rng)
        torch.manual_seed(recipe["seed"])
        rate = recipe["dropout_rate"]
        if init:
            start = load_checkpoint(init)
            self.targets = start.targets
            self.network = Gampen(start.config, rate)
            self.network.load_state_dict(start.network.state_dict())
        else:
            self.targets = Targets.fit(*data.truth(self.train_rows, rng).T)
            self.network = Gampen(architecture(recipe["preset"]), rate)
        self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = self._optimiser()
        self.epoch, self.history = 0, []  # type: int, list[dict[str, Any]]
        if (out / "state.safetensors").exists():
            self._load()

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return len(self.train_rows) // int(self.recipe["batch"])

    def run(self) -> None:
        """Train to the last epoch of the recipe."""
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
        )
        console = Console()
        with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
            while self.epoch < self.recipe["epochs"]:
                name = f"epoch {self.epoch + 1}/{self.recipe['epochs']}"
                task = progress.add_task(name, total=self.steps)
                started = time.monotonic()
                loss = self._train(lambda task=task: progress.advance(task))  # type: ignore[misc]
                seconds = time.monotonic() - started
                self.epoch += 1
                figures = {
                    "epoch": self.epoch,
                    "training_loss": loss,
                    "images_per_second": self.steps * self.recipe["batch"] / seconds,
                    **self.validate(),
                }
                self.history.append(figures)
                told = [f"{k} {v:.4g}" for k, v in figures.items() if k != "epoch"]
                console.print(f"{name}: {', '.join(told)}", soft_wrap=True, highlight=False)
                self._save()

    def _train(self, tick: Callable[[], None]) -> float:
        recipe = self.recipe
        torch.manual_seed(recipe["seed"] * 100_003 + self.epoch)  # dropout masks
        self.network.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        batches = self.data.epoch(self.train_rows, recipe["batch"], recipe["seed"], self.epoch)
        for step, batch in enumerate(batches, start=self.epoch * self.steps):
            progress = step / (recipe["epochs"] * self.steps)
            share = one_cycle(progress, recipe["optimiser"]["warm_up"])
            for group in self.optimiser.param_groups:
                group["lr"] = group["peak"] * share
            loss = self._loss(batch)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe["optimiser"]["clip"])
            self.optimiser.step()
            total += loss.detach()
            # Now and then only: to look at a number is to wait for the GPU.
            look = step % _LOOK == 0 or (step + 1) % self.steps == 0
            if look and not torch.isfinite(total):
                raise InputError("the loss is not finite: lower learning_rate in the recipe")
            tick()
        return total.item() / self.steps

    def _loss(self, batch: Batch) -> Tensor:
        with torch.autocast(self.device.type, torch.bfloat16):
            masks = self.network.random_masks(len(batch.image), torch.empty(0, device=self.device))
            out = self.network(batch.image, masks)
        return negative_log_likelihood(out, self._scaled(batch)).mean()

    def _scaled(self, batch: Batch) -> Tensor:
        return torch.from_numpy(self.targets.to_scaled(*batch.truth.T)).to(self.device)

    @torch.inference_mode()
    def validate(self) -> dict[str, float]:
        """Figures over passes on the galaxies kept from training.

        Returns
        -------
        dict
            ``nll``: negative log-likelihood of the mixture of all passes; sigma of B/T and of
            R_e [arcsec], NMAD of the flux, from the median of the draws, and the share of truths
            in their central 68.27 % intervals, for galaxies brighter than magnitude 21.
        """
        with torch.random.fork_rng():
            torch.manual_seed(0)  # the same masks at each epoch: figures compare
            return self._validate()

    def _validate(self) -> dict[str, float]:
        self.network.eval()
        passes, size = self.recipe["passes"], 64
        scaled = self._scaled(self.validation)
        noise = torch.Generator(self.device).manual_seed(0)
        logs, draws = [], []
        for start in range(0, len(scaled), size):
            with torch.autocast(self.device.type, torch.bfloat16):
                features, theta = self.network.prefix(self.validation.image[start : start + size])
                outs = [
                    self.network.tail(features, theta, self.network.random_masks(1, features))
                    for _ in range(passes)
                ]
            out = torch.stack(outs, 1).float()
            target = scaled[start : start + size, None]
            log = -negative_log_likelihood(out, target)
            logs.append(torch.logsumexp(log, 1) - math.log(passes))
            mean, factor = gaussian_parts(out.repeat_interleave(16, 1))
            if factor is not None:
                eps = torch.randn(mean.shape, generator=noise, device=self.device)
                mean = mean + (factor @ eps.unsqueeze(-1)).squeeze(-1)
            draws.append(self.targets.to_physical(mean).cpu())
        physical = torch.cat(draws).numpy()
        truth = self.validation.truth
        bright = 31.4 - 2.5 * np.log10(truth[:, 2]) < 21
        low, middle, high = np.quantile(physical[bright], [0.15865, 0.5, 0.84135], axis=1)
        truth = truth[bright]
        covered = ((low <= truth) & (truth <= high)).mean(0)
        ratio = middle[:, 2] / truth[:, 2] - 1
        return {
            "nll": -torch.cat(logs).mean().item(),
            "sigma_bt": float((middle - truth)[:, 0].std()),
            "sigma_r_e": float((middle - truth)[:, 1].std()),
            "nmad_flux": float(1.4826 * np.median(np.abs(ratio - np.median(ratio)))),
            "covered_bt": float(covered[0]),
            "covered_r_e": float(covered[1]),
            "covered_flux": float(covered[2]),
        }

    def _optimiser(self) -> torch.optim.Optimizer:
        settings = self.recipe["optimiser"]
        peak = settings["learning_rate"]
        crop = list(self.network.localisation.parameters())
        rest = [p for n, p in self.network.named_parameters() if not n.startswith("localisation.")]
        return torch.optim.AdamW(
            [
                {"params": rest, "peak": peak},
                {"params": crop, "peak": peak * settings["localisation_factor"]},
            ],
            weight_decay=settings["weight_decay"],
        )

    def _save(self) -> None:
        header = {
            "recipe": self.recipe,
            "targets": self.targets.to_dict(),
            "data": self.data.settings,
            "epoch": self.epoch,
            "history": self.history,
        }
        tensors = {f"network.{k}": v for k, v in self.network.state_dict().items()}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"optimiser.{i}.{k}": v for k, v in state.items()}
        tensors = {k: v.detach().cpu().contiguous() for k, v in tensors.items()}
        metadata = {"training": json.dumps(header)}
        staging = self.out / ".staging"
        replace(self.out / "state.safetensors", lambda p: save_file(tensors, p, metadata), staging)
        if self.history[-1]["nll"] <= min(h["nll"] for h in self.history):
            replace(self.out / "model.safetensors", self._export, staging)

    def _export(self, path: Path) -> None:
        population = self.data.settings["population"]
        meta = {
            "band": self.recipe["band"],
            "trained_on": {
                "population": population["name"],
                "magnitude": population["magnitude"],
                "sky_sigma_njy": [s * 57.544 for s in population["noise"]["sky_sigma"]],
                "psf_fwhm": population["psf"]["fwhm"],
                "pixel_scale": population["pixel_scale"],
            },
            "metrics": self.history[-1],
            "provenance": {
                "recipe": self.recipe,
                "n_morphologies": len(self.train_rows),
                "seed": self.data.settings["seed"],
                "torch": torch.__version__,
                "machine": platform.machine(),
            },
        }
        save_checkpoint(path, self.network, self.targets, meta)

    def _load(self) -> None:
        path = self.out / "state.safetensors"
        with safe_open(path, framework="pt") as f:
            header = json.loads(f.metadata()["training"])
            tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118
        if header["recipe"] != self.recipe or header["data"] != self.data.settings:
            raise InputError(
                f"{self.out} holds a training with other settings: choose another --out"
            )
        self.targets = Targets.from_dict(header["targets"])
        self.epoch, self.history = header["epoch"], header["history"]
        prefix = "network."
        weights = {k[len(prefix) :]: v for k, v in tensors.items() if k.startswith(prefix)}
        self.network.load_state_dict(weights)
        state: dict[int, dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith("optimiser."):
                _, index, key = name.split(".")
                if tensor.dim() == 4:  # as the weights lie
                    tensor = tensor.contiguous(memory_format=torch.channels_last)
                state.setdefault(int(index), {})[key] = tensor
        self.optimiser.load_state_dict(self.optimiser.state_dict() | {"state": state})
