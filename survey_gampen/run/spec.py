"""run.toml: all that was resolved before the first partition, and never changes after it.

It is written last in planning, in one step: its presence says that planning is complete.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import tomli_w

from survey_gampen import commit
from survey_gampen.config import Settings, from_table
from survey_gampen.errors import InputError
from survey_gampen.run.layout import RunDir
from survey_gampen.survey import Survey, parse_survey


@dataclass(frozen=True)
class PlanFacts:
    """The plan in numbers.

    Attributes
    ----------
    rows, partitions : int
        Galaxies, and partitions they were put in.
    partition_rows : int
        Most rows a partition was to have.
    seconds_per_galaxy : float
        Measured at planning on one worker of that kind; 0 where nothing was measured.
    keep_cutouts : bool
        Whether cutouts stay after publication.
    rows_read : int
        Rows of the catalogue that were looked at; 0 in runs planned before this was noted.
    lost : dict of str to int
        Rows that each cut of ``--select`` lost, in the order of the cuts.
    """

    rows: int
    partitions: int
    partition_rows: int
    seconds_per_galaxy: float
    keep_cutouts: bool
    rows_read: int = 0
    lost: dict[str, int] = field(default_factory=dict)


def cut_lines(read: int, lost: Mapping[str, int], left: int) -> list[str]:
    """What each cut lost, line by line; nothing where nothing was selected."""
    if not lost:
        return []
    width = len(f"{read}")
    lines = [f"{count:>{width}} lost by {name}" for name, count in lost.items()]
    return [f"{read} rows read", *lines, f"{left:>{width}} rows left"]


@dataclass(frozen=True)
class RunSpec:
    """Everything a worker needs to know about a run.

    Attributes
    ----------
    version : str
        Of the package that planned the run.
    settings : Settings
        As resolved from command line and files.
    survey : Survey
        The profile itself: its file may change or be elsewhere when the run goes on.
    catalog_dir : str
        Folder of the sorted rows, relative to the run's folder.
    model : dict
        ``sha256``, ``path``, ``size`` (pixels a side) and ``pixel_scale`` (arcsec).
    engine : dict
        What the engine resolved on a worker: precision, batch, threads and the like.
    parts : dict
        What the fingerprint is made of.
    fingerprint : str
        SHA-256 over `parts` and the version of the method.
    earlier : tuple of str
        Fingerprints of the run before images came later and some rows were done again.
    plan : PlanFacts
    draft : bool
        Made by ``--plan-only`` and not yet begun: may be planned anew with other settings.
    """

    version: str
    settings: Settings
    survey: Survey
    catalog_dir: str
    model: dict[str, Any]
    engine: dict[str, Any]
    parts: dict[str, Any]
    fingerprint: str
    plan: PlanFacts
    earlier: tuple[str, ...] = field(default=())
    draft: bool = False

    @property
    def size(self) -> int:
        """Pixels a side of a cutout."""
        return int(self.model["size"])

    @property
    def fingerprints(self) -> frozenset[str]:
        """All fingerprints that a published file of this run may have."""
        return frozenset((self.fingerprint, *self.earlier))

    def catalog_path(self, run: RunDir) -> Path:
        """Folder of the sorted rows."""
        return run.root / self.catalog_dir  # an absolute path stands for itself


def write_spec(run: RunDir, spec: RunSpec, staging: Path) -> None:
    """Write run.toml in one step."""
    table = {
        "version": spec.version,
        "fingerprint": spec.fingerprint,
        "earlier": list(spec.earlier),
        "draft": spec.draft,
        "catalog_dir": spec.catalog_dir,
        "plan": asdict(spec.plan),
        "parts": spec.parts,
        "settings": spec.settings.as_table(),
        "engine": spec.engine,
        "model": spec.model,
        "survey": spec.survey.as_table(),
    }
    text = f"# Written at planning; do not change it by hand.\n{tomli_w.dumps(table)}"
    commit.replace(run.run_toml, lambda path: _write(path, text), staging)


def _write(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def read_spec(run: RunDir) -> RunSpec:
    """Read run.toml.

    Raises
    ------
    InputError
        Where there is none, or it was changed by hand and is no good now.
    """
    try:
        table: Mapping[str, Any] = tomllib.loads(run.run_toml.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(
            f"{run.root} holds no planned run: begin with `survey-gampen run CATALOG --out ...`"
        ) from None
    except PermissionError as error:
        raise InputError(f"{run.run_toml}: {error.strerror}") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{run.run_toml} is damaged ({error}): give another --out") from None
    try:
        return RunSpec(
            version=table["version"],
            settings=from_table(table["settings"], str(run.run_toml)),
            survey=parse_survey(table["survey"], str(run.run_toml)),
            catalog_dir=table["catalog_dir"],
            model=dict(table["model"]),
            engine=dict(table["engine"]),
            parts=dict(table["parts"]),
            fingerprint=table["fingerprint"],
            earlier=tuple(table["earlier"]),
            plan=PlanFacts(**table["plan"]),
            draft=table["draft"],
        )
    except (KeyError, TypeError) as error:
        raise InputError(f"{run.run_toml} is damaged ({error}): give another --out") from None
