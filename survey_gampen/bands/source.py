"""The runs that are to be joined: opened, and found to fit together."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from survey_gampen import __version__, parquet
from survey_gampen.bands.columns import Measured
from survey_gampen.catalog.hats_out import leaf_path, published
from survey_gampen.errors import InputError
from survey_gampen.images.status import Status
from survey_gampen.outside import outside_fault
from survey_gampen.run.layout import RunDir
from survey_gampen.run.leaf import PREFIX
from survey_gampen.run.spec import RunSpec, read_spec
from survey_gampen.storage import at, is_remote


@dataclass
class Source:
    """One run.

    Attributes
    ----------
    out : Path
        Its folder.
    spec : RunSpec
    columns : Measured
    files : list of Path
        What is published, in order of position on the sky.
    rows : int
        Of all files.
    """

    out: Path
    spec: RunSpec
    columns: Measured
    files: list[Path]
    rows: int


def open_source(word: str) -> Source:
    """Open the run that a word of the command line names, ``OUT`` or ``NAME=OUT``.

    Raises
    ------
    InputError
        Where there is none, nothing of it is published, or its columns can't be named.
    """
    named = None if Path(word).exists() else re.fullmatch(r"(\w+)=(.+)", word)
    name, path = named.groups() if named else ("", word)
    run = RunDir(at(path))
    spec = read_spec(run)
    name = name or spec.settings.band
    if not re.fullmatch(r"\w+", name):
        raise InputError(
            f"columns can't end in {name!r}: name the run, with letters and digits, as in"
            f" NAME={run.root}"
        )
    files = [leaf_path(run.posteriors, *pixel) for pixel in published(run.posteriors)]
    if not files:
        raise InputError(f"nothing is published in {run.root} yet: run it first")
    rows, widest = 0, pa.schema([])
    for file in files:
        try:
            with parquet.open_file(file) as leaf:
                rows += leaf.metadata.num_rows
                schema = leaf.schema_arrow
        except (OSError, pa.ArrowException) as error:
            fault = outside_fault(error, file)
            raise fault or InputError(
                f"{file} cannot be read ({' '.join(str(error).split())}): remove it and resume its"
                " run"
            ) from error
        # A run that a newer version went on with may have leaves with a column more.
        widest = max(widest, schema.remove_metadata(), key=len)
    columns = Measured(name, spec.settings.band, widest)
    return Source(run.root, spec, columns, files, rows)


def check(sources: Sequence[Source]) -> None:
    """Refuse runs that are not two or more different ones, or are called alike."""
    if len(sources) < 2:
        raise InputError("one run alone is joined with nothing: give two or more")
    seen: dict[str, Source] = {}
    for source in sources:
        name = source.columns.name.lower()
        if name in seen:
            raise InputError(
                f"{seen[name].out} and {source.out} are both called {source.columns.name}: name"
                f" one, as in `join {source.columns.name}2={source.out} ...`"
            )
        if any(_place(source) == _place(other) for other in seen.values()):
            raise InputError(f"{source.out} is given twice: give each run once")
        seen[name] = source


def _place(source: Source) -> str:
    return str(source.out if is_remote(source.out) else source.out.resolve())


def unfinished(sources: Sequence[Source]) -> Iterator[str]:
    """Warnings of runs that have not published all rows."""
    for source in sources:
        if source.rows < source.spec.plan.rows:
            yield (
                f"{source.out}: {source.rows} of {source.spec.plan.rows} rows are published so far;"
                f" columns that end in _{source.columns.name} are null for the others"
            )


def footer(sources: Sequence[Source]) -> dict[str, str]:
    """What each file says about itself."""
    said = {
        "version": __version__,
        "joined": ", ".join(source.columns.name for source in sources),
        "status_flags": ", ".join(f"{bit.name}={int(bit)}" for bit in Status),
    }
    for source in sources:
        spec = source.spec
        facts = {
            "band": spec.settings.band,
            "fingerprint": spec.fingerprint,
            "earlier_fingerprints": ", ".join(spec.earlier),
            "model": str(spec.model["sha256"]),
            "version": spec.version,
            "seed": str(spec.settings.seed),
            "passes": str(spec.settings.passes),
            "precision": str(spec.engine["precision"]),
        }
        said |= {f"{source.columns.name}.{key}": text for key, text in facts.items() if text}
    return {f"{PREFIX}{key}": text for key, text in said.items()}
