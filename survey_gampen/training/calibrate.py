"""`survey-gampen calibrate`: the dropout rate at which intervals hold what they claim.

The rate is a parameter of the approximate posterior over networks. One network a rate is trained,
as tasks of the cluster; each is judged on the galaxies kept from training, by the coverage of its
published intervals at all levels (Ghosh et al. 2021, arXiv:2107.01654, section 5.2) and by figures
that wide posteriors can't cheat. A rate is finished when its ``calibration.json`` is there; the
same command goes on with the others.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from survey_gampen.commit import replace
from survey_gampen.errors import InputError
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.model.targets import PARAMETERS, Targets
from survey_gampen.pool import compute, profile_for_tasks
from survey_gampen.posterior.settings import use_threads
from survey_gampen.run.claim import Claim
from survey_gampen.run.layout import RunDir
from survey_gampen.training import metrics
from survey_gampen.training.coverage import LEVELS, coverage, drawn, physical
from survey_gampen.training.loop import Training
from survey_gampen.training.order import Order, training_set
from survey_gampen.training.recipe import load_recipe
from survey_gampen.training.validation import outputs

Array = NDArray[Any]
#: Bins of the rank histogram (Talts et al. 2018, arXiv:1804.06788).
RANK_BINS = 20


def main(
    recipe: str,
    data: Path,
    out: Path,
    rates: Sequence[float],
    *,
    init: str | None = None,
    device: str = "cpu",
    cluster_name: str = "local",
    **changes: Any,
) -> int:
    """Train a network for each rate, compare them, and say which to take.

    Parameters
    ----------
    recipe : str
        Name of a shipped recipe, or a TOML file.
    data : Path
        Folder made by ``simulate --parts``.
    out : Path
        One folder a rate, ``calibration.json``, ``calibration.parquet``, ``calibration.png``.
    rates : sequence of float
        At least two.
    init : str, optional
        Fine-tune this model rather than train from nothing.
    device : str
    cluster_name : str
        Profile on whose workers to train, one rate a worker at a time.
    **changes
        Values of the recipe to set differently.

    Raises
    ------
    InputError
        If something can't be used.
    """
    rates = sorted(set(rates))
    if len(rates) < 2:
        raise InputError("to compare rates takes two or more: give them to --rates")
    profile = profile_for_tasks(cluster_name)
    recipes = [load_recipe(recipe, **changes | {"dropout_rate": rate}) for rate in rates]
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)
    with Claim(RunDir(out)) as claim:
        orders = [
            Order(
                recipe=r,
                data=str(data.absolute()),
                labels=None,
                out=str(_folder(out, rate)),
                init=init,
                device=device,
                token=claim.token,
                limit=profile.memory,
            )
            for r, rate in zip(recipes, rates, strict=True)
        ]
        staging = RunDir(out).staging(claim.token)
        calls = [(order, str(staging), profile.threads) for order in orders]
        todo = [c for c in calls if not _is_done(c[0])]
        compute(train_and_judge, todo, "dropout rates", profile, out)
        found = [json.loads(_result(Path(order.out)).read_text()) for order in orders]
        _tell(found, out, staging)
    return 0


def train_and_judge(order: Order, staging: str, threads: int) -> None:
    """On a worker: one rate from the first step to its figures. Runs without Dask too."""
    use_threads(threads)
    out = Path(order.out)
    out.mkdir(exist_ok=True)
    data = training_set(order)
    training = Training(order.recipe, data, out, order.init, staging=Path(staging))
    # The widths stay as they were learned: set on the same galaxies, they would hide the rate.
    training.to_the_last_epoch()
    model = load_checkpoint(out / "model.safetensors")
    network = model.network.to(data.device)
    found = outputs(network, training.validation, order.recipe["passes"])
    result = {"recipe": order.recipe, "init": order.init, "history": training.history}
    result |= judge(found, training.validation.truth, model.targets)
    text = json.dumps(result | {"rate": order.recipe["dropout_rate"]}, indent=1)
    replace(_result(out), lambda path: path.write_text(text), Path(staging))  # type: ignore[arg-type]


def judge(found: Tensor, truth: NDArray[np.float64], targets: Targets) -> dict[str, Any]:
    """Figures of outputs (n, passes, 3 or 9) of galaxies whose truth (n, 3) is known.

    Returns
    -------
    dict
        ``levels``; for each parameter ``coverage`` at these, its mean absolute ``deviation`` from
        them, ``ranks`` (counts of the truth's rank among the draws), median ``half_width`` of the
        central 68 % and mean ``crps`` (both of the flux as shares of the truth).
    """
    sample = drawn(found)
    curves = coverage(sample, truth, targets, LEVELS).numpy()
    parts: list[np.ndarray] = [
        np.stack(
            [_scores(draws[..., k].numpy(), truth[rows, k], p) for k, p in enumerate(PARAMETERS)]
        )
        for rows, draws in physical(sample, targets)
    ]
    scores = np.concatenate(parts, axis=2)  # (parameter, score, galaxy)
    result: dict[str, Any] = {"levels": LEVELS, "n": len(truth)}
    for k, p in enumerate(PARAMETERS):
        rank, half_width, crps = scores[k]
        result[p] = {
            "coverage": curves[:, k].tolist(),
            "deviation": float(np.abs(curves[:, k] - LEVELS).mean()),
            "ranks": np.histogram(rank, bins=RANK_BINS, range=(0, 1))[0].tolist(),
            "half_width": float(np.median(half_width)),
            "crps": float(crps.mean()),
        }
    result["deviation"] = float(np.mean([result[p]["deviation"] for p in PARAMETERS]))
    return result


def _scores(draws: Array, truth: Array, p: str) -> Array:
    """Rank of the truth, half width and CRPS, (3, n)."""
    unit = truth if p == "flux" else np.ones_like(truth)
    low, high = np.quantile(draws, [0.15865, 0.84135], axis=1)
    rank = metrics.rank_of_truth(draws, truth)
    return np.stack([rank, (high - low) / 2 / unit, metrics.crps(draws, truth) / unit])


def _folder(out: Path, rate: float) -> Path:
    return out / f"rate-{rate:g}"


def _result(folder: Path) -> Path:
    return folder / "calibration.json"


def _is_done(order: Order) -> bool:
    """Whether a rate has its figures.

    Raises
    ------
    InputError
        If they are those of another training.
    """
    path = _result(Path(order.out))
    if not path.exists():
        return False
    found = json.loads(path.read_text())
    if found["recipe"] != order.recipe or found["init"] != order.init:
        raise InputError(f"{path.parent} holds another training: choose another --out")
    return True


def _tell(found: list[dict[str, Any]], out: Path, staging: Path) -> None:
    """Table, picture and choice."""
    best = min(found, key=lambda f: float(f["deviation"]))
    rows = []
    for one in found:
        row = {"rate": one["rate"], "deviation": one["deviation"], "nll": one["history"][-1]["nll"]}
        for p in PARAMETERS:
            row |= {f"{p}_{key}": one[p][key] for key in ("deviation", "half_width", "crps")}
        rows.append(row)
    from survey_gampen.report.figures import calibration_figure

    chosen = json.dumps({"chosen": best["rate"], "rates": found}, indent=1)
    table = pa.Table.from_pylist(rows)
    for name, write in (
        ("calibration.json", lambda path: path.write_text(chosen)),
        ("calibration.parquet", partial(pq.write_table, table)),
        ("calibration.png", partial(calibration_figure, found, best["rate"])),
    ):
        replace(out / name, write, staging)
    shown = Table(title=f"{found[0]['n']} galaxies kept from training")
    for name in rows[0]:
        shown.add_column(name.replace("_", " "), justify="right")
    for row in rows:
        shown.add_row(*(f"{value:.4g}" for value in row.values()))
    Console(width=None if Console().is_terminal else 150).print(shown)
    print(f"rate {best['rate']:g} deviates least; figures and pictures in {out}")
