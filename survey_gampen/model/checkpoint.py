"""One safetensors file holds a model: weights, and in its header all that gives them meaning.

Nothing is unpickled. The header's ``survey_gampen`` entry is JSON: architecture, dropout rates,
targets, the range of data the model was trained on, metrics and provenance.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from survey_gampen.errors import InputError
from survey_gampen.model.network import Gampen
from survey_gampen.model.novelty import Novelty
from survey_gampen.model.presets import Architecture
from survey_gampen.model.targets import Targets

#: Where the models that come with the package lie.
WEIGHTS = Path(__file__).parent / "weights"
_KEY = "survey_gampen"
_FORMAT = 1


@dataclass
class Checkpoint:
    """A model that can be used.

    Attributes
    ----------
    network : Gampen
        In evaluation mode, float32, on the CPU.
    targets : Targets
    meta : dict
        ``band`` (that of the flux), ``trained_on`` (ranges of the data), ``metrics``,
        ``provenance``. Of a network that sees several bands ``bands``, one a channel, the first of
        which is ``band``; then each range is a list with one for each of them.
    sha256 : str
        Of the file.
    path : Path or None
    novelty : Novelty or None
        What tells galaxies from what the network has never seen; older models have none.
    """

    network: Gampen
    targets: Targets
    meta: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    path: Path | None = None
    novelty: Novelty | None = None

    @property
    def config(self) -> Architecture:
        """The network's architecture."""
        return self.network.arch

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands of the channels in their order; of a network with one channel the band that it was
        trained in, if that is known."""
        named = self.meta.get("bands") or [self.meta.get("band")]
        return tuple(str(band) for band in named if band)

    def check_takes(self, size: int, pixel_scale: float, bands: Sequence[str]) -> None:
        """See that the model is made for such images.

        One of a single channel is not particular about its band.

        Raises
        ------
        InputError
            If their size [px] or pixel scale [arcsec / px] differs, or their bands and their order.
        """
        self.config.check_takes(size, pixel_scale)
        several = self.config.channels > 1
        if len(bands) != self.config.channels or (several and tuple(bands) != self.bands):
            own = ", ".join(self.bands) if several else "one band"
            raise InputError(
                f"the model takes images of {own}, these are of {', '.join(bands)}: choose another"
                " model"
            )

    @property
    def ranges(self) -> list[float]:
        """The largest activation that each masked convolution takes; empty where unknown."""
        return list(self.meta.get("activation_ranges", ()))

    def is_faithful(self, precision: str) -> bool:
        """Whether the posteriors in a precision are known to be those in float32."""
        measured = self.meta.get("fidelity", {}).get(precision)
        return measured["kept"] if measured else precision in ("fp32", "bf16")


def shipped_models() -> list[str]:
    """Names of the models that come with the package."""
    return sorted(p.stem for p in WEIGHTS.glob("*.safetensors"))


def find_checkpoint(name_or_path: str | Path) -> Path:
    """The file of a shipped model's name, or the path itself.

    Raises
    ------
    InputError
        If neither exists; names the shipped models.
    """
    shipped = WEIGHTS / f"{name_or_path}.safetensors"
    if shipped.is_file():
        return shipped
    path = Path(name_or_path)
    if path.is_file():
        return path
    raise InputError(
        f"no model {str(name_or_path)!r}: give a .safetensors file or one of "
        f"{', '.join(shipped_models()) or '(none shipped)'}"
    )


def load_checkpoint(name_or_path: str | Path) -> Checkpoint:
    """Read a model.

    Raises
    ------
    InputError
        If it is missing, is no safetensors file or was not written by this package.
    """
    path = find_checkpoint(name_or_path)
    try:
        with safe_open(path, framework="pt") as f:
            header = json.loads((f.metadata() or {}).get(_KEY, "null"))
            tensors = {name: f.get_tensor(name).float() for name in f.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise InputError(f"{path} is not a readable safetensors file: {error}") from None
    if not isinstance(header, dict) or header.get("format") != _FORMAT:
        raise InputError(f"{path} is not a survey-gampen model: train or convert one")
    try:
        network = Gampen(Architecture.from_dict(header["architecture"]), header["rates"])
        targets, meta = Targets.from_dict(header["targets"]), dict(header["meta"])
        novelty = Novelty.take(tensors, meta)
        network.load_state_dict(tensors)
        _check_bands(network.arch.channels, meta)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise InputError(f"{path}: weights do not fit the architecture: {reason}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{path}: its header is broken ({error!r}): export it again") from None
    return Checkpoint(
        network=network.eval().requires_grad_(False),
        targets=targets,
        meta=meta,
        sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
        path=path,
        novelty=novelty,
    )


def _check_bands(channels: int, meta: Mapping[str, Any]) -> None:
    """Each of several channels has a band of its own, the first that of the flux."""
    bands = meta.get("bands", [])
    if channels > 1 and len(set(bands)) != channels:
        raise ValueError(f"bands {bands} of {channels} channels")
    if bands and meta.get("band") != bands[0]:
        raise ValueError(f"band {meta.get('band')!r} is not the first of {bands}")


def save_checkpoint(
    path: Path,
    network: Gampen,
    targets: Targets,
    meta: Mapping[str, Any],
    dtype: torch.dtype = torch.float16,
    novelty: Novelty | None = None,
) -> None:
    """Write a model, its weights in half precision unless `dtype` says otherwise.

    Raises
    ------
    ValueError
        If a weight is not finite in `dtype`.
    """
    tensors = {k: v.detach().cpu().to(dtype).contiguous() for k, v in network.state_dict().items()}
    for name, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise ValueError(f"weight {name} is not finite in {dtype}")
    meta = dict(meta)
    if novelty is not None:
        tensors |= {name: tensor.contiguous() for name, tensor in novelty.tensors().items()}
        meta["novelty_threshold"] = novelty.threshold
    header = {
        "format": _FORMAT,
        "architecture": network.arch.to_dict(),
        "rates": list(network.rates),
        "targets": targets.to_dict(),
        "meta": meta,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata={_KEY: json.dumps(header)})
