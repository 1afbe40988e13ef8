"""What kind of worker is this, and how fast? Asked once, at planning, on one of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.posterior.settings import resolve_device
from survey_gampen.posterior.sizing import measure_speed, resolve_engine
from survey_gampen.run.thread import in_network_thread

#: Galaxies of a batch. Fixed for a kind of device and not measured: two runs of one input on one
#: machine must give the same bits, and a stopwatch never says the same twice.
BATCHES = {"cpu": 32, "cuda": 256}


@dataclass(frozen=True)
class Measured:
    """What a worker resolved.

    Attributes
    ----------
    engine : dict
        Arguments of the engine: device, precision, batch, threads.
    seconds_per_galaxy : float
        Time of all passes of one galaxy, in full batches.
    """

    engine: dict[str, Any]
    seconds_per_galaxy: float


@in_network_thread
def measure(model: str, passes: int, precision: str, threads: int, rows: int) -> Measured:
    """Resolve the engine's settings on this worker and time a few passes.

    Parameters
    ----------
    model : str
        Checkpoint.
    passes : int
        Of the run.
    precision : str
        ``auto``, ``int8``, ``bf16`` or ``fp32``.
    threads : int
        Cores of one worker.
    rows : int
        Galaxies of the whole run: a batch larger than that would be padding.
    """
    checkpoint = load_checkpoint(model)
    device = resolve_device()
    batch = max(1, min(BATCHES[device], rows))
    settings = resolve_engine(
        checkpoint, batch, device=device, precision=precision, threads=threads
    )
    return Measured(settings.to_dict(), measure_speed(checkpoint, settings).seconds(passes))
