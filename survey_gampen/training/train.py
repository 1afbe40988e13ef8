"""`survey-gampen train`: who may train into a folder, and on which processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from survey_gampen.errors import InputError
from survey_gampen.run.claim import Claim
from survey_gampen.run.layout import RunDir
from survey_gampen.training.gang import train_on
from survey_gampen.training.order import Order, work
from survey_gampen.training.ranks import Ranks
from survey_gampen.training.recipe import load_recipe
from survey_gampen.training.watch import Display


def main(
    recipe: str,
    data: Path,
    out: Path,
    *,
    labels: Path | None = None,
    init: str | None = None,
    device: str = "cpu",
    cluster: str | None = None,
    ranks: int = 1,
    memory: str = "auto",
    **changes: Any,
) -> int:
    """Train a network; again on the same folder: go on after the last epoch.

    Parameters
    ----------
    recipe : str
        Name of a shipped recipe, or a TOML file.
    data : Path
        Folder made by ``simulate --parts``; with `labels` that of a run that kept its cutouts.
    out : Path
        State and model.
    labels : Path, optional
        Parquet table with ``object_id``, ``bt``, ``r_e`` [arcsec], ``flux`` [nJy], perhaps
        ``weight``.
    init : str, optional
        Start from the weights of this model.
    device : str
    cluster : str, optional
        Profile on whose workers to train; None: in this process.
    ranks : int
        Workers that share each batch.
    memory : str
        Keep the parts in memory (``resident``), read them as they are wanted (``stream``), or
        what fits (``auto``).
    **changes
        Top-level values of the recipe to set differently (None: as it is), and ``learning_rate``.

    Raises
    ------
    InputError
        If recipe, data or initial model cannot be used, `out` holds another training, or somebody
        else trains there.
    OutsideFault
        If there is no such device, or ranks are lost again and again.
    """
    if labels and memory == "stream":
        raise InputError("labelled cutouts are always kept in memory: leave out --memory stream")
    chosen = load_recipe(recipe, **changes)
    Ranks(0, ranks).share(chosen["batch"])
    if ranks > 1 and cluster is None:
        cluster = "local"
    out = out.absolute()
    out.mkdir(parents=True, exist_ok=True)  # rather an error now than after an epoch
    with Claim(RunDir(out)) as claim, Display() as display:
        known = str(labels.absolute()) if labels else None
        order = Order(
            recipe=chosen,
            data=str(data.absolute()),
            labels=known,
            out=str(out),
            init=init,
            device=device,
            token=claim.token,
            memory=memory,
        )
        if cluster is None:
            work(order, Ranks(), display)
        else:
            train_on(cluster, order, ranks, display, claim.check)
        display.says(f"model in {out / 'model.safetensors'}")
    return 0
