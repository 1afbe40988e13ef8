"""`survey-gampen inspect`: catalogue, images and model looked at before any run."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

from survey_gampen import __version__, commit
from survey_gampen.addresses import is_address, stem
from survey_gampen.config import Settings
from survey_gampen.errors import InputError
from survey_gampen.outside import outside_faults
from survey_gampen.report import contact
from survey_gampen.report.cells import ROWS_A_CELL, cell_side
from survey_gampen.report.cost import GPU_PEAK, GPU_SHARE, Cost, estimate
from survey_gampen.report.rowmap import row_map
from survey_gampen.report.scan import Scan, scan
from survey_gampen.run.layout import RunDir
from survey_gampen.run.progress import counting, duration, size
from survey_gampen.run.setup import Inputs, open_inputs
from survey_gampen.run.spec import cut_lines
from survey_gampen.run.words import say, warn

#: Galaxies on the contact sheet.
SHOWN = 36


def main(settings: Settings, out: str | Path | None = None) -> int:
    """Look at what a run would work on; print a table, write two pictures and the numbers.

    Parameters
    ----------
    settings : Settings
        Of the run; its own folder is neither made nor looked at.
    out : Path, optional
        Folder for ``sky.png``, ``cutouts.png`` and ``inspect.json``, replaced where they are there;
        by default ``<catalogue>.inspect/`` beside the catalogue, or here if that is elsewhere.

    Returns
    -------
    int
        0.

    Raises
    ------
    InputError
        Where a run would refuse its input, or the folder can't be used.
    OutsideFault
        The disk is full, or the images are gone.
    """
    folder = _folder(settings, out)
    with tempfile.TemporaryDirectory(prefix="survey-gampen-") as scratch:
        # Nothing but the index of the images goes there.
        inputs = open_inputs(settings, RunDir(Path(scratch)))
        try:
            warn(inputs.warnings())
            say(f"images: {inputs.source.describe()}")
            with counting("reading the catalogue", "rows") as tick:
                found = scan(inputs.catalog, inputs.source, SHOWN, settings.seed, tick)
            shown = contact.frames(inputs.source, inputs.checkpoint, found.sample)
        finally:
            inputs.source.close()
    galaxies = found.rows if found.with_image is None else found.with_image
    cost = estimate(settings, inputs.checkpoint, found.rows, galaxies)
    pictures = {
        "sky.png": row_map(found),
        "cutouts.png": contact.contact_sheet(shown, inputs.checkpoint, inputs.settings.band),
    }
    numbers = _numbers(inputs, found, cost, shown)
    text = json.dumps(numbers, indent=2) + "\n"
    _make(folder)
    for name, data in {**pictures, "inspect.json": text.encode()}.items():
        commit.replace(folder / name, partial(_write, data), folder)
    _tell(inputs, found, cost, shown)
    for name in pictures:
        say(str(folder / name))
    return 0


def _write(data: bytes, path: Path) -> None:
    path.write_bytes(data)


def _make(folder: Path) -> None:
    """Make it where it is missing: only now, so that nothing is left of what was refused."""
    try:
        with outside_faults(folder):
            folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder} can't be made ({error.strerror}): give another --out") from None


def _folder(settings: Settings, out: str | Path | None) -> Path:
    """The folder for the pictures, not made yet.

    Raises
    ------
    InputError
        Where it is a file or belongs to a run.
    """
    catalog = Path(settings.catalog)
    default = catalog.parent / f"{catalog.stem}.inspect"
    if is_address(settings.catalog):
        default = Path(f"{stem(settings.catalog)}.inspect")
    if out is not None and "://" in str(out):
        raise InputError(f"{out}: pictures go to a folder of this machine: give another --out")
    folder = Path(out or default).absolute()
    if folder.exists() and not folder.is_dir():
        raise InputError(f"{folder} is a file: give --out a folder")
    if RunDir(folder).run_toml.exists() or RunDir(folder).claims.exists():
        raise InputError(f"{folder} holds a run: give --out another folder")
    return folder


def _numbers(inputs: Inputs, found: Scan, cost: Cost, shown: list[contact.Frame]) -> dict[str, Any]:
    """All that is told, for programs."""
    order = found.cells.order
    return {
        "version": __version__,
        "settings": inputs.settings.as_table(),
        "model_sha256": inputs.checkpoint.sha256,
        "images": inputs.source.describe(),
        "warnings": inputs.warnings(),
        "rows": found.rows,
        "rows_read": found.tally.read,
        "rows_lost": found.tally.lost,
        "rows_with_image": found.with_image,
        "tiles": found.images,
        "tiles_touched": found.images_touched,
        "area_deg2": found.cells.area,
        "area_healpix_order": order,
        "cost": cost.to_dict(),
        "contact_sheet": [frame.to_dict() for frame in shown],
    }


def _tell(inputs: Inputs, found: Scan, cost: Cost, shown: list[contact.Frame]) -> None:
    """Print the table; in a file or a pipe without blanks at the ends of lines."""
    lines = list(_lines(inputs, found, cost, shown))
    console = Console(highlight=False)
    if not console.is_terminal:
        width = max(len(what) for what, _ in lines)
        for what, value in lines:
            say(f"{what:<{width}}  {value}")
        return
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for what, value in lines:
        table.add_row(what, value)
    console.print(table)


def _lines(
    inputs: Inputs, found: Scan, cost: Cost, shown: list[contact.Frame]
) -> Iterator[tuple[str, str]]:
    settings, order = inputs.settings, found.cells.order
    side = cell_side(order)
    cell = f"{side * 60:.2g} arcmin" if side < 1 else f"{side:.2g} deg"
    for line in cut_lines(found.tally.read, found.tally.lost, found.rows):
        yield "", line
    yield "rows", f"{found.rows}"
    if found.with_image is None:
        yield "with an image", "not known before each is asked for"
    else:
        share = 100 * found.with_image / found.rows
        yield "with an image", f"{found.with_image} ({share:.4g} %)"
    if found.images_touched is not None:
        of_all = "" if found.images is None else f" of {found.images}"
        yield "tiles", f"{found.images_touched}{of_all} hold the centre of a row"
    yield (
        "area",
        f"{found.cells.area:.4g} deg² in occupied HEALPix cells of order {order} ({cell}; the"
        f" finest that hold {ROWS_A_CELL} rows on average)",
    )
    fate = "kept" if cost.keep_cutouts else "dropped as they are used"
    yield "cutouts", f"{size(cost.cutout_bytes)} before compression, {fate}"
    yield "posteriors", f"{size(cost.posterior_bytes)}"
    if cost.sample_bytes:
        yield "samples", f"{size(cost.sample_bytes)}"
    many = f"{cost.workers} worker{'s' if cost.workers > 1 else ''}"
    cores = "" if cost.device == "cuda" else f" of {cost.threads} cores"
    yield (
        "time here",
        f"about {duration(cost.seconds)} with {many}{cores} ({cost.device}, {cost.precision},"
        f" {cost.seconds_per_galaxy:.3g} s a galaxy, {settings.passes} passes; timed just now)",
    )
    rate = f"{cost.gpu_galaxies_per_second:.3g} galaxies/s"
    how = "timed just now"
    if not cost.gpu_measured:
        how = f"not measured: {GPU_SHARE:.0%} of the {GPU_PEAK / 1e12:.0f} TFLOP/s of an H100"
    seconds = 3600 * cost.gpu_hours
    hours = f"{cost.gpu_hours:.3g} h" if seconds > 360 else duration(max(1, seconds))
    yield "time on a GPU", f"about {hours} of one, at {rate} ({how})"
    flagged = sum(frame.status != 0 for frame in shown)
    yield "contact sheet", f"{flagged} of {len(shown)} galaxies carry a flag"
