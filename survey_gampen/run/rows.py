"""The catalogue of a run: opened as its settings want it, and later found to be the same still."""

from __future__ import annotations

from survey_gampen.catalog.files import folder_at
from survey_gampen.catalog.hats_in import changed_leaf, read_record
from survey_gampen.catalog.source import Catalog, open_catalog
from survey_gampen.config import Settings
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.run.layout import RunDir
from survey_gampen.run.spec import RunSpec
from survey_gampen.survey import Survey


def open_rows(place: str, settings: Settings, survey: Survey) -> Catalog:
    """Open the catalogue at a place, for the rows and columns that the settings choose.

    Raises
    ------
    InputError, OutsideFault
        As :func:`~survey_gampen.catalog.source.open_catalog`.
    """
    return open_catalog(
        place,
        columns=survey.columns,
        extra=settings.columns,
        select=settings.select,
        limit=settings.limit,
        cuts=survey.cuts_in(settings.band),
    )


def check_leaves(run: RunDir, spec: RunSpec) -> None:
    """Make sure that a catalogue which is read where it lies is that of the plan.

    Raises
    ------
    InputError
        Where it is another now.
    OutsideFault
        Where it is away.
    """
    record = read_record(spec.catalog_path(run))
    if record is None:
        return
    folder = folder_at(record.folder)
    if folder.text("hats.properties") is None:
        raise OutsideFault(
            f"{folder.name} is away: bring the catalogue back and run the same command again, or"
            f" tell where it is now by `survey-gampen run CATALOG --out {run.root}`"
        )
    try:
        catalog = open_rows(record.folder, spec.settings, spec.survey)
    except InputError as error:
        raise InputError(
            f"{error} (it was not so when the run was planned: put back what was there, or give"
            " another --out)"
        ) from error
    if catalog.identity() == spec.parts["catalogue"]:
        return
    leaf = other_leaf(run, spec, catalog)
    said = f" ({leaf})" if leaf else ""
    raise InputError(
        f"{folder.name} has changed since the run was planned{said}: put back what was there, or"
        " give another --out"
    )


def other_leaf(run: RunDir, spec: RunSpec, catalog: Catalog) -> str:
    """Name a leaf that is not as it was at planning; empty where none is known."""
    leaves = catalog.leaves
    if leaves is None or read_record(spec.catalog_path(run)) is None:
        return ""
    now = dict(zip(leaves.names, leaves.footers, strict=True))
    return changed_leaf(spec.catalog_path(run), now) or ""
