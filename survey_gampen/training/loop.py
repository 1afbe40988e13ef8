"""Training a network: steps, epochs, the best model.

The folder OUT holds ``state.safetensors`` (weights, moments of the optimiser, history; replaced
atomically after each epoch), ``model.safetensors`` (the best epoch by the likelihood over passes,
in half precision: what ``run --model`` takes), and for other programs the history again, as
``history.parquet`` and ``tensorboard/`` (:mod:`survey_gampen.training.history`). Another training
on the same folder goes on where this one stopped.
"""

from __future__ import annotations

import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from survey_gampen.commit import replace
from survey_gampen.errors import InputError
from survey_gampen.model.checkpoint import load_checkpoint, save_checkpoint
from survey_gampen.model.head import negative_log_likelihood
from survey_gampen.model.network import Gampen
from survey_gampen.model.presets import architecture
from survey_gampen.model.targets import Targets
from survey_gampen.training import guide
from survey_gampen.training.averaged import Averaged
from survey_gampen.training.data import Batch, TrainingSet
from survey_gampen.training.finish import finish
from survey_gampen.training.history import History
from survey_gampen.training.ranks import Ranks
from survey_gampen.training.recipe import learning_share, site_rates
from survey_gampen.training.state import State
from survey_gampen.training.validation import figures
from survey_gampen.training.watch import Watch
from survey_gampen.training.widths import rescale

#: Steps between two looks at the loss.
_LOOK = 20


class _WithCrop(nn.Module):
    """A network as a step of training calls it, in the form that can be made parallel."""

    def __init__(self, network: Gampen) -> None:
        super().__init__()
        self.network = network

    def forward(self, image: Tensor, masks: list[Tensor | None]) -> tuple[Tensor, Tensor]:
        return self.network.with_crop(image, masks)


class Training:
    """One training run: everything that changes from step to step.

    Parameters
    ----------
    recipe : dict
        From :func:`load_recipe`.
    data : TrainingSet
    out : Path
    init : str, optional
        Model whose weights and targets to start from.
    ranks : Ranks
        Which share of each batch is this process's.
    staging : Path, optional
        Where files are made before they are published, on the file system of `out`.
    """

    def __init__(
        self,
        recipe: dict[str, Any],
        data: TrainingSet,
        out: Path,
        init: str | None = None,
        ranks: Ranks = Ranks(),  # noqa: B008 - frozen
        staging: Path | None = None,
    ) -> None:
        self.recipe, self.data, self.out, self.ranks = recipe, data, out, ranks
        self.staging = staging or out / ".staging"
        self.share = ranks.share(recipe["batch"])
        self.device = data.device
        self.before: dict[str, Any] | None = None  # provenance of the weights to start from
        rows, self.held_out = data.split(recipe["validation"])
        self.train_rows = rows[: recipe["morphologies"] or None]
        if not self.steps:
            raise InputError(
                f"{len(self.train_rows)} of the {len(data)} galaxies are left to train on "
                f"({len(self.held_out)} are for validation), too few for a batch of "
                f"{recipe['batch']}: give more, or a recipe with a smaller batch or validation"
            )
        rng = np.random.Generator(np.random.Philox(key=[recipe["seed"], 1 << 62]))
        self.validation = data.mix(self.held_out, rng)
        torch.manual_seed(recipe["seed"])
        if init:
            start = load_checkpoint(init)
            start.check_takes(data.size, data.pixel_scale, data.bands)
            self.before = start.meta.get("provenance")
            self.targets = start.targets
            self.network = Gampen(start.config, site_rates(recipe, start.config))
            self.network.load_state_dict(start.network.state_dict())
            if recipe["rescale"]:
                self.targets = self._fitted(start.targets.form, rng)
                rescale(self.network, start.targets, self.targets)
            self._freeze()
        else:
            self.targets = self._fitted(recipe["targets"], rng)
            arch = architecture(
                recipe["preset"],
                size=data.size,
                pixel_scale=data.pixel_scale,
                channels=len(data.bands),
            )
            self.network = Gampen(arch, site_rates(recipe, arch))
        self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.optimiser = self._optimiser()
        self.averaged = Averaged(self.network, recipe["optimiser"]["average"])
        self.epoch, self.history = 0, []  # type: int, list[dict[str, Any]]
        if (out / "state.safetensors").exists():
            self._load()
        self.step = ranks.parallel(_WithCrop(self.network), self.device)

    def _fitted(self, form: str, rng: np.random.Generator) -> Targets:
        bt, r_e, flux = self.data.truth(self.train_rows, rng).T
        return Targets.fit(bt, r_e, flux, form=form)

    def _freeze(self) -> None:
        """Leave parts of the initial model as they are."""
        frozen: list[nn.Module] = []
        if self.recipe["freeze"] != "nothing":
            frozen.append(self.network.localisation)
        if self.recipe["freeze"] == "features":
            convolutions = [b for b in self.network.blocks if isinstance(b.weight_layer, nn.Conv2d)]
            frozen += [self.network.conv1, *convolutions]
        for module in frozen:
            module.requires_grad_(False)

    @property
    def steps(self) -> int:
        """Steps an epoch."""
        return len(self.train_rows) // int(self.recipe["batch"])

    def run(self, watch: Watch | None = None) -> None:
        """Train to the last epoch of the recipe, and finish the best model."""
        watch = watch or Watch()
        self.to_the_last_epoch(watch)
        if self.ranks.first:
            path, rows = self.out / "model.safetensors", (self.train_rows, self.held_out)
            finish(path, self.data, *rows, self.recipe["seed"], self.staging, watch.says)

    def to_the_last_epoch(self, watch: Watch | None = None) -> None:
        """Train, with a state and perhaps a model saved after each epoch."""
        watch, epochs = watch or Watch(), self.recipe["epochs"]
        with History(self.out, self.staging) as told:
            if self.history and self.ranks.first:
                told.write(self.history)
            while self.epoch < epochs and not self._waited_enough():
                watch.begins(self.epoch + 1, epochs, self.steps)
                started = time.monotonic()
                loss = self._train(watch)
                seconds = time.monotonic() - started
                self.epoch += 1
                if not self.ranks.first:
                    continue
                self.history.append(self._figures(loss, seconds))
                self._save()
                told.write(self.history)
                watch.ended(self.history[-1], epochs)

    def _figures(self, loss: float, seconds: float) -> dict[str, Any]:
        """What is told of the epoch that has ended: see :class:`History`."""
        return {
            "epoch": self.epoch,
            "training_loss": loss,
            "learning_rate": self.optimiser.param_groups[0]["lr"],
            "seconds": seconds,
            "images_per_second": self.steps * self.recipe["batch"] / seconds,
            **self.validate(),
            "ended": time.time(),
        }

    def _waited_enough(self) -> bool:
        """Whether the likelihood has not been better for as long as the recipe has patience."""
        nll = [epoch["nll"] for epoch in self.history]
        since = len(nll) - 1 - int(np.argmin(nll)) if nll else 0
        patience = self.recipe["patience"]
        return self.ranks.agreed(bool(patience) and since >= patience, self.device)

    def _train(self, watch: Watch) -> float:
        recipe = self.recipe
        # Dropout masks; each process has its own.
        torch.manual_seed(recipe["seed"] * 100_003 + self.epoch + (self.ranks.index << 40))
        self.network.train()
        total = torch.zeros((), dtype=torch.float64, device=self.device)
        order = (recipe["batch"], recipe["seed"], self.epoch)
        batches = self.data.epoch(self.train_rows, *order, self.share, recipe["shift"])
        for step, batch in enumerate(batches, start=self.epoch * self.steps):
            progress = step / (recipe["epochs"] * self.steps)
            share = learning_share(progress, recipe["optimiser"])
            for group in self.optimiser.param_groups:
                group["lr"] = group["peak"] * share
            loss = self._loss(batch, 1 - progress)
            self.optimiser.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(self.network.parameters(), recipe["optimiser"]["clip"])
            self.optimiser.step()
            self.averaged.follow(self.network, step)
            total += loss.detach()
            # Now and then only: to look at a number is to wait for the GPU.
            look = step % _LOOK == 0 or (step + 1) % self.steps == 0
            if look and not torch.isfinite(total):
                raise InputError("the loss is not finite: lower learning_rate in the recipe")
            watch.step()
        return self.ranks.mean(total) / self.steps

    def _loss(self, batch: Batch, left: float) -> Tensor:
        """The loss of a batch when a share `left` of all steps is still to come."""
        network = self.network
        with torch.autocast(self.device.type, torch.bfloat16):
            masks = network.random_masks(len(batch.image), torch.empty(0, device=self.device))
            out, theta = self.step(batch.image, masks)
        likelihood = self._weighted(negative_log_likelihood(out, self._scaled(batch)), batch)
        crop = self.recipe["crop"]
        half_side = 0.5 * network.arch.size * network.arch.pixel_scale
        pull = guide.distance(theta, batch.truth[:, 1], half_side, crop)
        return likelihood + crop["guide"] * left * pull

    def _weighted(self, each: Tensor, batch: Batch) -> Tensor:
        if batch.weight is not None:
            each = each * torch.from_numpy(batch.weight).to(each)
        return each.mean()

    def _scaled(self, batch: Batch) -> Tensor:
        return torch.from_numpy(self.targets.to_scaled(*batch.truth.T)).to(self.device)

    def validate(self) -> dict[str, float]:
        """Figures on the galaxies kept from training: see :func:`validation.figures`."""
        return figures(self.averaged.network, self.targets, self.validation, self.recipe["passes"])

    def _optimiser(self) -> torch.optim.Optimizer:
        settings = self.recipe["optimiser"]
        peak = settings["learning_rate"]
        crop = list(self.network.localisation.parameters())
        rest = [p for n, p in self.network.named_parameters() if not n.startswith("localisation.")]
        groups = [
            {"params": rest, "peak": peak},
            {"params": crop, "peak": peak * settings["localisation_factor"]},
        ]
        momentum, decay = settings["momentum"], settings["weight_decay"]
        if settings["kind"] == "sgd":
            return torch.optim.SGD(
                groups, lr=peak, momentum=momentum, nesterov=True, weight_decay=decay
            )
        return torch.optim.AdamW(groups, lr=peak, betas=(momentum, 0.999), weight_decay=decay)

    def _save(self) -> None:
        header = {
            "recipe": self.recipe,
            "targets": self.targets.to_dict(),
            "data": self.data.settings,
            "epoch": self.epoch,
            "history": self.history,
        }
        state = State.of(self.network, self.averaged.network, self.optimiser, header)
        # The model first: a state that says "epoch 7 was the best" must not stand without it.
        if self.history[-1]["nll"] <= min(h["nll"] for h in self.history):
            replace(self.out / "model.safetensors", self._export, self.staging)
        replace(self.out / "state.safetensors", state.save, self.staging)

    def _export(self, path: Path) -> None:
        bands = self.data.bands
        several = {"band": bands[0], "bands": list(bands)} if len(bands) > 1 else {}
        meta = {
            "band": self.recipe["band"],
            **several,
            "trained_on": self.data.trained_on(),
            "metrics": self.history[-1],
            "provenance": {
                "recipe": self.recipe,
                "n_galaxies": len(self.train_rows),
                "seed": self.data.settings.get("seed"),
                "epochs_done": self.epoch,
                "started_from": self.before,
                "torch": torch.__version__,
                "machine": platform.machine(),
            },
        }
        save_checkpoint(path, self.averaged.network, self.targets, meta)

    def _load(self) -> None:
        state = State.load(self.out / "state.safetensors")
        header = state.header
        if header["recipe"] != self.recipe or header["data"] != self.data.settings:
            raise InputError(
                f"{self.out} holds a training with other settings: choose another --out"
            )
        self.targets = Targets.from_dict(header["targets"])
        self.epoch, self.history = header["epoch"], header["history"]
        state.restore(self.network, self.averaged.network, self.optimiser)
