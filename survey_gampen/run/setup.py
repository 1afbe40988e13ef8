"""From settings to a planned run: look at everything, sort the rows, size the partitions.

Nothing is left in OUT by a planning that failed: what can't be used is refused as if nothing had
been begun. run.toml is written last; a planning that was killed begins again.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from survey_gampen import __version__
from survey_gampen.catalog.hats_in import follow
from survey_gampen.catalog.hats_scan import NotInPlace, use_in_place
from survey_gampen.catalog.selection import Tally
from survey_gampen.catalog.sort import sort_catalog
from survey_gampen.catalog.source import Catalog
from survey_gampen.config import Settings
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.images.base import ImageSource
from survey_gampen.images.open import open_bands
from survey_gampen.model.checkpoint import Checkpoint, load_checkpoint
from survey_gampen.run.bands import with_bands
from survey_gampen.run.folder import clear_plan
from survey_gampen.run.layout import RunDir
from survey_gampen.run.measure import Measured
from survey_gampen.run.partitioning import partition_rows
from survey_gampen.run.plan import differences, fingerprint, make_plan, write_plan
from survey_gampen.run.ready import check_names, ready_one, too_small
from survey_gampen.run.rows import open_rows, other_leaf
from survey_gampen.run.space import DROP_ABOVE, cutout_bytes
from survey_gampen.run.spec import PlanFacts, RunSpec, read_spec, write_spec
from survey_gampen.survey import Survey, load_survey

#: Settings that may change while a run goes on.
_FREE = ("cluster", "keep_cutouts", "images", "model")
#: Settings that choose the rows: the catalogue's identity holds them, but can't name them.
_CHOICES = ("select", "limit", "columns")


@dataclass
class Inputs:
    """What the settings name, opened and found to be usable."""

    settings: Settings
    catalog: Catalog
    survey: Survey
    checkpoint: Checkpoint
    source: ImageSource
    #: How many rows there were, and what each cut lost of them: known once they are sorted.
    tally: Tally = field(default_factory=Tally)
    #: Whether a HATS catalogue is read where it lies, and if not why: known then as well.
    reading: str = ""

    def warnings(self) -> list[str]:
        """Return what the user should know before it is too late."""
        said = [*self.catalog.notes, *self.source.warnings]
        band = self.checkpoint.meta.get("band")
        if band and band != self.settings.band:
            said.append(
                f"the model was trained on band {band}, the images are of {self.settings.band}:"
                " its posteriors are not calibrated there"
            )
        ready = ready_one(self.source)
        small = "" if ready is None else too_small(ready, self.checkpoint.config)
        return [*said, small] if small else said

    def parts(self, precision: str) -> dict[str, Any]:
        """Return what the fingerprint is made of."""
        settings = self.settings
        several = {"channels": list(settings.channels)} if settings.channels else {}
        return {
            "catalogue": self.catalog.identity(),
            "images": self.source.inventory(),
            "weights": self.checkpoint.sha256,
            "survey": self.survey.for_results(),
            "settings": {
                "band": settings.band,
                **several,
                "passes": settings.passes,
                "seed": settings.seed,
                "precision": precision,
                "lossy": settings.lossy,
            },
        }


def open_inputs(settings: Settings, run: RunDir) -> Inputs:
    """Open all that the settings name.

    Raises
    ------
    InputError
        Where something can't be used.
    """
    survey = load_survey(settings.survey)
    checkpoint = load_checkpoint(settings.model)
    settings = with_bands(settings, survey, checkpoint)
    catalog = open_rows(settings.catalog, settings, survey)
    scale = checkpoint.config.pixel_scale
    source = open_bands(settings.images, survey, settings.image_bands, scale, run.cache)
    ready = ready_one(source)
    if ready is not None:
        check_names(catalog, ready)
    return Inputs(settings, catalog, survey, checkpoint, source)


def existing(run: RunDir, inputs: Inputs, staging: Path) -> RunSpec | None:
    """Return the run that is planned here, None where there is none.

    What is no matter of results is taken from the new settings: cluster, whether cutouts stay, and
    where the same images, weights and leaves of a HATS catalogue are now.

    Raises
    ------
    InputError
        Where a run with another fingerprint, partition size or output was begun here.
    """
    if not run.run_toml.exists():
        return None
    spec, new = read_spec(run), inputs.settings
    precision = spec.engine["precision"] if new.precision == "auto" else new.precision
    found = differences(*(_choices(settings) for settings in (spec.settings, new)))
    parts = inputs.parts(precision)
    if found:  # and then the catalogue's identity is another for that
        parts["catalogue"] = spec.parts["catalogue"]
    found += differences(spec.parts, parts)
    if new.partition_rows is not None and new.partition_rows != spec.plan.partition_rows:
        found.append(f"partition_rows: {spec.plan.partition_rows} -> {new.partition_rows}")
    if new.keep_samples != spec.settings.keep_samples:
        found.append(f"keep_samples: {spec.settings.keep_samples} -> {new.keep_samples}")
    if found or spec.fingerprint != fingerprint(spec.parts):
        if spec.draft:  # only looked at until now
            clear_plan(run)
            return None
        if [name.partition(":")[0] for name in found] == ["images"]:
            raise InputError(
                f"the images of {run.root} have changed since it was planned: to go on with those"
                f" that are there now, `survey-gampen resume {run.root}`"
            )
        new_rows = any(name.startswith("catalogue:") for name in found)
        leaf = other_leaf(run, spec, inputs.catalog) if new_rows else ""
        said = "; ".join(found) or "the method of this version of survey-gampen"
        said += f"; {leaf} is another" if leaf else ""
        raise InputError(
            f"{run.root} was begun with something else ({said}): go on with the same input and"
            " settings, or give another --out"
        )
    keep = spec.plan.keep_cutouts if new.keep_cutouts is None else new.keep_cutouts
    now = replace(
        spec,
        plan=replace(spec.plan, keep_cutouts=keep),
        draft=spec.draft and new.plan_only,
        settings=replace(spec.settings, **{name: getattr(new, name) for name in _FREE}),
        model={**spec.model, "path": str(inputs.checkpoint.path)},
    )
    if inputs.catalog.leaves is not None:
        follow(run.catalog, inputs.catalog.leaves.folder, staging)
    if now != spec:
        write_spec(run, now, staging)
    return now


def _choices(settings: Settings) -> dict[str, Any]:
    chosen = {name: getattr(settings, name) for name in _CHOICES}
    return {name: value for name, value in chosen.items() if value not in (None, ())}


def sort_rows(run: RunDir, inputs: Inputs, staging: Path) -> int:
    """Check all rows and write them sorted into the run's folder; return their number.

    Of a HATS catalogue whose rows stand in order only a record is written.
    """
    if inputs.catalog.leaves is not None:
        try:
            inputs.tally = Tally()
            rows = use_in_place(inputs.catalog, run.catalog, staging, tally=inputs.tally)
        except NotInPlace as reason:
            inputs.reading = f"catalogue: copied in order of position, for {reason}"
        else:
            inputs.reading = (
                f"catalogue: {inputs.catalog.path} is read where it lies, so leave it there as it"
                " is until the run has finished"
            )
            return rows
    inputs.tally = Tally()
    return sort_catalog(inputs.catalog, run.catalog, staging, tally=inputs.tally)


def plan(
    run: RunDir,
    inputs: Inputs,
    rows: int,
    measured: Measured,
    workers: int,
    staging: Path,
    walltime: float | None = None,
) -> RunSpec:
    """Cut the sorted rows into partitions and write plan.parquet and run.toml.

    Parameters
    ----------
    run, inputs
        Where, and from what.
    rows : int
        Number of sorted rows.
    measured : Measured
        What a worker resolved and how long it took.
    workers : int
        How many work at once.
    staging : Path
    walltime : float, optional
        How long the job of a worker may last [s].
    """
    settings = inputs.settings
    size, bands = inputs.checkpoint.config.size, len(settings.image_bands)
    at_most = settings.partition_rows or partition_rows(measured, rows, workers, walltime)
    totals = write_plan(run.plan, make_plan(run.catalog, at_most), at_most, staging)
    keep = settings.keep_cutouts
    if keep is None:
        keep = rows * cutout_bytes(size, bands) <= DROP_ABOVE
    parts = inputs.parts(measured.engine["precision"])
    spec = RunSpec(
        version=__version__,
        settings=settings,
        survey=inputs.survey,
        catalog_dir=run.catalog.name,
        model={
            "path": str(inputs.checkpoint.path),
            "sha256": inputs.checkpoint.sha256,
            "size": size,
            "pixel_scale": inputs.checkpoint.config.pixel_scale,
        },
        engine=measured.engine,
        parts=parts,
        fingerprint=fingerprint(parts),
        plan=PlanFacts(
            rows=totals.rows,
            partitions=totals.partitions,
            partition_rows=at_most,
            seconds_per_galaxy=measured.seconds_per_galaxy,
            keep_cutouts=keep,
            rows_read=inputs.tally.read,
            lost=inputs.tally.lost,
        ),
        draft=settings.plan_only,
    )
    write_spec(run, spec, staging)
    return spec


def begin(run: RunDir, spec: RunSpec, staging: Path) -> RunSpec:
    """Return the run, no longer a draft.

    Raises
    ------
    InputError
        Where another version of the method began it.
    """
    if spec.fingerprint != fingerprint(spec.parts):
        raise InputError(
            f"{run.root} was begun by another version of the method: give another --out"
        )
    if spec.draft:
        spec = replace(spec, draft=False)
        write_spec(run, spec, staging)
    return spec


def after_images_changed(run: RunDir, spec: RunSpec) -> tuple[RunSpec, list[str]]:
    """Return the run as it is with the images that are there now, and warnings about them.

    It is the same run where they are the same. Files published before stay valid: their
    fingerprint is remembered.

    Raises
    ------
    OutsideFault
        Where there are none any more.
    """
    settings = spec.settings
    try:
        source = open_bands(
            *(settings.images, spec.survey, settings.image_bands),
            *(spec.model["pixel_scale"], run.cache),
        )
    except InputError as error:  # they were there at planning
        raise OutsideFault(f"{error} (at planning there were)") from error
    parts = {**spec.parts, "images": source.inventory()}
    source.close()
    if parts == spec.parts:
        return spec, source.warnings
    earlier = tuple(dict.fromkeys((*spec.earlier, spec.fingerprint)))
    now = replace(spec, parts=parts, fingerprint=fingerprint(parts), earlier=earlier)
    return now, source.warnings
