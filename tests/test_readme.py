"""The README keeps its word: its snippets run, its commands parse, its files exist."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest

from survey_gampen import cli
from survey_gampen.images.status import Status
from survey_gampen.paths import data_dir

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    found = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return [text for name, text in found if name == language]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a finished ``catalog.gampen``, made by the command of the README."""
    home = tmp_path_factory.mktemp("readme")
    shutil.copy(data_dir("catalogs") / "demo.parquet", home / "catalog.parquet")
    shutil.copytree(data_dir("catalogs") / "demo", home / "demo")
    options = ["--passes", "4", "--limit", "8", "--keep-samples"]
    assert cli.main(["run", str(home / "catalog.parquet"), *options]) == 0
    return home


@pytest.mark.slow
def test_snippets_run(finished: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    snippets = blocks("python")
    assert len(snippets) >= 4
    monkeypatch.chdir(finished)
    results: dict[str, object] = {}
    for snippet in snippets:
        exec(snippet, results)
    assert len(results["table"]) == 8  # type: ignore[arg-type]
    assert results["mean_bt_of_each_draw"].shape == (4,)  # type: ignore[attr-defined]


def test_commands_parse() -> None:
    lines = [line for block in blocks("") for line in block.splitlines()]
    commands = [shlex.split(line)[1:] for line in lines if line.startswith("survey-gampen ")]
    assert len(commands) >= 6
    for command in commands:
        assert callable(cli.parser().parse_args(command).call)


def test_links_lead_somewhere() -> None:
    targets = re.findall(r"\]\(([^)]+)\)", README)
    missing = [t for t in targets if not t.startswith("http") and not (ROOT / t).exists()]
    assert not missing


def test_status_table_is_the_flags() -> None:
    rows = dict(re.findall(r"^\| (\d+) \| ([A-Z_]+) \|", README, re.MULTILINE))
    told = {name: int(bit) for bit, name in rows.items()}
    known = {flag.name: int(flag) for flag in Status}
    assert told == known
