"""survey-gampen run, from end to end, on a small sky: every row once, whatever happens.

A narrow network with random weights stands in for the real one (see smallrun.py).
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import psutil
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from smallrun import call, command, environment, rows, status, verb, write_model, write_sky

from survey_gampen.images.status import Status

N = 36


class Sky:
    """Images, catalogue and model of a test."""

    def __init__(self, folder: Path, n: int = N) -> None:
        self.model = write_model(folder / "model.safetensors")
        self.images, self.catalog = write_sky(folder, n)

    def command(self, out: Path, *more: str, rows: int = 4) -> list[str]:
        """The command that measures it."""
        sizing = [] if "--partition-rows" in more else ["--partition-rows", str(rows)]
        return command(self.catalog, self.images, self.model, out, *sizing, *more)


@pytest.fixture(scope="module")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Sky:
    return Sky(tmp_path_factory.mktemp("sky"))


@pytest.fixture(scope="module")
def calm(sky: Sky, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run."""
    out = tmp_path_factory.mktemp("calm") / "run"
    done = call(sky.command(out, "--keep-samples"))
    assert done.returncode == 0, done.stderr
    return out


def leaves(out: Path) -> dict[str, bytes]:
    """Names and bytes of the published files."""
    root = out / "posteriors" / "dataset"
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("Npix=*.parquet"))}


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
    assert call(sky.command(calm, "--keep-samples")).returncode == 0
    assert before == {p: p.stat().st_mtime_ns for p in (calm / "posteriors").rglob("Npix=*")}


def test_status_counts(calm: Path) -> None:
    report = status(calm)
    assert report["state"] == "complete"
    assert report["galaxies"] == {"planned": N, "cut": N, "published": N, "quarantined": 0}
    assert "complete" in verb("status", calm).stdout


def test_nothing_is_left_lying_about(calm: Path) -> None:
    assert {p.name for p in calm.iterdir()} == {
        *("run.toml", "plan.parquet", "catalog", "cutouts", "posteriors", "samples"),
        *(".claim", ".staging", ".cache"),
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


@pytest.mark.slow
def test_two_clients_and_another_partition_size(sky: Sky, calm: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = sky.command(out, rows=11)
    both = [
        subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    said = [client.communicate(timeout=400)[1] for client in both]
    codes = [client.returncode for client in both]
    assert sorted(codes) == [0, 2], said
    refusal = said[codes.index(2)]
    assert f"pid {both[codes.index(0)].pid} on " in refusal
    assert len(leaves(out)) < len(leaves(calm))
    assert rows(out).equals(rows(calm))


@pytest.mark.slow
def test_killed_at_any_moment_nothing_is_lost(sky: Sky, calm: Path, tmp_path: Path) -> None:
    """Client, worker and both are killed; the same command goes on; the bits are the same."""
    out = tmp_path / "run"
    words = sky.command(out, "--keep-samples")
    for victims in ("client", "worker", "both", "client"):
        client = subprocess.Popen(words, env=environment(), stderr=subprocess.DEVNULL)
        try:
            before = len(leaves(out))
            wait_for(lambda n=before: len(leaves(out)) > n, client)
            family = psutil.Process(client.pid).children(recursive=True)
            workers = [p for p in family if "spawn_main" in " ".join(p.cmdline())]
            assert workers or client.poll() is not None
            if victims != "client":
                for process in workers:
                    process.kill()
            if victims == "worker":  # the client lives, and goes on with a new one
                before = len(leaves(out))
                wait_for(lambda n=before: len(leaves(out)) > n, client)
            client.kill()
            client.wait()
            # Workers do not outlive their client for long.
            assert not psutil.wait_procs(family, timeout=60)[1]
        finally:
            client.kill()
    assert call(words).returncode == 0
    assert leaves(out) == leaves(calm)
    assert rows(out).equals(rows(calm))


def wait_for(condition, client: subprocess.Popen, seconds: float = 400) -> None:
    """Until a condition holds or the client has ended."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        if client.poll() is not None:
            return
        time.sleep(0.02)


@pytest.mark.slow
def test_a_signal_ends_the_run_in_order(sky: Sky, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = sky.command(out)
    client = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(leaves(out)) >= 1, client)
    assert status(out)["state"] in ("running", "complete")
    client.send_signal(signal.SIGTERM)
    said = client.communicate(timeout=400)[1]
    if client.returncode != 0:  # it may have been done
        assert client.returncode == 75, said
        assert "the same command goes on" in said
        assert status(out)["state"] == "stopped"
    import hats

    assert hats.read_hats(out / "posteriors").catalog_info.total_rows == rows(out).num_rows


@pytest.mark.slow
def test_a_broken_tile_quarantines_its_partitions_and_resume_heals(tmp_path: Path) -> None:
    sky = Sky(tmp_path, 20)
    far = Sky(tmp_path / "far", 6)  # the same spot of the sky, moved
    shift(far, 2.0)
    tile = next(far.images.iterdir())
    broken = sky.images / "calexp-HSC-G-0-1,0.fits"
    broken.write_bytes(tile.read_bytes())
    table = pa.concat_tables([pq.read_table(sky.catalog), pq.read_table(far.catalog)])
    ids = pa.array(np.arange(table.num_rows))
    pq.write_table(table.set_column(0, "object_id", ids), sky.catalog)
    out = tmp_path / "run"
    words = sky.command(out, rows=5)
    assert call([*words, "--plan-only"]).returncode == 0
    # Pixels that cannot be read, of a file whose name, size and time are those of the plan.
    whole, times = broken.read_bytes(), broken.stat()
    broken.write_bytes(b"\0" * len(whole))
    os.utime(broken, ns=(times.st_atime_ns, times.st_mtime_ns))

    done = call(words)
    assert done.returncode == 3, done.stderr
    report = status(out)
    assert report["state"] == "finished with quarantine"
    assert report["partitions"]["quarantined"] >= 1
    assert report["galaxies"]["published"] + report["galaxies"]["quarantined"] == table.num_rows
    assert all(broken.name in note["cause"] for note in report["quarantined"])
    assert call(words).returncode == 3  # `run` leaves them alone

    broken.write_bytes(whole)  # at another time: the images are others now
    refused = call(words)
    assert refused.returncode == 2
    assert f"survey-gampen resume {out}" in refused.stderr
    healed = verb("resume", out)
    assert healed.returncode == 0, healed.stderr
    assert rows(out).num_rows == table.num_rows
    assert not list((out / "quarantine").iterdir())


def shift(sky: Sky, degrees: float) -> None:
    """Move a sky in right ascension."""
    from astropy.io import fits

    with fits.open(next(sky.images.iterdir()), mode="update") as hdus:
        for hdu in hdus[1:]:
            hdu.header["CRVAL1"] += degrees
    table = pq.read_table(sky.catalog)
    moved = pa.array(table["ra"].to_numpy() + degrees)
    pq.write_table(table.set_column(1, "ra", moved), sky.catalog)


@pytest.mark.slow
def test_images_that_come_later_reach_their_rows(sky: Sky, tmp_path: Path) -> None:
    """--redo: rows on no image are done again when there is one, and only their partitions."""
    late = Sky(tmp_path, 20)
    other = Sky(tmp_path / "other", 4)
    shift(other, 1.0)  # where the last but one galaxy lies
    out = tmp_path / "run"
    assert call(late.command(out, "--drop-cutouts")).returncode == 0
    assert not list((out / "cutouts").iterdir())
    before, times = (
        rows(out),
        {p: p.stat().st_mtime_ns for p in (out / "posteriors").rglob("Npix=*")},
    )
    next(other.images.iterdir()).rename(late.images / "calexp-HSC-G-0-1,0.fits")

    refused = verb("resume", out)
    assert refused.returncode == 2
    assert "--redo" in refused.stderr
    assert verb("resume", out, "--redo", "NO_IMAG").returncode == 2
    redone = verb("resume", out, "--redo", "no_image")
    assert redone.returncode == 0, redone.stderr
    after = rows(out)
    assert after["object_id"].equals(before["object_id"])
    assert sum(s & Status.NO_IMAGE for s in before["status"].to_pylist()) == 1
    assert not any(s & Status.NO_IMAGE for s in after["status"].to_pylist())
    changed = [p for p, t in times.items() if p.stat().st_mtime_ns != t]
    assert len(changed) == 1
    # And again there is nothing to do.
    assert verb("resume", out, "--redo", "no_image").returncode == 0
    assert call(late.command(out)).returncode == 0


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 12 MB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(folder)], check=False
    )
    if os.geteuid() != 0 or mount.returncode:
        pytest.skip("only root may mount a file system")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.mark.slow
def test_a_full_disk_stops_and_the_same_command_goes_on(
    sky: Sky, calm: Path, small_disk: Path
) -> None:
    out, ballast = small_disk / "run", small_disk / "ballast"
    words = sky.command(out, "--drop-cutouts")
    ballast.write_bytes(b"x" * 10_000_000)
    planned = call(words)
    assert planned.returncode == 75, planned.stderr
    assert "make room" in planned.stderr  # seen before the first partition
    ballast.unlink()
    client = subprocess.Popen(words, env=environment(), stderr=subprocess.PIPE, text=True)
    wait_for(lambda: len(leaves(out)) >= 1, client)
    fill(ballast)
    said = client.communicate(timeout=400)[1]
    assert client.returncode == 75, said
    assert "No space left on device" in said
    assert not (out / "quarantine").exists() or not list((out / "quarantine").iterdir())
    ballast.unlink()
    done = call(words)
    assert done.returncode == 0, done.stderr
    assert rows(out).equals(rows(calm))


def fill(path: Path) -> None:
    """Write until the disk is full."""
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 65536)
        except OSError:
            return
