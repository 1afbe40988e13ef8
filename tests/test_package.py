"""A wheel holds all that a checkout holds and a run needs."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from survey_gampen import paths

ROOT = Path(__file__).resolve().parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]

LOOK = """
from pathlib import Path
import survey_gampen
from survey_gampen import paths
from survey_gampen.survey import load_survey
assert Path(survey_gampen.__file__).is_relative_to(Path.cwd()), survey_gampen.__file__
load_survey("hsc-wide")
for kind in ("cluster", "catalogs"):
    folder = paths.data_dir(kind)
    assert folder.is_relative_to(Path.cwd()), folder
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            print(f"{kind}/{path.relative_to(folder)}")
package = Path(survey_gampen.__file__).parent
for path in sorted(package.rglob("*")):
    if path.suffix in {".toml", ".safetensors", ".py"} and "_data" not in path.parts:
        print(f"survey_gampen/{path.relative_to(package)}")
"""


def quiet(*command: str | Path, **kwargs: object) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, **kwargs)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.slow
def test_wheel(tmp_path: Path) -> None:
    python = sys.executable
    quiet(python, "-m", "build", "--wheel", "--no-isolation", "--outdir", tmp_path, ROOT)
    (wheel,) = tmp_path.glob("*.whl")
    site = tmp_path / "site"
    quiet(python, "-m", "pip", "install", "--quiet", "--no-deps", "--no-index",
          "--no-compile", "--target", site, wheel)  # fmt: skip

    # PYTHONPATH comes before the editable install of this environment.
    env = {**os.environ, "PYTHONPATH": str(site), "PYTHONDONTWRITEBYTECODE": "1"}
    installed = set(quiet(python, "-c", LOOK, cwd=site, env=env).split())
    here = {
        str(path.relative_to(ROOT))
        for pattern in (
            "cluster/**/*",
            "catalogs/**/*",
            "survey_gampen/**/*.py",
            "survey_gampen/**/*.toml",
            "survey_gampen/**/*.safetensors",
        )
        for path in ROOT.glob(pattern)
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert installed == here
    assert "catalogs/hsc-wide.toml" in here
    version = quiet(python, site / "bin" / "survey-gampen", "--version", env=env)
    assert re.fullmatch(r"survey-gampen \d+\.\d+\.\d+\n", version)


def test_a_shipped_file_has_no_directory(tmp_path: Path) -> None:
    assert paths.data_file("cluster", "local.yaml").is_file()
    with pytest.raises(Exception, match="choose one of generic, hsc-pdr2-wide"):
        paths.data_file("catalogs", "../catalogs/generic.toml")


def test_no_python_among_the_data() -> None:
    for kind in ("cluster", "catalogs"):
        assert not list((ROOT / kind).rglob("*.py"))


def test_the_lock_holds_every_requirement() -> None:
    """Each package that the project names, extras included, has one exact version."""

    def name(requirement: str) -> str:
        found = re.match(r"[A-Za-z0-9._-]+", requirement)
        assert found
        return re.sub(r"[-_.]+", "-", found.group()).lower()

    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pins = [line for line in lines if line and not line.startswith("#")]
    assert all(re.fullmatch(r"[A-Za-z0-9._-]+==[A-Za-z0-9.]+", pin) for pin in pins)
    locked = {name(pin) for pin in pins}
    assert len(locked) == len(pins)
    extras = PROJECT["optional-dependencies"].values()
    wanted = [*PROJECT["dependencies"], *(r for extra in extras for r in extra)]
    assert {name(requirement) for requirement in wanted} <= locked
