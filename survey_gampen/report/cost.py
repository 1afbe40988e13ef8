"""What a run would cost: bytes, time here, and hours of a GPU."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor, nn

from survey_gampen.config import Settings
from survey_gampen.model.checkpoint import Checkpoint
from survey_gampen.posterior.settings import usable_cores
from survey_gampen.run.measure import measure
from survey_gampen.run.partitioning import partition_rows, places
from survey_gampen.run.space import DROP_ABOVE, ROW_BYTES, cutout_bytes

#: Dense bfloat16 products of an H100 SXM [operations/s], NVIDIA's data sheet of 2023, and the share
#: of them that the network is taken to reach: an assumption (docs/performance.md).
GPU_PEAK, GPU_SHARE = 989e12, 0.4
#: Cores of one worker, at most: as the shipped profile of the machine at hand has them.
_MOST_THREADS = 4


@dataclass(frozen=True)
class Cost:
    """Bytes, seconds and hours.

    Attributes
    ----------
    galaxies : int
        Those that go through the network.
    cutout_bytes, posterior_bytes, sample_bytes : int
        Of all cutouts before compression, of the posteriors, and of the draws where these are kept.
    keep_cutouts : bool
        Whether a run would keep its cutouts.
    device, precision : str
        Of the machine at hand.
    workers, threads : int
        As many processes as its cores allow, and the cores of each.
    seconds_per_galaxy : float
        Measured with one of them.
    seconds : float
        Of all galaxies on this machine, all workers at once, padding counted.
    flop_per_galaxy : float
        Of all passes of one galaxy.
    gpu_galaxies_per_second, gpu_hours : float
        Measured where this machine has a GPU, else of an H100 that is taken to reach 40 % of its
        peak.
    gpu_measured : bool
        Which of the two.
    """

    galaxies: int
    cutout_bytes: int
    posterior_bytes: int
    sample_bytes: int
    keep_cutouts: bool
    device: str
    precision: str
    workers: int
    threads: int
    seconds_per_galaxy: float
    seconds: float
    flop_per_galaxy: float
    gpu_galaxies_per_second: float
    gpu_hours: float
    gpu_measured: bool

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def estimate(settings: Settings, checkpoint: Checkpoint, rows: int, galaxies: int) -> Cost:
    """Estimate a run; a few passes are timed here, as planning does it.

    Parameters
    ----------
    settings, checkpoint
        Of the run.
    rows, galaxies : int
        Rows of the result, and those of them that have an image, as far as that is known.
    """
    cores = usable_cores()
    threads = min(cores, _MOST_THREADS)
    found = measure(
        str(checkpoint.path), settings.passes, settings.precision, threads, max(1, galaxies)
    )
    device, each = str(found.engine["device"]), found.seconds_per_galaxy
    workers = 1 if device == "cuda" else max(1, cores // threads)
    most = settings.partition_rows or partition_rows(found, rows, workers)
    # A pixel has about half of the rows that it might have.
    partitions = 1 if galaxies <= most else math.ceil(2 * galaxies / most)
    computed = places(galaxies, partitions, int(found.engine["batch"])) if galaxies else 0
    flop = settings.passes * flop_per_pass(checkpoint)
    rate = 1 / each if device == "cuda" else GPU_SHARE * GPU_PEAK / flop
    arch = checkpoint.config
    cutouts = galaxies * cutout_bytes(arch.size, arch.channels)
    keep = settings.keep_cutouts
    return Cost(
        galaxies=galaxies,
        cutout_bytes=cutouts,
        posterior_bytes=rows * ROW_BYTES,
        sample_bytes=6 * settings.passes * rows if settings.keep_samples else 0,
        keep_cutouts=cutouts <= DROP_ABOVE if keep is None else keep,
        device=device,
        precision=str(found.engine["precision"]),
        workers=workers,
        threads=threads,
        seconds_per_galaxy=each,
        seconds=computed * each / min(workers, partitions),
        flop_per_galaxy=flop,
        gpu_galaxies_per_second=rate,
        gpu_hours=galaxies / rate / 3600,
        gpu_measured=device == "cuda",
    )


def flop_per_pass(checkpoint: Checkpoint) -> float:
    """Operations of one pass of one galaxy: of the weight layers behind the first dropout."""
    network, total = checkpoint.network, 0

    def count(layer: nn.Module, _: object, out: Tensor) -> None:
        nonlocal total
        total += 2 * layer.get_parameter("weight").numel() * out[0, 0].numel()

    layers = [layer for layer in network.modules() if isinstance(layer, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    try:
        with torch.inference_mode():
            blank = torch.zeros(1, *network.arch.image_shape)
            features, theta = network.prefix(blank)
            before = 0 if network.dropout == "everywhere" else total
            network.tail(features, theta)
    finally:
        for hook in hooks:
            hook.remove()
    return float(total - before)
