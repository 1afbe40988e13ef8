"""Leaves of a HATS catalogue that changed, or went, since the run was planned."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from hatsinput import in_place, leaf_files, write_hats
from skies import patch_of_sky, write
from smallrun import write_model, write_sky

from survey_gampen.catalog import (
    hats_in,
    read_rows,
)
from survey_gampen.catalog.sorted import iter_index, sorted_schema
from survey_gampen.config import Settings
from survey_gampen.errors import InputError, OutsideFault, UnreadableFile
from survey_gampen.run import setup
from survey_gampen.run.folder import folder
from survey_gampen.run.layout import RunDir
from survey_gampen.run.measure import Measured
from survey_gampen.run.plan import make_plan
from survey_gampen.run.rows import check_leaves
from survey_gampen.run.spec import read_spec


@pytest.fixture
def recorded(tmp_path: Path) -> tuple[Path, Path]:
    """A catalogue of several leaves, and the record of it."""
    hats = write_hats(tmp_path / "hats", patch_of_sky(2000), 300, 100)
    return hats, in_place(hats, tmp_path / "out", extra=["mag"])


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


def test_a_leaf_that_changed_is_noticed_by_who_reads_it(recorded: tuple[Path, Path]) -> None:
    hats, record = recorded
    file = leaf_files(hats)[0]
    table = pq.read_table(file)
    pq.write_table(table.slice(1), file, row_group_size=100)
    with pytest.raises(OutsideFault, match=f"{file.name} has changed since the run was") as caught:
        list(iter_index(record))
    one_line(caught)


@pytest.mark.parametrize("away", ["leaf", "catalogue"])
def test_a_leaf_that_is_gone_is_a_fault_outside(recorded: tuple[Path, Path], away: str) -> None:
    """Whoever unmounts a disk has not broken data: the run stops and can go on."""
    hats, record = recorded
    if away == "leaf":
        leaf_files(hats)[0].unlink()
    else:
        hats.rename(hats.with_name("unmounted"))
    with pytest.raises(OutsideFault, match="at planning it could be read") as caught:
        list(iter_index(record))
    one_line(caught)
    assert sorted_schema(record).names == ["_healpix_29", "object_id", "ra", "dec", "mag"]


def test_a_damaged_leaf_is_the_fault_of_its_data(recorded: tuple[Path, Path]) -> None:
    """Its footer is that of the plan: its partitions are quarantined, the others are not."""
    hats, record = recorded
    file = hats / next(hats_in.iter_pieces(record, 0, 1 << 62)).leaf  # the first on the sky
    data = bytearray(file.read_bytes())
    footer = int.from_bytes(data[-8:-4], "little") + 8
    data[4:-footer] = bytes(len(data) - footer - 4)
    file.write_bytes(data)
    with pytest.raises(UnreadableFile, match=f"{file.name} cannot be read: ") as caught:
        list(iter_index(record))
    one_line(caught)
    last = list(make_plan(record, 100))[-1]
    assert read_rows(record, last.norder, last.npix).num_rows == last.rows


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    images, catalog = write_sky(tmp_path, 40)
    hats = write_hats(tmp_path / "galaxies", pq.read_table(catalog), 12, 5)
    return Settings(
        catalog=str(hats),
        images=str(images),
        out=str(tmp_path / "run"),
        band="g",
        model=str(write_model(tmp_path / "model.safetensors")),
        passes=4,
        partition_rows=8,
    )


@pytest.fixture
def run(settings: Settings) -> RunDir:
    with folder(Path(settings.out)) as run:
        inputs = setup.open_inputs(settings, run)
        rows = setup.sort_rows(run, inputs, run.staging("000001"))
        assert "is read where it lies" in inputs.reading
        engine = {"device": "cpu", "precision": "fp32", "batch": 8, "threads": 1}
        setup.plan(run, inputs, rows, Measured(engine, 0.1), 1, run.staging("000001"))
    return run


def test_nothing_changed(run: RunDir, settings: Settings) -> None:
    check_leaves(run, read_spec(run))
    inputs = setup.open_inputs(settings, run)
    assert setup.existing(run, inputs, run.staging("000001")) == read_spec(run)


@pytest.mark.parametrize("what", ["changed", "gone", "more", "same footer"])
def test_leaves_that_changed_are_refused(run: RunDir, settings: Settings, what: str) -> None:
    hats = Path(settings.catalog)
    file = leaf_files(hats)[0]
    if what == "changed":
        table = pq.read_table(file)
        pq.write_table(table.slice(0, table.num_rows - 1), file)
    elif what == "gone":
        file.unlink()
    elif what == "more":
        with (hats / "partition_info.csv").open("a") as info:
            info.write("4,3071\n")
        write(hats / "dataset/Norder=4/Dir=0/Npix=3071.parquet", pq.read_table(file).slice(0, 1))
    else:
        data = bytearray(file.read_bytes())
        data[10] ^= 1
        file.write_bytes(data)
    with pytest.raises(InputError, match=r"has changed since|is missing.*not so when") as caught:
        check_leaves(run, read_spec(run))
    if what in ("changed", "gone"):
        assert file.name in one_line(caught)
    with pytest.raises(InputError, match=r"catalogue: changed|is missing") as again:
        setup.existing(run, setup.open_inputs(settings, run), run.staging("000001"))
    if what in ("changed", "gone"):
        assert file.name in one_line(again)


def test_a_catalogue_that_is_away_can_be_waited_for(run: RunDir, settings: Settings) -> None:
    hats = Path(settings.catalog)
    moved = hats.rename(hats.with_name("elsewhere"))
    with pytest.raises(OutsideFault, match=f"{hats} is away: bring the catalogue back") as caught:
        check_leaves(run, read_spec(run))
    assert f"--out {run.root}" in one_line(caught)
    # Told where it is now, the run goes on there.
    inputs = setup.open_inputs(replace(settings, catalog=str(moved)), run)
    assert setup.existing(run, inputs, run.staging("000001")) is not None
    check_leaves(run, read_spec(run))
    assert sum(piece.size for piece in iter_index(run.catalog)) == 40


def test_a_relative_path_is_that_of_planning(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_hats(tmp_path / "hats", patch_of_sky(100), 30)
    monkeypatch.chdir(tmp_path)
    record = in_place(Path("hats"), tmp_path / "out")
    monkeypatch.chdir("/")
    assert sum(piece.size for piece in iter_index(record)) == 100
