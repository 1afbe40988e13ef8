"""Whole runs with images from Rubin's services; and that the token is found nowhere."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from smallrun import rows, write_model
from sodaserver import SodaServer, Tract
from watched import Watched, forms

from survey_gampen.images.status import Status

pytest.importorskip("pyvo")
pytestmark = pytest.mark.slow
N = 10


@pytest.fixture(scope="module")
def tract() -> Tract:
    return Tract()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "model.safetensors")


def watched(
    server: SodaServer, tract: Tract, model: Path, cwd: Path, token: str = SodaServer.token
) -> Watched:
    """A run of ten galaxies, two partitions or more; the last of them lies off the tract."""
    rng = np.random.default_rng(2)
    x, y = rng.uniform(130, 550, (2, N))
    x[-1] += 5000
    ra, dec = tract.wcs.all_pix2world(x, y, 0)
    table = pa.table({"objectId": np.arange(N) + 3, "coord_ra": ra, "coord_dec": dec})
    pq.write_table(table, cwd / "galaxies.parquet")
    options = {
        "--images": server.spec, "--survey": "lsst-dp1", "--band": "r", "--model": str(model),
        "--out": str(cwd / "run"), "--passes": "4", "--precision": "fp32", "--partition-rows": "6",
    }  # fmt: skip
    words = [sys.executable, "-m", "survey_gampen.cli", "run", str(cwd / "galaxies.parquet")]
    words += [word for pair in options.items() for word in pair] + ["--keep-cutouts"]
    return Watched(words, {"SURVEY_GAMPEN_RUBIN_TOKEN": token}, cwd, forms(token))


def test_a_run_leaves_no_token(tract: Tract, model: Path, tmp_path: Path) -> None:
    faults = ["", "503", "short", "astray", "", "nonsense", "401", "junk"]
    with SodaServer(tract, faults) as server:
        run = watched(server, tract, model, tmp_path)
        assert run.code == 0, run.err
        assert not server.faults, "not all faults came up"
    flags = rows(tmp_path / "run")["status"].to_pylist()
    assert [bool(flag & int(Status.NO_IMAGE)) for flag in flags] == [False] * (N - 1) + [True]
    assert not any(flag & int(Status.BAD_CUTOUT) for flag in flags)
    assert any(str(tmp_path / "run").encode() in line for line in run.called)
    assert run.leaks == []
    assert server.spec.encode() in (tmp_path / "run" / "run.toml").read_bytes()
    assert not list(tmp_path.rglob("*.tar*"))


def test_a_wrong_token_is_one_line(tract: Tract, model: Path, tmp_path: Path) -> None:
    with SodaServer(tract) as server:
        run = watched(server, tract, model, tmp_path, token="gt-wrong.but-secret")
    assert run.code == 2
    assert "refuses the token" in run.err
    assert "Traceback" not in run.err
    assert run.leaks == []
    assert not (tmp_path / "run").exists()


def test_a_token_that_expires_in_the_middle(tract: Tract, model: Path, tmp_path: Path) -> None:
    with SodaServer(tract, ["", "", "", *["401"] * 100]) as server:
        run = watched(server, tract, model, tmp_path)
        assert run.code == 75, run.err
        assert "refuses the token" in run.err
        assert run.leaks == []
        server.faults.clear()
        again = watched(server, tract, model, tmp_path)
        assert again.code == 0, again.err
    assert again.leaks == []
    assert rows(tmp_path / "run").num_rows == N


@pytest.mark.parametrize(
    ("faults", "tables", "said"),
    [
        (["400"] * 500, {}, "answers 400 Bad Request: UsageError: Bearer \\.\\.\\."),
        ([], {"datalink": "error"}, "request for links failed: no, Bearer \\.\\.\\."),
    ],
)
def test_services_that_repeat_the_token(
    faults: list[str], tables: dict[str, str], said: str, tract: Tract, model: Path, tmp_path: Path
) -> None:
    with SodaServer(tract, faults, tables) as server:
        run = watched(server, tract, model, tmp_path)
    assert run.code == 75, run.err
    assert run.leaks == []
    assert "Traceback" not in run.err
    assert re.search(said, run.err), run.err
    assert not list((tmp_path / "run").glob("quarantine/*"))
