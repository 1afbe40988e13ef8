"""Real galaxies whose labels are known: what a simulated network is fine-tuned on.

The images are the cutouts that a run kept, the labels a table with ``object_id``, ``bt``, ``r_e``
[arcsec], ``flux`` [nJy] and perhaps ``weight``. Which galaxies are trained on, which are kept for
validation and which for the test is settled by their ``object_id`` alone: it is the same for any
subset and order, and when galaxies are added later.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from survey_gampen.errors import InputError
from survey_gampen.images.status import NULL_BITS
from survey_gampen.images.store import CutoutStore, open_cutouts
from survey_gampen.model.targets import PARAMETERS
from survey_gampen.run.layout import RunDir
from survey_gampen.run.spec import read_spec
from survey_gampen.training.data import ALL, Batch, TrainingSet, drawn_shifts, moved, turned

#: Shares to train on and to validate with; the rest is for the test (Ghosh et al. 2021).
TRAIN, VALIDATION = 0.3, 0.1


class LabelledSet(TrainingSet):
    """Labelled cutouts, always in memory: people have labelled thousands, not millions.

    Parameters
    ----------
    run : Path
        Folder of a finished run that kept its cutouts.
    labels : Path
        Parquet table. Rows without a usable cutout are left out, and counted.
    device : str

    Attributes
    ----------
    object_id, share : ndarray, (n,)
        Names, and a number from 0 to 1 that follows from each name.
    unusable : int
        Labelled galaxies that have no usable cutout.

    Raises
    ------
    InputError
        If the run has no cutouts, or the labels can't be used or are of other galaxies.
    """

    def __init__(self, run: Path, labels: Path, device: str = "cpu") -> None:
        run_dir = RunDir(run.absolute())
        spec = read_spec(run_dir)
        table = read_labels(labels)
        self.device = torch.device(device)
        self.size, self.pixel_scale = spec.model["size"], spec.model["pixel_scale"]
        self.bands = spec.settings.image_bands
        row_of = {name: row for row, name in enumerate(table["object_id"].to_pylist())}
        stores = [open_cutouts(path) for path in sorted(run_dir.cutouts.glob("*.zarr"))]
        if not stores:
            raise InputError(f"{run} holds no cutouts: run with --keep-cutouts")
        rows, images, sky, psf = [], [], [], []
        for store in stores:
            use = _usable(store, row_of)
            for where, chunk in store.chunks():
                images.append(torch.from_numpy(chunk[use[where]]).to(device))
            rows += [row_of[name] for name in store.object_id[use].tolist()]
            sky.append(store.sky_sigma[use])
            psf.append(store.extra["psf_fwhm"][use])
        if not rows:
            raise InputError(f"no galaxy of {labels} has a usable cutout in {run}")
        self.images = torch.cat(images)
        self.place = f"{len(rows)} labelled cutouts, {self.images.nbytes / 1e9:.2g} GB: in memory"
        self.unusable = len(table) - len(rows)
        self.object_id = np.array(table["object_id"].to_pylist())[rows]
        self.labels = np.stack([table[p].to_numpy().astype(float) for p in PARAMETERS], 1)[rows]
        self.weight = table["weight"].to_numpy().astype(float)[rows]
        self.share = np.array([_share(name) for name in self.object_id.tolist()])
        self._sky, self._psf = np.concatenate(sky), np.concatenate(psf)
        self.name = Path(spec.settings.catalog).stem
        told = hashlib.sha256(self.labels.tobytes() + self.weight.tobytes())
        self.settings = {"run": spec.fingerprint, "labels": told.hexdigest(), "n": len(rows)}

    def __len__(self) -> int:
        return len(self.images)

    def split(self, validation: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Rows for training, and at most `validation` of those for validation."""
        train = np.flatnonzero(self.share < TRAIN)
        kept = np.flatnonzero((self.share >= TRAIN) & (self.share < TRAIN + VALIDATION))
        return train, kept[:validation]

    def test_rows(self) -> NDArray[np.int64]:
        """Rows that no training sees."""
        return np.flatnonzero(self.share >= TRAIN + VALIDATION)

    def truth(self, rows: NDArray[np.int64], rng: np.random.Generator) -> NDArray[np.float64]:
        """The labels."""
        return self.labels[rows]

    def mix(
        self,
        rows: NDArray[np.int64],
        rng: np.random.Generator,
        share: slice = ALL,
        shift: int = 0,
    ) -> Batch:
        """Cutouts turned, mirrored and moved; the sky beyond an edge is that before it."""
        n = len(rows)
        turns, flips = rng.integers(0, 4, size=n), rng.integers(0, 2, size=n)
        shifts = drawn_shifts(rng, n, shift)
        rows, turns, flips, shifts = rows[share], turns[share], flips[share], shifts[share]
        image = turned(self.images[torch.from_numpy(rows).to(self.device)], turns, flips)
        return Batch(moved(image, shifts, "reflect"), self.labels[rows], self.weight[rows])

    def trained_on(self) -> dict[str, Any]:
        """Ranges of these galaxies."""
        magnitude = 31.4 - 2.5 * np.log10(self.labels[:, 2])
        told = {
            "population": self.name,
            "magnitude": _range(magnitude),
            "sky_sigma_njy": _range(self._sky),
            "pixel_scale": self.pixel_scale,
        }
        if np.isfinite(self._psf).all():
            told["psf_fwhm"] = _range(self._psf)
        return told


def read_labels(path: Path) -> pa.Table:
    """A table of labels, with weights (1 where none are given).

    Raises
    ------
    InputError
        If it can't be read, lacks a column, or holds what no galaxy has.
    """
    if not path.exists():
        raise InputError(f"labels {path}: there is no such file")
    try:
        table = pq.read_table(path)
    except (OSError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise InputError(f"labels {path} can't be read: {reason}") from None
    if missing := [c for c in ("object_id", *PARAMETERS) if c not in table.column_names]:
        there = ", ".join(table.column_names)
        raise InputError(f"labels {path} lack {', '.join(missing)}; there are {there}")
    if "weight" not in table.column_names:
        table = table.append_column("weight", pa.array(np.ones(len(table))))
    names = table["object_id"].to_pylist()
    if len(set(names)) < len(names):
        raise InputError(f"labels {path} name some object_id twice: keep one row of each")
    bt, r_e, flux, weight = (
        table[c].to_numpy(zero_copy_only=False).astype(float) for c in (*PARAMETERS, "weight")
    )
    good = (bt >= 0) & (bt <= 1) & (r_e > 0) & (flux > 0) & (weight >= 0)
    good &= np.isfinite(r_e + flux + weight)
    if not good.all():
        first = names[int(np.argmin(good))]
        raise InputError(
            f"labels {path}: {int((~good).sum())} rows are no labels, {first} first: bt must be in "
            "0 to 1, r_e and flux above 0, weight not below 0; drop them"
        )
    return table


def _usable(store: CutoutStore, row_of: dict[Any, int]) -> NDArray[np.bool_]:
    known = np.array([name in row_of for name in store.object_id.tolist()], dtype=bool)
    return known & ((store.status & int(NULL_BITS)) == 0)


def _share(name: Any) -> float:
    """A number from 0 to 1 that follows from a name."""
    digest = hashlib.sha256(str(name).encode()).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def _range(values: NDArray[Any]) -> list[Any]:
    """Least and most of (n,) values; of (n, bands) of each band."""
    least_most: list[Any] = np.stack([values.min(0), values.max(0)], axis=-1).tolist()
    return least_most
