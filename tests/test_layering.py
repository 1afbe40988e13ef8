"""The map of the house, kept true: who may import whom, read from the source."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

from survey_gampen import cli

PACKAGE = Path(cli.__file__).parent

#: From the cellar to the roof. A module may import from its own row and from those below it; the
#: longest name that fits decides, so run/runner.py stands above the rest of run/.
ROWS = [
    {"survey_gampen", "survey_gampen.errors"},
    {
        *("survey_gampen.paths", "survey_gampen.tomlfile", "survey_gampen.commit"),
        *("survey_gampen.signals", "survey_gampen.quiet", "survey_gampen.stages"),
        *("survey_gampen.storage", "survey_gampen.parquet"),
        *("survey_gampen.addresses", "survey_gampen.stores", "survey_gampen.net"),
        "survey_gampen.catalogmetadata",
        *("survey_gampen.credentials", "survey_gampen.generations", "survey_gampen.ahead"),
        *("survey_gampen.outside", "survey_gampen.opening"),
    },
    {"survey_gampen.cuts", "survey_gampen.survey", "survey_gampen.surveys"},
    {"survey_gampen.config"},
    {"survey_gampen.catalog", "survey_gampen.images", "survey_gampen.model"},
    {"survey_gampen.posterior"},
    {"survey_gampen.run"},
    {"survey_gampen.cluster"},
    {"survey_gampen.pool"},
    {"survey_gampen.simulation"},
    {
        *("survey_gampen.run.runner", "survey_gampen.training", "survey_gampen.report"),
        "survey_gampen.bands",
    },
    {
        *(
            "survey_gampen.cli",
            "survey_gampen.cli_around",
            "survey_gampen.cli_options",
            "survey_gampen.cli_catalogs",
        ),
        *("survey_gampen.cli_cluster", "survey_gampen.cli_science"),
    },
    {"survey_gampen.__main__"},
]
#: Rooms and files that may know of Dask; what runs on a worker must not need it.
DASK = (
    "survey_gampen.cluster",
    "survey_gampen.pool",
    "survey_gampen.run.runner",
    "survey_gampen.training.gang",
)
DASK_PACKAGES = {"dask", "distributed", "dask_jobqueue"}


def module_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


SOURCES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(module: str) -> set[str]:
    """All modules that a module imports, also those inside functions."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(SOURCES[module].read_text(), str(SOURCES[module]))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in SOURCES else str(node.module) for name in full}
    return found


GRAPH = {module: imports(module) for module in SOURCES}


def row(module: str) -> int:
    fits = [
        (len(prefix), number)
        for number, prefixes in enumerate(ROWS)
        for prefix in prefixes
        if module == prefix or (module.startswith(prefix + ".") and prefix != "survey_gampen")
    ]
    assert fits, f"{module} has no place in the house: add it to ROWS"
    return max(fits)[1]


@pytest.mark.parametrize("module", SOURCES)
def test_nobody_knows_of_a_higher_row(module: str) -> None:
    higher = {m for m in GRAPH[module] & SOURCES.keys() if row(m) > row(module)}
    assert not higher, f"{module} imports {', '.join(sorted(higher))}"


def test_no_circles() -> None:
    own = {module: found & SOURCES.keys() - {module} for module, found in GRAPH.items()}
    TopologicalSorter(own).prepare()  # raises CycleError, which names the circle


@pytest.mark.parametrize("module", SOURCES)
def test_dask_stays_in_its_rooms(module: str) -> None:
    roots = {name.split(".")[0] for name in GRAPH[module]}
    if not module.startswith(DASK):
        assert not roots & DASK_PACKAGES


def test_a_worker_needs_no_distributed() -> None:
    """What runs on a worker loads without Dask's machinery, whoever it is imported by."""
    code = "import sys, survey_gampen.run.task; sys.exit('distributed' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr or "distributed was imported"


def test_nothing_is_unpickled() -> None:
    """Files are data: no module loads pickles, by whatever name."""
    for module, found in GRAPH.items():
        assert not {"pickle", "cloudpickle", "dill", "joblib", "shelve"} & found, module
        text = SOURCES[module].read_text()
        assert "torch.load(" not in text, module
        assert "allow_pickle=True" not in text, module
