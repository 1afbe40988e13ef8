"""One partition from end to end: cut it out, infer it, publish it.

Plain functions of a folder and a partition. They run on a worker, in a test or in a debugger,
and know nothing of Dask. What they need to know they read from the run's folder; what is dear to
open (network, images) is kept for the next partition of the same process.
"""

from __future__ import annotations

import time
from functools import partial
from pathlib import Path
from typing import Any

from survey_gampen import commit
from survey_gampen.catalog.hats_out import leaf_path
from survey_gampen.catalog.leaves import check_leaf
from survey_gampen.catalog.sorted import Cursor, read_rows, sorted_schema
from survey_gampen.generations import publish_group
from survey_gampen.images.services.source import fetched
from survey_gampen.images.status import Status
from survey_gampen.images.store import open_cutouts, write_cutouts
from survey_gampen.posterior import samples
from survey_gampen.posterior.engine import Engine
from survey_gampen.run.groups import discard, is_cut
from survey_gampen.run.inference import Inference, Tick
from survey_gampen.run.layout import RunDir
from survey_gampen.run.leaf import leaf_schema, read_footer, write_leaf
from survey_gampen.run.plan import Partition
from survey_gampen.run.spec import RunSpec, read_spec
from survey_gampen.run.thread import in_network_thread
from survey_gampen.run.tools import engine_of, source_of
from survey_gampen.run.triage import TooLarge, is_out_of_memory
from survey_gampen.stages import Stages
from survey_gampen.storage import at

Report = dict[str, Any]

#: Columns of the sorted catalogue that cutting needs, and that a check needs.
_POSITIONS = ("_healpix_29", "object_id", "ra", "dec")
_NAMES = ("_healpix_29", "object_id")


def cut_partition(
    out: str | Path, partition: Partition, token: str = "solo", tick: Tick | None = None
) -> Report:
    """Write the cutouts of a partition, unless they are there.

    Parameters
    ----------
    out : path
        The run's folder.
    partition : Partition
    token : str
        The client's corner of the staging area.
    tick : callable, optional
        Not used: a galaxy counts when it is through the network.

    Returns
    -------
    dict
        ``rows``, ``seconds``, and of these by ``stages``: ``opening`` the images, ``cutting``,
        ``writing``.

    Raises
    ------
    UnreadableFile
        An image exists and can't be read.
    OutsideFault
        The disk is full, or the images are gone.
    """
    begun, stages = time.monotonic(), Stages()
    run = RunDir(at(out))
    spec = read_spec(run)
    group = run.cutout_group(partition.name)
    if not is_cut(run, spec, partition):
        discard(group, run.staging(token))
        with stages("opening"):
            source = source_of(run, spec)
        rows = read_rows(spec.catalog_path(run), partition.norder, partition.npix, _POSITIONS)
        with fetched(source, rows["ra"], rows["dec"], spec.size) as near:
            write_cutouts(
                group,
                near,
                rows,
                spec.size,
                staging=run.staging(token),
                chunk=int(spec.engine["batch"]),
                lossy=spec.settings.lossy,
                attributes={"images": spec.parts["images"]},
                stages=stages,
            )
    seconds = time.monotonic() - begun
    return {"rows": partition.rows, "seconds": seconds, "stages": stages.report(rest="writing")}


@in_network_thread
def infer_partition(
    out: str | Path,
    partition: Partition,
    batch: int | None = None,
    token: str = "solo",
    again: bool = False,
    tick: Tick | None = None,
) -> Report:
    """Publish the posteriors of a partition whose cutouts are there.

    The stored cutouts are read chunk by chunk, one chunk being one batch of the network; only
    summaries outlive it. A partition that is published already is left alone.

    Parameters
    ----------
    out : path
        The run's folder.
    partition : Partition
    batch : int, optional
        Smaller than the planned one after memory ran out.
    token : str
        The client's corner of the staging area.
    again : bool
        Replace a file that was published before the images changed.
    tick : callable, optional
        Called with the number of galaxies each time some went through the network.

    Returns
    -------
    dict
        ``rows``, ``seconds``, ``published`` (False where the file was there), ``flagged``; and of
        the seconds by ``stages``: ``opening`` the network, ``reading`` cutouts, ``inferring``,
        ``summarising``, ``publishing``.

    Raises
    ------
    TooLarge
        The batch does not fit into the memory of the device.
    UnfitWorker
        This process can't compute as the run needs it.
    OutsideFault
        The disk is full.
    """
    begun, stages = time.monotonic(), Stages()
    run = RunDir(at(out))
    spec = read_spec(run)
    leaf = leaf_path(run.posteriors, partition.norder, partition.npix)
    report: Report = {"rows": partition.rows, "published": False, "flagged": 0}
    if not leaf.exists() or (again and read_footer(leaf)["fingerprint"] != spec.fingerprint):
        try:
            report["flagged"] = _publish(
                run, spec, partition, leaf, batch, token, again, tick, stages
            )
            report["published"] = True
        except Exception as error:
            if is_out_of_memory(error):
                raise TooLarge(f"{partition.name}: memory ran out") from error
            raise
    if not spec.plan.keep_cutouts:
        discard(run.cutout_group(partition.name), run.staging(token))
    seconds = time.monotonic() - begun
    return report | {"seconds": seconds, "stages": stages.report(rest="publishing")}


def _publish(
    run: RunDir,
    spec: RunSpec,
    partition: Partition,
    leaf: Path,
    batch: int | None,
    token: str,
    again: bool,
    tick: Tick | None,
    stages: Stages,
) -> int:
    """Infer and publish; return the number of rows that carry a flag."""
    catalog = spec.catalog_path(run)
    rows = partial(Cursor, catalog, partition.norder, partition.npix)
    with stages("opening"):
        engine, about = engine_of(spec, batch or int(spec.engine["batch"]))
    schema = leaf_schema(sorted_schema(catalog), _footer(spec, partition, engine))
    flagged = 0

    def write(path: Path) -> None:
        nonlocal flagged
        # Of the present images: one who is late may have published those of other ones meanwhile.
        store = open_cutouts(run.cutout_group(partition.name), images=spec.parts["images"])
        ranges = about.get("trained_on", {})
        work = Inference(spec, engine, ranges, rows, store, schema, tick, stages)
        _write_both(run, spec, partition, work, path, staging)
        flagged = work.flagged

    def check(path: Path) -> None:
        if read_footer(path).get("fingerprint") != spec.fingerprint:
            raise ValueError("the footer does not hold this run's fingerprint")
        check_leaf(path, partition, partition.rows, rows(_NAMES))

    staging = run.staging(token)
    if again:
        commit.replace(leaf, write, staging, check)
    else:
        commit.publish(leaf, write, check, staging)
    return flagged


def _write_both(
    run: RunDir, spec: RunSpec, partition: Partition, work: Inference, path: Path, staging: Path
) -> None:
    """Write the leaf to `path`; where samples are kept, publish those first.

    The leaf is the marker of the partition, so all that belongs to it must be there before it.
    """
    if spec.settings.keep_samples:
        group = run.sample_group(partition.name)

        def write_samples(folder: Path) -> None:
            with samples.SampleWriter(folder, work.sample_facts()) as sink:
                write_leaf(path, work.schema, work.tables(sink))

        if group.exists() and samples.fingerprint_of(group) != spec.fingerprint:
            # They belong to a leaf that is published, so they stay until others can follow them.
            with commit.in_staging(group, staging) as made:
                write_samples(made)
                discard(group, staging)
                publish_group(group, partial(_move, made), staging)
        else:
            publish_group(group, write_samples, staging)
    if not path.exists():
        write_leaf(path, work.schema, work.tables(None))


def _move(made: Path, staged: Path) -> None:
    made.rename(staged)


def _footer(spec: RunSpec, partition: Partition, engine: Engine) -> dict[str, str]:
    """What a published file says about itself."""
    return {
        "fingerprint": spec.fingerprint,
        "model": spec.model["sha256"],
        "version": spec.version,
        "seed": str(engine.seed),
        "passes": str(engine.passes),
        "precision": engine.settings.precision,
        "batch": str(engine.settings.batch),
        "device": engine.settings.device,
        "threads": str(engine.settings.threads),
        "partition": partition.name,
        "status_flags": ", ".join(f"{bit.name}={int(bit)}" for bit in Status),
    }
