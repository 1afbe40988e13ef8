"""Whole runs with images from a service; and that no secret is found anywhere afterwards."""

from __future__ import annotations

import base64
import subprocess
import threading
from pathlib import Path
from urllib.parse import quote

import psutil
import pytest
from dasserver import DasServer
from dasserver import Sky as Mosaic
from smallrun import Sky, command, environment, rows, verb, write_model, write_sky

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


class Watched:
    """A command, what it said, and what its processes were called with."""

    def __init__(self, words: list[str], more: dict[str, str], cwd: Path) -> None:
        self.called: set[str] = set()
        process = subprocess.Popen(
            words,
            env={**environment(), **more},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        ended = threading.Event()
        thread = threading.Thread(target=self._look, args=(process.pid, ended))
        thread.start()
        self.out, self.err = process.communicate(timeout=400)
        ended.set()
        thread.join()
        self.code = process.returncode

    def _look(self, pid: int, ended: threading.Event) -> None:
        while not ended.wait(0.1):
            try:
                top = psutil.Process(pid)
                for each in [top, *top.children(recursive=True)]:
                    self.called.add("\0".join(each.cmdline()))
            except psutil.Error:
                continue


def forms(secret: str, user: str) -> list[bytes]:
    """All spellings that a secret may be written in."""
    pair = f"{user}:{secret}".encode()
    spelled = [secret.encode(), base64.b64encode(pair), base64.b64encode(secret.encode())]
    spelled += [quote(secret).encode(), repr(secret)[1:-1].encode("ascii", "backslashreplace")]
    return [each.rstrip(b"=") for each in spelled]


def found_in(folder: Path, words: list[bytes]) -> list[Path]:
    """Files that hold one of some words, in their content or in their name."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return [
        path
        for path in files
        if any(word in path.read_bytes() or word in str(path).encode() for word in words)
    ]


def test_a_run_with_a_service_leaves_no_secret(
    galaxies: Sky, mosaic: Mosaic, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    with DasServer(mosaic, ["503", "cut"]) as server:
        words = command(galaxies.catalog, Path("IMAGES"), galaxies.model, out)
        words[words.index("IMAGES")] = server.spec
        words += ["--partition-rows", "8", "--keep-cutouts"]
        run = Watched(words, server.environment(), tmp_path)
        assert run.code == 0, run.err
        assert server.lists
        # One request a partition, and what two faults cost.
        assert len(server.posts) <= 2 + 4
    table = rows(out)
    assert table.num_rows == 12
    flags = table["status"].to_pylist()
    assert sum(bool(flag & int(Status.NO_IMAGE)) for flag in flags) == 1
    secret = forms(server.password, server.user)
    assert len(run.called) >= 1
    assert not [line for line in run.called if any(word in line.encode() for word in secret)]
    assert not any(word in (run.out + run.err).encode() for word in secret)
    assert found_in(tmp_path, secret) == []
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
        run = Watched(words, wrong, tmp_path)
        assert run.code == 2
        assert "refuses name and password" in run.err
        assert "Traceback" not in run.err
        secret = forms("wrong:secret", server.user)
        assert not any(word in (run.out + run.err).encode() for word in secret)
        assert found_in(tmp_path, secret) == []
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
        run = Watched(words, server.environment(), tmp_path)
        assert run.code == 75, run.err
        assert "refuses name and password" in run.err
        secret = forms(server.password, server.user)
        assert not any(word in (run.out + run.err).encode() for word in secret)
        assert found_in(tmp_path, secret) == []
        server.faults.clear()
        again = Watched(words, server.environment(), tmp_path)
        assert again.code == 0, again.err
    assert rows(out).num_rows == 12
