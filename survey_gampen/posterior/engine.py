"""Monte-Carlo dropout: images in, draws from the joint posterior out.

What comes before the first dropout is the same in all passes that see a galaxy in one orientation,
and is computed once for these. Then for each pass, and for all galaxies of a batch at once, the
rest: multiply with the pass's mask, convolve, pool, ReLU (:mod:`survey_gampen.posterior.tail`).
That part runs at the rate of the device's dense matrix products, and the code around it is there to
stay out of their way: masks are unpacked once a pass for the whole batch, activations lie channels
last, and what can be done in place is.

A galaxy's draws depend on its pixels, its key, the seed and the number of the pass only. Batches
are padded to one shape, so every galaxy meets the same kernels; the tests move one through every
place of a batch.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from survey_gampen.model.checkpoint import Checkpoint
from survey_gampen.model.dropout import PackedMasks, noise_words
from survey_gampen.model.head import gaussian_parts
from survey_gampen.model.network import Gampen
from survey_gampen.model.orientations import corrections, oriented
from survey_gampen.model.philox import normals
from survey_gampen.posterior.drops import drops_few
from survey_gampen.posterior.layers import make_rowwise
from survey_gampen.posterior.settings import EngineSettings, honour, use_threads
from survey_gampen.posterior.tail import Prepared, Tail, mask_dtype

#: Galaxies whose deterministic part is computed at once. The localisation network of the largest
#: preset takes 40 MB a galaxy there, which a whole batch need not hold.
PREFIX_CHUNK = 8


@dataclass(frozen=True)
class Draws:
    """Draws from the joint posteriors of n galaxies, on the engine's device.

    Attributes
    ----------
    scaled : Tensor, (n, passes, 3) float32
        Scaled targets.
    physical : Tensor, (n, passes, 3) float32
        B/T, R_e [arcsec], flux [nJy].
    crop : Tensor, (n, 3) float32
        What the spatial transformer chose for the image as it lies (the mean over passes where
        dropout acts on it): side of the crop over side of the cutout, and offset of its centre in
        x and y [arcsec].
    finite : Tensor, (n,) bool
        Whether all draws are finite.
    novelty : Tensor, (n,) float32, or None
        Distance from what the network was trained on, where the model can tell.
    """

    scaled: Tensor
    physical: Tensor
    crop: Tensor
    finite: Tensor
    novelty: Tensor | None = None


@dataclass(frozen=True)
class Look:
    """What all passes of a batch share.

    Attributes
    ----------
    n : int
        Galaxies; the rest of the batch is padding.
    seen : list of Prepared
        For each orientation.
    added : Tensor, (orientations, batch, outputs) float32
        What is added to the outputs of passes in each orientation.
    pixels : Tensor, (batch, size, size) or (batch, channels, size, size)
    theta : Tensor, (batch, 2, 3)
        Affine transformation of the image as it lies.
    novelty : Tensor, (batch,), or None
    """

    n: int
    seen: list[Prepared]
    added: Tensor
    pixels: Tensor
    theta: Tensor
    novelty: Tensor | None


class Engine:
    """A network that is ready to draw.

    Parameters
    ----------
    checkpoint : Checkpoint
    passes : int
        Draws a galaxy.
    seed : int
        Of masks and noise.
    precision, batch, device, threads
        See :class:`EngineSettings`. A smaller batch than the planned one gives the same draws
        within the tolerance of reduced precision.

    Raises
    ------
    OutsideFault
        If this process cannot honour the settings.
    """

    def __init__(
        self,
        checkpoint: Checkpoint,
        *,
        passes: int,
        seed: int,
        precision: str,
        batch: int,
        device: str = "cpu",
        threads: int = 1,
    ) -> None:
        self.settings = EngineSettings(device, precision, batch, threads)
        self.device = honour(self.settings)
        self.targets = checkpoint.targets
        self.passes = passes
        self.orientations = checkpoint.config.orientations
        self.seed = seed
        self.mask_dtype = mask_dtype(precision, self.device)
        network: Gampen = copy.deepcopy(checkpoint.network).eval().requires_grad_(False)
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.novelty = checkpoint.novelty and checkpoint.novelty.to(self.device)
        # Dropout in the first part leaves nothing to compute once: then the readable reference
        # runs once a pass, in float32.
        self.cached = network.dropout == "regression"
        # On a GPU a drop would be twenty kernels that take longer to launch than to run.
        self.few = self.cached and device == "cpu" and drops_few(network)
        self.masks = PackedMasks(
            *(seed, passes, network.site_shapes, network.rates, self.device),
            named=(0,) if self.few else (),
        )
        rates = network.rates if self.cached else [0.0] * len(network.rates)
        self.exact = Tail(network, rates, "fp32", few=self.few)
        self.tail = self.exact
        if self.cached and precision != "fp32":
            self.tail = Tail(network, rates, precision, checkpoint.ranges, few=self.few)
        # Novelty is known by the features of the network as it is without dropout.
        self.undropped = self.exact
        if self.novelty and max(rates) > 0:
            self.undropped = Tail(network, [0.0] * len(rates), "fp32")
        make_rowwise(network)

    def draws(self, images: NDArray[np.float32], keys: NDArray[np.uint64]) -> Draws:
        """Draw from the posteriors of at most `batch` galaxies.

        Parameters
        ----------
        images : ndarray, (n, size, size), or (n, channels, size, size) of several bands, float32
            Pixels [nJy].
        keys : ndarray, (n,) uint64
            Key of each galaxy's own noise.

        Raises
        ------
        MemoryError, torch.OutOfMemoryError
            Try again with a smaller batch.
        """
        look = self.look(images)
        outputs, theta = self.through(look)
        with torch.inference_mode():
            scaled = self._noisy(outputs, keys)
            physical = self.targets.to_physical(scaled)
            finite = torch.isfinite(torch.cat([scaled, physical], dim=-1)).flatten(1).all(1)
            novelty = None if look.novelty is None else look.novelty[: look.n]
            return Draws(scaled, physical, self._crop(theta), finite, novelty)

    def outputs(self, images: NDArray[np.float32]) -> Tensor:
        """What the head gives in each pass, (n, passes, outputs) float32; see :meth:`draws`."""
        return self.through(self.look(images))[0]

    def look(self, images: NDArray[np.float32]) -> Look:
        """Compute what all passes share; see :meth:`draws`."""
        n, batch = len(images), self.settings.batch
        if n > batch:
            raise ValueError(f"{n} galaxies do not fit a batch of {batch}")
        use_threads(self.settings.threads)  # OpenMP counts them for each calling thread
        pixels = torch.zeros((batch, *images.shape[1:]), dtype=torch.float32)
        pixels[:n] = torch.from_numpy(np.ascontiguousarray(images, dtype=np.float32))
        pixels = pixels.to(self.device)
        with torch.inference_mode():
            seen: list[Prepared] = []
            anchors: list[Tensor] = []
            for k in range(self.orientations):
                features, transform = self._prefix(self._seen(pixels, k))
                prepared = exact = self.exact.prepared(features, transform)
                if self.tail is not self.exact:
                    prepared = self.tail.prepared(features, transform, exact)
                seen.append(prepared)
                anchors.append(exact.anchor)
                if k == 0:
                    theta, novelty = transform, self._novelty(features, transform, exact)
            rounded = torch.stack([prepared.anchor for prepared in seen])
            added = corrections(rounded, torch.stack(anchors))
            return Look(n, seen, added, pixels, theta, novelty)

    def through(self, look: Look) -> tuple[Tensor, Tensor]:
        """All passes: outputs (n, passes, outputs) and transformations (n, 2, 3), float32."""
        use_threads(self.settings.threads)
        with torch.inference_mode():
            through = self._cached if self.cached else self._everywhere
            outputs, theta = through(look)
            # Padding is dropped here: what follows works element by element.
            return outputs[: look.n], theta[: look.n]

    def _prefix(self, pixels: Tensor) -> tuple[Tensor, Tensor]:
        """What comes before the first block, without dropout."""
        parts = [self.network.prefix(chunk) for chunk in pixels.split(PREFIX_CHUNK)]
        return torch.cat([part[0] for part in parts]), torch.cat([part[1] for part in parts])

    def _seen(self, pixels: Tensor, k: int) -> Tensor:
        """Images as pass k sees them."""
        return oriented(pixels, k, self.orientations)

    def _novelty(self, features: Tensor, theta: Tensor, exact: Prepared) -> Tensor | None:
        if not self.novelty:
            return None
        if self.undropped is not self.exact:
            exact = self.undropped.prepared(features, theta)
        return self.novelty.score(exact.hidden)

    def _cached(self, look: Look) -> tuple[Tensor, Tensor]:
        """Passes through the blocks alone."""
        outputs = self._empty(len(look.pixels))
        for k in range(self.passes):
            outputs[:, k] = self.one_pass(look, k)
        return outputs, look.theta

    def one_pass(self, look: Look, k: int) -> Tensor:
        """Outputs (batch, outputs) of pass k through the blocks, where dropout begins there."""
        p = k % self.orientations
        masks = self.masks.unpack(k, self.mask_dtype)
        drops = self.masks.dropped(k, 0) if self.few else ()
        return self.tail.masked(look.seen[p], masks, drops) + look.added[p]

    def _everywhere(self, look: Look) -> tuple[Tensor, Tensor]:
        """Passes through the whole network; transformations are the mean over these."""
        outputs, theta = self._empty(len(look.pixels)), torch.zeros_like(look.theta)
        n_blocks, upright = len(self.network.blocks), range(0, self.passes, self.orientations)
        for k in range(self.passes):
            masks = _scaled(self.masks.unpack(k, torch.float32), self.masks.rates)
            for part in torch.arange(len(look.pixels)).split(PREFIX_CHUNK):
                where = slice(int(part[0]), int(part[-1]) + 1)
                seen = self._seen(look.pixels[where], k)
                features, transform = self.network.prefix(seen, masks[n_blocks:])
                outputs[where, k] = self.network.tail(features, transform, masks[:n_blocks])
                outputs[where, k] += look.added[k % self.orientations, where]
                if k in upright:
                    theta[where] += transform
        return outputs, theta / len(upright)

    def _empty(self, batch: int) -> Tensor:
        shape = (batch, self.passes, self.network.arch.outputs)
        return torch.empty(shape, dtype=torch.float32, device=self.device)

    def _noisy(self, outputs: Tensor, keys: NDArray[np.uint64]) -> Tensor:
        """A draw from the Gaussian that each pass predicts, (n, passes, 3)."""
        mean, factor = gaussian_parts(outputs)
        if factor is None:
            return mean.contiguous()
        keys_ = torch.from_numpy(np.asarray(keys, dtype=np.uint64).view(np.int64)).to(self.device)
        noise = normals(noise_words(self.seed, self.passes, keys_))[..., :3].float()
        # Written out, so that no library chooses the order of the sum.
        for component in range(3):
            mean = mean + factor[..., component] * noise[..., component, None]
        return mean

    def _crop(self, theta: Tensor) -> Tensor:
        """Transformations (n, 2, 3) -> scale, dx, dy (n, 3)."""
        arch = self.network.arch
        area = theta[:, 0, 0] * theta[:, 1, 1] - theta[:, 0, 1] * theta[:, 1, 0]
        offset = theta[:, :, 2] * (arch.size / 2 * arch.pixel_scale)  # coordinates run -1 to 1
        return torch.cat([area.abs().sqrt().unsqueeze(1), offset], dim=1)


def _scaled(masks: Sequence[Tensor | None], rates: Sequence[float]) -> list[Tensor | None]:
    return [
        None if mask is None else mask / (1 - rate) for mask, rate in zip(masks, rates, strict=True)
    ]
