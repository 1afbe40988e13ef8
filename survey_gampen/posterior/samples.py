"""The joint draws themselves, for those who want more than their summary.

One Zarr v3 group a partition: ``scaled(object, pass, parameter)`` in half precision beside
``object_id``. Draw k is one network for *all* galaxies, so ``scaled[:, k]`` of all partitions
together is one coherent draw of the whole catalogue: statistics of a population belong inside
one draw, and their spread over k is their uncertainty.

Scaled targets are of order 1, where half precision is good to 0.05 %; fluxes themselves would
overflow it. :func:`read_samples` gives physical values back.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import torch
import zarr
from numpy.typing import NDArray
from zarr.codecs import BloscCodec

from survey_gampen.generations import open_group
from survey_gampen.model.targets import PARAMETERS, Targets
from survey_gampen.posterior.engine import Draws
from survey_gampen.quiet import quiet_zarr
from survey_gampen.storage import zarr_store

FORMAT = "survey-gampen samples 1"
#: Galaxies in a chunk and chunks in a shard: 0.4 MB and 12 MB at 1000 passes. One writer holds
#: one shard, and writes it whole.
CHUNK = 64
CHUNKS_A_SHARD = 32
_LARGEST = float(np.finfo(np.float16).max)


@dataclass(frozen=True)
class SampleFacts:
    """What the samples of a partition are samples of.

    Attributes
    ----------
    object_id : sequence of int or str
        All rows of the partition, in order.
    passes : int
    targets : Targets
        From scaled to physical values.
    fingerprint : str
        Of the run.
    attributes : dict
        More for the group's attributes: seed, model and the like.
    """

    object_id: Sequence[int] | Sequence[str] | NDArray[Any]
    passes: int
    targets: Targets
    fingerprint: str
    attributes: dict[str, Any] = field(default_factory=dict)


class SampleWriter:
    """Writes the group of one partition in bounded memory; a context manager.

    Rows that are never written (no posterior) hold NaN. The root attribute ``complete`` is
    written last, when the block ends without an error. Publishing the folder is up to the caller.

    Parameters
    ----------
    folder : Path
        Made by this class.
    facts : SampleFacts
    """

    def __init__(self, folder: Path, facts: SampleFacts) -> None:
        n, passes = len(facts.object_id), facts.passes
        chunk = max(1, min(CHUNK, n))
        self._shard = chunk * max(1, min(CHUNKS_A_SHARD, -(-n // chunk)))
        self._group = zarr.open_group(folder, mode="w", zarr_format=3)
        self._scaled: Any = self._group.create_array(
            "scaled",
            shape=(n, passes, len(PARAMETERS)),
            dtype="float16",
            chunks=(chunk, passes, len(PARAMETERS)),
            shards=(self._shard, passes, len(PARAMETERS)),
            compressors=[BloscCodec(cname="zstd", clevel=3, shuffle="bitshuffle")],
            fill_value=np.nan,
            dimension_names=("object", "pass", "parameter"),
            attributes={"description": "scaled targets; read_samples gives physical values"},
        )
        ids = np.asarray(facts.object_id)
        labels = {
            "object_id": (_storable(ids), "object"),
            "parameter": (_storable(np.array(PARAMETERS)), "parameter"),
        }
        for name, (values, dimension) in labels.items():
            quiet_zarr()
            self._group.create_array(name, data=values, dimension_names=(dimension,))
        self._group.attrs.update(
            {
                "format": FORMAT,
                "fingerprint": facts.fingerprint,
                "targets": facts.targets.to_dict(),
                **facts.attributes,
            }
        )
        self._start = 0
        self._held = self._empty()

    def write(self, rows: NDArray[np.int_], draws: Draws) -> None:
        """Add the draws of some rows.

        Parameters
        ----------
        rows : ndarray, (n,)
            Places in the partition, increasing within a call and from call to call.
        draws : Draws
            Of these rows. A galaxy with a draw that is not finite keeps NaN throughout.
        """
        scaled = draws.scaled.masked_fill(~draws.finite[:, None, None], torch.nan)
        half = scaled.clamp(-_LARGEST, _LARGEST).half().cpu().numpy()
        while len(rows):
            here = int(np.searchsorted(rows, self._start + self._shard))
            self._held[rows[:here] - self._start] = half[:here]
            rows, half = rows[here:], half[here:]
            if len(rows):
                self._flush()

    def _flush(self) -> None:
        stop = min(self._start + self._shard, self._scaled.shape[0])
        self._scaled[self._start : stop] = self._held[: stop - self._start]
        self._start += self._shard
        self._held = self._empty()

    def _empty(self) -> NDArray[np.float16]:
        return np.full((self._shard, *self._scaled.shape[1:]), np.nan, dtype=np.float16)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is None:
            self._flush()
            self._group.attrs["complete"] = True


def fingerprint_of(folder: Path) -> str | None:
    """The run that a published group belongs to; None where there is no whole group."""
    try:
        attributes = zarr.open_group(zarr_store(folder), mode="r").attrs
    except (FileNotFoundError, KeyError, ValueError):
        return None
    return str(attributes["fingerprint"]) if attributes.get("complete") else None


def read_samples(
    folder: Path, rows: slice = slice(None), passes: slice = slice(None)
) -> tuple[NDArray[Any], NDArray[np.float32]]:
    """Read draws back.

    Parameters
    ----------
    folder : Path
        Group of one partition.
    rows, passes : slice
        The part that is wanted.

    Returns
    -------
    object_id : ndarray, (n,)
    physical : ndarray, (n, passes, 3)
        B/T, R_e [arcsec], flux [nJy].
    """
    group = open_group(folder)
    targets = Targets.from_dict(group.attrs["targets"])
    scaled = torch.from_numpy(group["scaled"][rows, passes].astype(np.float32))
    quiet_zarr()
    return group["object_id"][rows], targets.to_physical(scaled).numpy()


def _storable(values: NDArray[Any]) -> NDArray[Any]:
    """Text in numpy's own string type; numbers as they are."""
    if values.dtype.kind in "OUT":
        return values.astype(np.dtypes.StringDType())
    return values
