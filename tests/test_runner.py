"""survey-gampen run, from end to end, on a small sky: every row once, whatever happens.

A narrow network with random weights stands in for the real one (see smallrun.py).
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from smallrun import N, Sky, call, leaves, rows, status, verb

from survey_gampen.catalog.hats_out import leaf_path
from survey_gampen.images.status import Status
from survey_gampen.run import quarantine
from survey_gampen.run.layout import RunDir
from survey_gampen.run.plan import read_plan
from survey_gampen.run.triage import Failure, Kind


def test_one_row_out_for_each_row_in(sky: Sky, calm: Path) -> None:
    table = rows(calm)
    wanted = pq.read_table(sky.catalog).sort_by("object_id")
    assert table.column("object_id").equals(wanted.column("object_id"))
    assert len(leaves(calm)) >= 8
    null = (table["status"].to_numpy() & int(Status.NO_IMAGE | Status.NO_DATA)) != 0
    for name in ("bt_p50", "r_e_mode", "flux_ci95_hi", "corr_bt_flux", "n_passes"):
        assert np.array_equal(table[name].is_null().to_numpy(), null)


def test_trouble_of_one_galaxy_is_a_flagged_row(sky: Sky, calm: Path) -> None:
    given = pq.read_table(sky.catalog)["object_id"].to_pylist()
    found = dict(zip(*(rows(calm)[n].to_pylist() for n in ("object_id", "status")), strict=True))
    assert found[given[-2]] & Status.NO_IMAGE
    assert found[given[-1]] & Status.NO_DATA
    assert sum(1 for flags in found.values() if not flags & (Status.NO_IMAGE | Status.NO_DATA)) > 20


def test_the_footer_says_what_a_file_is(calm: Path) -> None:
    path = next((calm / "posteriors").rglob("Npix=*.parquet"))
    schema = pq.read_schema(path)
    said = {k.decode(): v.decode() for k, v in schema.metadata.items()}
    assert said["survey_gampen.passes"] == "4"
    assert said["survey_gampen.fingerprint"] in (calm / "run.toml").read_text()
    assert schema.field("r_e_p50").metadata[b"unit"] == b"arcsec"
    assert all(schema.field(n).metadata[b"description"] for n in schema.names)


def test_the_result_is_a_hats_catalogue(calm: Path) -> None:
    import hats

    catalog = hats.read_hats(calm / "posteriors")
    assert catalog.catalog_info.total_rows == N
    assert len(catalog.get_healpix_pixels()) == len(leaves(calm))


def test_samples_belong_to_their_rows(calm: Path) -> None:
    from survey_gampen.posterior.samples import read_samples

    table = rows(calm)
    medians = dict(zip(table["object_id"].to_pylist(), table["flux_p50"].to_pylist(), strict=True))
    seen = 0
    for group in (calm / "samples").iterdir():
        ids, draws = read_samples(group)
        for name, flux in zip(ids.tolist(), draws[:, :, 2], strict=True):
            seen += 1
            if medians[name] is None:
                assert np.isnan(flux).all()
            else:  # half precision
                assert np.median(flux) == pytest.approx(medians[name], rel=0.02)
    assert seen == N


def test_again_finds_nothing_to_do(sky: Sky, calm: Path) -> None:
    before = {p: p.stat().st_mtime_ns for p in (calm / "posteriors").rglob("Npix=*")}
    done = call(sky.command(calm, "--keep-samples"))
    assert done.returncode == 0
    assert "time: about" not in done.stdout
    assert before == {p: p.stat().st_mtime_ns for p in (calm / "posteriors").rglob("Npix=*")}


def test_status_counts(calm: Path) -> None:
    report = status(calm)
    assert report["state"] == "complete"
    assert report["galaxies"] == {"planned": N, "cut": N, "published": N, "quarantined": 0}
    assert "complete" in verb("status", calm).stdout


def test_nothing_is_left_lying_about(calm: Path) -> None:
    assert {p.name for p in calm.iterdir()} == {
        *("run.toml", "plan.parquet", "catalog", "cutouts", "posteriors", "samples"),
        *("attempts.log", ".claim", ".staging", ".cache"),
    }
    assert not [p for p in (calm / ".staging").iterdir() if p.is_dir()]


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--passes", "5"], "settings.passes: 4 -> 5"),
        (["--seed", "1"], "settings.seed: 0 -> 1"),
        (["--partition-rows", "5"], "partition_rows: 4 -> 5"),
        (["--limit", "9"], "limit: nothing -> 9"),
    ],
)
def test_going_on_with_something_else_is_refused(
    sky: Sky, calm: Path, capsys: pytest.CaptureFixture[str], more: list[str], named: str
) -> None:
    from survey_gampen.cli import main

    words = sky.command(calm, "--keep-samples")[3:]
    if "--partition-rows" in more:
        words = [
            w for i, w in enumerate(words) if "--partition-rows" not in words[max(0, i - 1) : i + 1]
        ]
    assert main([*words, *more]) == 2
    said = capsys.readouterr().err.strip()
    assert named in said
    assert "\n" not in said


@pytest.mark.parametrize(
    ("more", "named"),
    [
        (["--images", "/nowhere"], "/nowhere"),
        (["--model", "/nowhere.safetensors"], "/nowhere.safetensors"),
        (["--cluster", "/nowhere.yaml"], "/nowhere.yaml"),
        (["--select", "magg < 3"], "magg"),
    ],
)
def test_what_cannot_be_used_is_refused_and_nothing_is_written(
    sky: Sky, tmp_path: Path, capsys: pytest.CaptureFixture[str], more: list[str], named: str
) -> None:
    from survey_gampen.cli import main

    out = tmp_path / "deep" / "run"
    assert main([*sky.command(out)[3:], *more]) == 2
    said = capsys.readouterr().err.strip()
    assert named in said
    assert "\n" not in said
    assert not out.parent.exists()


def test_duplicates_are_refused_and_nothing_is_written(
    sky: Sky, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from survey_gampen.cli import main

    table = pq.read_table(sky.catalog)
    pq.write_table(pa.concat_tables([table, table.slice(3, 1)]), tmp_path / "twice.parquet")
    words = sky.command(tmp_path / "run")[3:]
    words[1] = str(tmp_path / "twice.parquet")
    assert main(words) == 2
    assert str(table["object_id"][3]) in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_folder_with_other_things_is_left_alone(
    sky: Sky, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from survey_gampen.cli import main

    (tmp_path / "catalog").mkdir()
    (tmp_path / "catalog" / "thesis.txt").write_text("years of work")
    assert main(sky.command(tmp_path)[3:]) == 2
    assert "holds other things" in capsys.readouterr().err
    assert [str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*")] == [
        "catalog",
        "catalog/thesis.txt",
    ]


def test_a_damaged_file_is_named(sky: Sky, calm: Path, tmp_path: Path) -> None:
    """By `run`, and by `status` where it must look inside because the partition is quarantined."""
    out = shutil.copytree(calm, tmp_path / "run")
    partition = next(iter(read_plan(out / "plan.parquet")))
    leaf = leaf_path(out / "posteriors", partition.norder, partition.npix)
    whole = leaf.read_bytes()
    leaf.write_bytes(whole[:-100])
    failure = Failure("infer", Kind.UNEXPECTED, "a cause", "its trace", 3)
    quarantine.write(RunDir(out), partition, failure, tmp_path / "staging")
    (out / "quarantine" / "o0-p6.json").write_text('["no note"]')
    (out / "quarantine" / "o0-p7.json").write_text("{}")
    for done in (call(sky.command(out, "--keep-samples")), verb("status", out)):
        assert done.returncode == 2, done.stderr
        assert f"{leaf.name} is damaged" in done.stderr
        assert len(done.stderr.splitlines()) == 1
    leaf.write_bytes(whole)
    causes = [note["cause"] for note in status(out)["quarantined"]]
    assert sorted(causes)[0] == "a cause"
    assert sum("its note is damaged" in cause for cause in causes) == 2
