"""Whole runs with images from HSC's cutout service; and that no secret is found anywhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from dasserver import DasServer
from dasserver import Sky as Mosaic
from smallrun import Sky, command, rows, verb, write_model, write_sky
from watched import Watched, forms

from survey_gampen.images.status import Status

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def galaxies(tmp_path_factory: pytest.TempPathFactory) -> Sky:
    """A catalogue and a model; images come from elsewhere."""
    sky = Sky.__new__(Sky)
    home = tmp_path_factory.mktemp("remote")
    sky.model = write_model(home / "model.safetensors")
    sky.images, sky.catalog = write_sky(home, 12)
    return sky


@pytest.fixture(scope="module")
def mosaic() -> Mosaic:
    return Mosaic(700, 700)


def test_a_run_with_a_service_leaves_no_secret(
    galaxies: Sky, mosaic: Mosaic, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with DasServer(mosaic, ["503", "cut"]) as server:
        words = command(galaxies.catalog, Path("IMAGES"), galaxies.model, out)
        words[words.index("IMAGES")] = server.spec
        words += ["--partition-rows", "8", "--keep-cutouts"]
        run = Watched(words, server.environment(), tmp_path, forms(server.password, server.user))
        assert run.code == 0, run.err
        assert server.lists
        # One request a partition, and what two faults cost.
        assert len(server.posts) <= 2 + 4
    table = rows(out)
    assert table.num_rows == 12
    flags = table["status"].to_pylist()
    assert sum(bool(flag & int(Status.NO_IMAGE)) for flag in flags) == 1
    assert any(str(out).encode() in line for line in run.called)
    assert run.leaks == []
    assert server.user.encode() not in (out / "run.toml").read_bytes()
    assert server.url.encode() in (out / "run.toml").read_bytes()
    assert not list((out / ".cache").rglob("*.tar*"))
    # The same again: nothing is asked for, nothing is done.
    with DasServer(mosaic) as other:
        assert verb("status", out).returncode == 0
        assert not other.posts


def test_a_wrong_password_is_one_line(galaxies: Sky, mosaic: Mosaic, tmp_path: Path) -> None:
    with DasServer(mosaic) as server:
        words = command(galaxies.catalog, Path("IMAGES"), galaxies.model, tmp_path / "run")
        words[words.index("IMAGES")] = server.spec
        wrong = {**server.environment(), "SURVEY_GAMPEN_HSC_PASSWORD": "wrong:secret"}
        run = Watched(words, wrong, tmp_path, forms("wrong:secret", server.user))
        assert run.code == 2
        assert "refuses name and password" in run.err
        assert "Traceback" not in run.err
        assert run.leaks == []
        assert not (tmp_path / "run" / "run.toml").exists()
        assert not server.posts


def test_a_refusal_in_the_middle_can_be_gone_on_from(
    galaxies: Sky, mosaic: Mosaic, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with DasServer(mosaic, ["401"] * 100) as server:
        words = command(galaxies.catalog, Path("IMAGES"), galaxies.model, out)
        words[words.index("IMAGES")] = server.spec
        words += ["--partition-rows", "8"]
        secret = forms(server.password, server.user)
        run = Watched(words, server.environment(), tmp_path, secret)
        assert run.code == 75, run.err
        assert "refuses name and password" in run.err
        assert run.leaks == []
        server.faults.clear()
        again = Watched(words, server.environment(), tmp_path, secret)
        assert again.code == 0, again.err
    assert rows(out).num_rows == 12
