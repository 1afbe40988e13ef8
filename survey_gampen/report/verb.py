"""`survey-gampen report`: one page about a run, in one file that needs no other."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa

from survey_gampen import __version__, commit
from survey_gampen.catalog.hats_out import Pixel, leaf_path, published
from survey_gampen.errors import InputError
from survey_gampen.report import html, page
from survey_gampen.report.galaxies import cards, corner_section, gallery_section
from survey_gampen.report.gather import gather
from survey_gampen.report.skymap import Outlines, State
from survey_gampen.run import quarantine
from survey_gampen.run.layout import RunDir
from survey_gampen.run.leaf import read_footer
from survey_gampen.run.plan import Partition, read_plan
from survey_gampen.run.spec import RunSpec, read_spec
from survey_gampen.run.status import status
from survey_gampen.storage import at, is_remote

NAME = "report.html"


def main(out: str | Path, file: str | Path | None = None) -> int:
    """Write the page.

    Parameters
    ----------
    out : path
        The run's folder; nothing of the run is changed, and it may be at work.
    file : path, optional
        The page; OUT/report.html by default. An older one is replaced.

    Returns
    -------
    int
        0.

    Raises
    ------
    InputError
        Where there is no run, or the page can't be there.
    OutsideFault
        The disk is full.
    """
    run = RunDir(at(out))
    final = at(file) if file else run.root / NAME
    report = status(run)
    if "galaxies" not in report:
        raise InputError(f"{run.root} is being planned by {report['client']}: wait for the plan")
    spec = read_spec(run)
    _check_place(run, final)
    text = render(run, spec, report)
    # Elsewhere no folder of ours may be left behind: there the page is staged beside its place.
    beside = not is_remote(final) and final.parent.resolve() != run.home.resolve()
    staging = final.parent if beside else run.staging_root
    commit.replace(final, lambda path: _write(path, text), staging)
    print(final)
    return 0


def _check_place(run: RunDir, final: Path) -> None:
    """Make sure that the page overwrites no result, and is no stray file among them."""
    if final.suffix.lower() not in (".html", ".htm"):
        raise InputError(f"{final}: give --out a name that ends in .html")
    if is_remote(final):
        return
    if final.is_dir():
        raise InputError(f"{final} is a folder: give --out a file")
    if not final.parent.is_dir():
        raise InputError(f"{final.parent}: no such folder; make it, or give another --out")
    root = run.root.resolve()
    if root in final.parent.resolve().parents:
        raise InputError(f"{final.parent} belongs to the run: give --out another folder")


def render(run: RunDir, spec: RunSpec, report: dict[str, Any]) -> str:
    """The whole page as text.

    Parameters
    ----------
    run, spec
        The run.
    report : dict
        What :func:`survey_gampen.run.status.status` says of it.
    """
    found = gather(run)
    outlines = Outlines()
    outlines.add(_states(run, spec))
    shown = cards(run, spec, found.picks.chosen())
    made = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime())
    return html.document(
        f"survey-gampen: {Path(spec.settings.catalog).name}",
        page.head(spec, report, found),
        page.settings(spec, found),
        page.quarantined(report),
        page.flags(found),
        page.pictures(found),
        page.sky(outlines, found),
        gallery_section(shown),
        corner_section(shown),
        page.rates(spec, found),
        "<footer>",
        html.paragraph(f"survey-gampen {__version__}, {made}", soft=True),
        "</footer>",
    )


def _states(run: RunDir, spec: RunSpec) -> Iterator[tuple[Partition, State]]:
    """Every partition of the plan and how it fares."""
    done, given_up = published(run.posteriors), quarantine.names(run)
    for partition in read_plan(run.plan):
        leaf = done.leaf_of(partition)
        if partition.name in given_up and not (leaf and _is_of(run, spec, leaf)):
            yield partition, State.QUARANTINED
        else:
            yield partition, State.PUBLISHED if leaf else State.MISSING


def _is_of(run: RunDir, spec: RunSpec, leaf: Pixel) -> bool:
    """Whether a published file was made with today's images."""
    try:
        return read_footer(leaf_path(run.posteriors, *leaf)).get("fingerprint") == spec.fingerprint
    except (OSError, pa.ArrowException):
        return False


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")
