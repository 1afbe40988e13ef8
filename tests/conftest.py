"""Fixtures that many tests share."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import settings
from objectstore import serving
from slurmdev import Slurm
from smallrun import Sky, call

from survey_gampen.training.parts import PartsSet

ROOT = Path(__file__).resolve().parent.parent

# A busy machine is no failure: hypothesis judges examples, not their time.
settings.register_profile("default", deadline=None)
settings.load_profile("default")


def pytest_collection_modifyitems(items: Sequence[pytest.Item]) -> None:
    """A test that asks for the fixture `realdata` carries the marker of that name."""
    for item in items:
        if "realdata" in getattr(item, "fixturenames", ()):
            item.add_marker("realdata")


@pytest.fixture(scope="session")
def parts_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small set of parts, as ``simulate --parts`` makes them; not to be written to."""
    pytest.importorskip("galsim", exc_type=ImportError)
    from smallsim import make_parts

    return make_parts(tmp_path_factory.mktemp("parts"))


@pytest.fixture(scope="session")
def parts(parts_folder: Path) -> PartsSet:
    """That set, in memory."""
    return PartsSet(parts_folder)


@pytest.fixture
def signals_of_before() -> Iterator[None]:
    """A verb that is told to end ignores SIGTERM from then on; not so the tests after it."""
    before = {each: signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)}
    yield
    for each, handler in before.items():
        signal.signal(each, handler)


@pytest.fixture(scope="session")
def realdata() -> Path:
    """The folder of real images; the test is skipped where there is none."""
    folder = Path(os.environ.get("SURVEY_GAMPEN_REALDATA") or ROOT.parent / "shared" / "data")
    if not folder.is_dir():
        pytest.skip("no real images: set SURVEY_GAMPEN_REALDATA to their folder")
    return folder


@pytest.fixture(scope="session")
def sky(tmp_path_factory: pytest.TempPathFactory) -> Sky:
    """A small sky, its catalogue and a narrow model."""
    return Sky(tmp_path_factory.mktemp("sky"))


@pytest.fixture(scope="session")
def calm(sky: Sky, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of an undisturbed run; tests read it only."""
    out = tmp_path_factory.mktemp("calm") / "run"
    done = call(sky.command(out, "--keep-samples"))
    assert done.returncode == 0, done.stderr
    return out


@pytest.fixture(scope="session")
def bucket() -> Iterator[str]:
    """The address of a bucket of an object store on this machine."""
    with serving() as address:
        yield address


@pytest.fixture(scope="session")
def slurm() -> Iterator[Slurm]:
    """A real Slurm on this machine."""
    cluster = Slurm()
    yield cluster
    cluster.down()


@pytest.fixture
def make_catalog(tmp_path: Path) -> Callable[..., Path]:
    """Write a Parquet catalogue of `n` galaxies around a point and return its path."""

    def make(
        name: str = "catalog.parquet",
        n: int = 10,
        *,
        metadata: dict[bytes, bytes] | None = None,
        **columns: object,
    ) -> Path:
        rng = np.random.default_rng(0)
        table = pa.table(
            {
                "object_id": np.arange(n, dtype=np.int64),
                "ra": 150.0 + rng.uniform(-0.1, 0.1, n),
                "dec": 2.0 + rng.uniform(-0.1, 0.1, n),
                **columns,
            }
        )
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(table.replace_schema_metadata(metadata), path)
        return path

    return make


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB of its own, to be filled; skipped where it cannot be mounted."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted here: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
