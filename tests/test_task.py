"""One partition, from cutouts to a published file, in this process: what a debugger would see."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from smallrun import rows, write_model, write_sky

from survey_gampen.catalog.hats_out import leaf_path
from survey_gampen.config import Settings
from survey_gampen.errors import OutsideFault
from survey_gampen.images.status import Status
from survey_gampen.images.store import open_cutouts
from survey_gampen.posterior import samples
from survey_gampen.run import inference, setup, task, tools
from survey_gampen.run.folder import folder
from survey_gampen.run.layout import RunDir
from survey_gampen.run.leaf import read_footer
from survey_gampen.run.measure import Measured
from survey_gampen.run.plan import Partition, read_plan
from survey_gampen.run.scope import out_of_range
from survey_gampen.run.spec import read_spec, write_spec
from survey_gampen.run.triage import TooLarge

ENGINE = {"device": "cpu", "precision": "fp32", "batch": 8, "threads": 1}


@pytest.fixture(scope="module")
def planned(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    """A planned run that nobody has begun."""
    home = tmp_path_factory.mktemp("task")
    images, catalog = write_sky(home, 20)
    settings = Settings(
        catalog=str(catalog),
        images=str(images),
        out=str(home / "run"),
        band="g",
        model=str(write_model(home / "model.safetensors")),
        passes=4,
        partition_rows=8,
        keep_cutouts=True,
    )
    with folder(home / "run") as run:
        staging = run.staging("000001")
        inputs = setup.open_inputs(settings, run)
        n = setup.sort_rows(run, inputs, staging)
        setup.plan(run, inputs, n, Measured(ENGINE, 0.1), 1, staging)
    return run


@pytest.fixture
def run(planned: RunDir, tmp_path: Path) -> RunDir:
    """A copy to work on."""
    shutil.copytree(planned.root, tmp_path / "run")
    return RunDir(tmp_path / "run")


def plan(run: RunDir) -> list[Partition]:
    return list(read_plan(run.plan))


def leaf(run: RunDir, partition: Partition) -> Path:
    return leaf_path(run.posteriors, partition.norder, partition.npix)


def test_partition_by_partition_every_row_comes_out(run: RunDir) -> None:
    told: list[int] = []
    for partition in plan(run):
        cut = task.cut_partition(run.root, partition)
        assert cut["rows"] == partition.rows
        report = task.infer_partition(run.root, partition, tick=told.append)
        assert report["published"]
        assert set(cut["stages"]) == {"opening", "cutting", "writing"}
        parts = {"opening", "reading", "inferring", "summarising", "publishing"}
        assert set(report["stages"]) <= parts  # one partition has no usable image
        assert sum(report["stages"].values()) == pytest.approx(report["seconds"], abs=0.1)
        assert pq.read_metadata(leaf(run, partition)).num_rows == partition.rows
        assert open_cutouts(run.cutout_group(partition.name)).n == partition.rows
    done = rows(run.root)
    assert sum(told) == done.num_rows == 20
    # Of the box of 239 pixels, 13 by 13 are NaN; who has pixels replaced carries a flag.
    status, replaced = done["status"].to_numpy(), done["replaced"].to_numpy()
    touched = int(Status.NO_IMAGE | Status.EDGE | Status.BAD_PIXELS)
    assert ((replaced > 0) == ((status & touched) != 0)).all()
    assert (replaced[status == int(Status.NO_IMAGE)] == 1).all()
    core = (status & int(Status.NO_DATA | Status.EDGE)) == int(Status.NO_DATA)
    assert core.any()
    assert replaced[core] == pytest.approx(13**2 / 239**2, rel=1e-6)


def test_what_is_published_is_left_alone(run: RunDir) -> None:
    partition = plan(run)[0]
    task.cut_partition(run.root, partition)
    task.infer_partition(run.root, partition)
    before = leaf(run, partition).stat()
    report = task.infer_partition(run.root, partition, again=True)  # of the same images
    assert not report["published"]
    after = leaf(run, partition).stat()  # whose time of access may move
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)


def test_stored_cutouts_are_what_counts(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """Infer never looks at the images: they may be gone by then."""
    partition = plan(run)[-1]
    task.cut_partition(run.root, partition)
    monkeypatch.setattr(task, "source_of", None)
    assert task.infer_partition(run.root, partition)["published"]
    assert task.cut_partition(run.root, partition)["rows"] == partition.rows  # already there


def test_a_smaller_batch_stands_in_the_footer(run: RunDir) -> None:
    partition = max(plan(run), key=lambda p: p.rows)
    task.cut_partition(run.root, partition)
    task.infer_partition(run.root, partition, batch=4)
    footer = read_footer(leaf(run, partition))
    assert (footer["batch"], footer["partition"]) == ("4", partition.name)


def test_draws_stay_until_others_can_follow_them(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The leaf that they belong to stays as well where work is killed that does it again."""
    spec = read_spec(run)
    keeps = replace(spec, settings=replace(spec.settings, keep_samples=True))
    write_spec(run, keeps, run.staging("solo"))
    partition = max(plan(run), key=lambda p: p.rows)
    group = run.sample_group(partition.name)
    task.cut_partition(run.root, partition)
    task.infer_partition(run.root, partition)
    assert samples.fingerprint_of(group) == spec.fingerprint
    later = replace(keeps, fingerprint="later", earlier=(spec.fingerprint,))
    write_spec(run, later, run.staging("solo"))

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(tools.Engine, "draws", die)
        with pytest.raises(KeyboardInterrupt):
            task.infer_partition(run.root, partition, again=True)
    assert read_footer(leaf(run, partition))["fingerprint"] == spec.fingerprint
    assert samples.fingerprint_of(group) == spec.fingerprint
    assert task.infer_partition(run.root, partition, again=True)["published"]
    assert read_footer(leaf(run, partition))["fingerprint"] == "later"
    assert samples.fingerprint_of(group) == "later"
    assert not list(run.staging("solo").iterdir())


def test_memory_that_runs_out_is_named_so(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    partition = max(plan(run), key=lambda p: p.rows)
    task.cut_partition(run.root, partition)

    def burst(*_: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(tools.Engine, "draws", burst)
    with pytest.raises(TooLarge):
        task.infer_partition(run.root, partition)
    assert not leaf(run, partition).exists()
    assert not list(run.staging("solo").iterdir())


def test_a_galaxy_without_a_finite_draw_is_flagged(
    run: RunDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = max(plan(run), key=lambda p: p.rows)
    task.cut_partition(run.root, partition)
    draw = tools.Engine.draws

    def first_is_lost(self, images, keys):
        draws = draw(self, images, keys)
        scaled, physical, finite = (
            t.numpy().copy() for t in (draws.scaled, draws.physical, draws.finite)
        )
        scaled[0, 1, 2] = physical[0, 1, 2] = np.nan
        finite[0] = False
        return replace(
            draws,
            scaled=torch.from_numpy(scaled),
            physical=torch.from_numpy(physical),
            finite=torch.from_numpy(finite),
        )

    monkeypatch.setattr(tools.Engine, "draws", first_is_lost)
    task.infer_partition(run.root, partition)
    table = pq.ParquetFile(leaf(run, partition)).read()
    status = table["status"].to_numpy()
    lost = (status & Status.NONFINITE) != 0
    assert lost.sum() == 1
    assert table["flux_p50"].is_null().to_numpy()[lost].all()
    assert table["n_passes"].is_null().to_numpy()[lost].all()
    good = (status & int(inference.NULL_BITS)) == 0
    assert good.sum() > 0
    assert not table["flux_p50"].is_null().to_numpy()[good].any()


def test_a_model_that_changed_stops_the_run(run: RunDir) -> None:
    partition = plan(run)[0]
    task.cut_partition(run.root, partition)
    spec = task.read_spec(run)
    # Another fingerprint, so that the network kept by this process is not taken.
    text = run.run_toml.read_text().replace(spec.model["sha256"], "0" * 64)
    run.run_toml.write_text(text.replace(spec.fingerprint, "1" * 64))
    with pytest.raises(OutsideFault, match="has changed since the run was planned"):
        task.infer_partition(run.root, partition)


def test_what_lies_outside_of_the_training() -> None:
    trained = {"sky_sigma_njy": [1.7, 4.6], "psf_fwhm": [0.45, 1.0]}
    nan = np.nan
    #            fine, noisy, deep, blurred, unknown, LSST's scale, coarse pixels
    sky = np.array([2.5, 6.0, 0.5, 2.5, nan, 2.5, 2.5])
    psf = np.array([0.7, 0.7, 0.7, 1.4, nan, 0.7, 0.7])
    scale = np.array([0.168, 0.168, 0.168, 0.168, nan, 0.2, 0.262])
    found = out_of_range(trained, 0.168, sky, psf, scale)
    assert found.tolist() == [False, True, True, True, False, False, True]
    assert not out_of_range({}, 0.168, sky[:5], psf[:5], scale[:5]).any()


def test_images_that_are_gone_are_no_fault_of_a_partition(run: RunDir, tmp_path: Path) -> None:
    """A worker that can't open what there was at planning stops; it quarantines nothing."""
    spec = read_spec(run)
    for gone in ("gone.zarr", "gone"):
        lost = replace(spec, settings=replace(spec.settings, images=str(tmp_path / gone)))
        with pytest.raises(OutsideFault, match="at planning there were"):
            tools.source_of(run, lost)
