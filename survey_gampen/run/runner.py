"""The verbs `run`, `submit`, `resume` and `compact`: who may work, what is planned, how it ends.

What is done in a partition stands in task.py, what a failure means in triage.py, in which order
partitions are given out in conductor.py.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pyarrow as pa

from survey_gampen.catalog import compact as compaction
from survey_gampen.catalog import hats_out
from survey_gampen.catalog.sorted import sorted_schema
from survey_gampen.cluster import driver
from survey_gampen.cluster.allocation import step_aside
from survey_gampen.cluster.crew import DaskCrew, on_one
from survey_gampen.cluster.load import load_profile
from survey_gampen.cluster.profile import Profile
from survey_gampen.cluster.start import Cluster, start
from survey_gampen.config import Settings
from survey_gampen.errors import GampenError, InputError, Interrupted, OutsideFault
from survey_gampen.outside import outside_faults
from survey_gampen.run import quarantine, setup, space, todo
from survey_gampen.run.attempts import Attempts
from survey_gampen.run.claim import Claim, holder_of
from survey_gampen.run.conductor import INFER, Conductor, Job
from survey_gampen.run.folder import all_or_nothing, folder
from survey_gampen.run.groups import discard
from survey_gampen.run.layout import RunDir
from survey_gampen.run.leaf import leaf_schema
from survey_gampen.run.measure import Measured, measure
from survey_gampen.run.progress import Meter
from survey_gampen.run.rows import check_leaves
from survey_gampen.run.spec import RunSpec, read_spec, write_spec
from survey_gampen.run.words import say, tell_end, tell_plan, tell_time, warn
from survey_gampen.signals import stop_run_in_order
from survey_gampen.storage import at, remove_tree


def run(settings: Settings) -> int:
    """Plan, cut out, infer, publish; on the same folder again: go on.

    Parameters
    ----------
    settings : Settings

    Returns
    -------
    int
        0: every row is published; 3: some partitions are quarantined.

    Raises
    ------
    InputError
        Something can't be used (2).
    Interrupted, OutsideFault
        Stopped; the same command goes on (75).
    """
    profile = load_profile(settings.cluster)
    step_aside(profile, at(settings.out))
    with (
        stop_run_in_order(),
        folder(at(settings.out)) as run_dir,
        outside_faults(run_dir.root),
        Claim(run_dir) as claim,
        all_or_nothing(run_dir, claim),
        contextlib.ExitStack() as workers,
    ):
        staging = run_dir.staging(claim.token)
        inputs = setup.open_inputs(settings, run_dir)
        warnings = inputs.warnings()
        warn(warnings)
        say(f"images: {inputs.source.describe()}")
        spec = setup.existing(run_dir, inputs, staging)
        cluster = None
        if spec is None:
            claim.check()
            rows = setup.sort_rows(run_dir, inputs, staging)
            if inputs.reading:
                say(inputs.reading)
            cluster = workers.enter_context(start(profile, run_dir.root, say))
            say("timing the model on one worker, once a run: that may take a minute")
            measured = _measure(cluster, inputs, rows)
            claim.check()
            spec = setup.plan(
                run_dir, inputs, rows, measured, profile.workers, staging, profile.walltime
            )
        inputs.source.close()
        tell_plan(spec)
        if settings.plan_only:
            tell_time(spec, profile.workers, spec.plan.rows, spec.plan.partitions)
            return 0
        return _finish(run_dir, spec, claim, profile, workers, cluster, warnings)


def submit(settings: Settings, words: Sequence[str]) -> str:
    """Have a batch job type `run`; return the job's number.

    Parameters
    ----------
    settings : Settings
        What the words come to here: all that they name is opened now, and not in hours by the job.
    words : sequence of str
        Arguments of ``survey-gampen run``.

    Raises
    ------
    InputError
        Something can't be used, or the batch system refuses the job.
    OutsideFault
        The batch system can't be reached.
    """
    profile = load_profile(settings.cluster)
    with folder(at(settings.out)) as run_dir:
        if holder := holder_of(run_dir):
            raise InputError(f"{run_dir.root} is in use by {holder[0]}; wait until it has finished")
        with outside_faults(run_dir.root):
            driver.check(profile, run_dir)
            planned = run_dir.run_toml.exists()
            try:
                inputs = setup.open_inputs(settings, run_dir)
                warn(inputs.warnings())
                inputs.source.close()
                return driver.submit(profile, words, run_dir)
            except BaseException:
                if not planned:
                    remove_tree(run_dir.cache)
                raise


def resume(out: str | Path, cluster_name: str | None = None, redo: str | None = None) -> int:
    """Go on with a run, and try quarantined partitions again; all else comes from its folder.

    Parameters
    ----------
    out : path
        The run's folder.
    cluster_name : str, optional
        Another cluster profile than the run's own.
    redo : str, optional
        Name of a status flag: published partitions with rows that carry it, and that were made
        before the images changed, are done again. What is not published yet is made with the
        images that are there now in any case.

    Returns
    -------
    int
        As `run`.
    """
    run_dir = RunDir(at(out))
    flag = None if redo is None else todo.flag_of(redo)
    spec = read_spec(run_dir)
    profile = load_profile(cluster_name or spec.settings.cluster)
    step_aside(profile, run_dir.root)
    with stop_run_in_order(), outside_faults(run_dir.root), Claim(run_dir) as claim:
        staging = run_dir.staging(claim.token)
        spec = setup.begin(run_dir, read_spec(run_dir), staging)
        given_up = quarantine.names(run_dir)
        now, warnings = setup.after_images_changed(run_dir, spec)
        warn(warnings)
        if now != spec:
            if flag is None and not todo.count(run_dir, spec, given_up).rows_left:
                raise InputError(
                    f"the images of {run_dir.root} have changed since it was done: to do partitions"
                    " again that they may reach, add --redo NO_IMAGE (or EDGE, NO_DATA ...)"
                )
            write_spec(run_dir, now, staging)
            say("the images are others than before: what is published stays, the rest is of these")
        to_redo = partial(todo.published_to_redo, run_dir, now, given_up, flag)
        compaction.expand(run_dir.root, to_redo(), staging)
        again = {p.index for p in to_redo()}
        if flag is not None:
            say(f"{len(again)} partitions with {flag.name} are done again")
        workers = contextlib.ExitStack()
        return _finish(run_dir, now, claim, profile, workers, None, warnings, again, retry=True)


def compact(out: str | Path) -> int:
    """Merge small published files into larger ones; return 0."""
    run_dir = RunDir(at(out))
    spec = read_spec(run_dir)
    with stop_run_in_order(), outside_faults(run_dir.root), Claim(run_dir) as claim:
        try:
            merged = compaction.compact(run_dir.root, run_dir.staging(claim.token))
        finally:
            _index(run_dir, spec, claim)
        leaves = len(hats_out.published(run_dir.posteriors))
        say(f"{merged} files were merged from smaller ones; there are {leaves} now")
    return 0


def _finish(
    run_dir: RunDir,
    spec: RunSpec,
    claim: Claim,
    profile: Profile,
    workers: contextlib.ExitStack,
    cluster: Cluster | None,
    warnings: Sequence[str] = (),
    again: frozenset[int] | set[int] = frozenset(),
    retry: bool = False,
) -> int:
    """Do what is left of a planned run, and leave a catalogue that opens, however it ends.

    What `workers` holds is closed first: who still publishes would not be in the index.
    """
    try:
        todo.check_published(run_dir, spec)
        todo.clear_notes(run_dir, spec)
        if not spec.plan.keep_cutouts:
            todo.drop_cutouts(run_dir, again, run_dir.staging(claim.token))
        given_up = quarantine.names(run_dir)
        work = todo.count(run_dir, spec, given_up, again)
        skipped = set() if retry else given_up
        left = work.rows_left - (0 if retry else work.quarantined_rows)
        if left:
            partitions_left = work.partitions - work.published - (0 if retry else work.quarantined)
            tell_time(spec, profile.workers, left, partitions_left)
            before = 0 if retry else work.quarantined
            window = profile.window * profile.workers
            at_once = window * spec.plan.partition_rows
            space.check_run(run_dir, spec, left, left - work.cut_rows, at_once)
            if retry:
                check_leaves(run_dir, spec)
                _drop_suspicious_cutouts(run_dir, claim)
            with workers:
                if cluster is None:
                    cluster = workers.enter_context(start(profile, run_dir.root, say))
                for line in cluster.dashboard_lines():
                    say(line)
                crew = DaskCrew(cluster)
                crew.expect(INFER, spec.plan.partition_rows * spec.plan.seconds_per_galaxy)
                meter = workers.enter_context(Meter(work.rows, work.published_rows))
                log = run_dir.attempts
                conductor = Conductor(
                    run_dir,
                    spec,
                    claim.token,
                    crew,
                    meter,
                    profile.window,
                    claim.check,
                    workers.enter_context(Attempts(log, run_dir.root / log.name)),
                )
                partitions = todo.left(run_dir, skipped, again)
                jobs = (Job(p, again=p.index in again) for p in partitions)
                conductor.go(jobs, work.published_rows, work.published, before)
    except BaseException as cause:
        # What stopped the run is what the user must hear of, not what follows from it.
        if not claim.lost.is_set():  # else the next client does it
            try:
                _index(run_dir, spec, claim)
            except GampenError as error:
                say(str(error))
                raise cause from None
        if type(cause) is not Interrupted:
            raise
        now = todo.count(run_dir, spec, quarantine.names(run_dir), again)
        if now.published < now.partitions:
            raise
        # Asked to stop when all was published: that is an end like any other.
    else:
        _index(run_dir, spec, claim)
    return tell_end(run_dir, spec, warnings)


def _drop_suspicious_cutouts(run_dir: RunDir, claim: Claim) -> None:
    """Quarantined partitions are cut anew: who knows what was wrong with them."""
    for name in quarantine.names(run_dir):
        discard(run_dir.cutout_group(name), run_dir.staging(claim.token))


def _index(run_dir: RunDir, spec: RunSpec, claim: Claim) -> None:
    """Make the index files of the catalogue again from what is published.

    Raises
    ------
    OutsideFault
        Where they can't be written, or a published file can't be read.
    """
    claim.check()
    try:
        hats_out.write_index(
            run_dir.posteriors,
            name=Path(spec.settings.catalog).stem.replace(".", "_"),
            staging=run_dir.staging(claim.token),
            schema=leaf_schema(sorted_schema(spec.catalog_path(run_dir)), {}),
        )
    except (OSError, pa.ArrowException) as error:
        raise OutsideFault(
            f"the index files of {run_dir.posteriors} could not be made again"
            f" ({' '.join(str(error).split())}): put that right and run the same command again"
        ) from error


def _measure(cluster: Cluster, inputs: setup.Inputs, rows: int) -> Measured:
    """Ask one worker what kind it is, and how fast."""
    settings = inputs.settings
    return on_one(
        cluster,
        measure,
        str(inputs.checkpoint.path),
        settings.passes,
        settings.precision,
        cluster.profile.threads,
        rows,
    )
