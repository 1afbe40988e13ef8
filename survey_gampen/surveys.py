"""`survey-gampen catalogs list | show`: what survey profiles there are, and what they say."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from survey_gampen import paths
from survey_gampen.errors import InputError
from survey_gampen.survey import Survey, find, known, load_survey


def list_surveys() -> int:
    """Print all profiles that have a name; return 0."""
    own = paths.own_dir("catalogs")
    table = Table(
        "name", "bands", "arcsec/px", "zero point", "what it is", box=None, pad_edge=False
    )
    table.add_column("where", overflow="fold")  # a path of which the end is missing is none
    for name, path in known().items():
        what = _first_words(path.read_text(encoding="utf-8", errors="replace"))
        where = f"yours: {path}" if path.parent == own else "shipped"
        try:
            facts = _facts(load_survey(path))
        except InputError as error:
            facts, what = ("?", "?", "?"), f"can't be used: {error}"
        table.add_row(name, *facts, what, where)
    console = Console(highlight=False, markup=False)
    console = console if console.is_terminal else Console(width=200)
    console.print(table)
    print(f"your own go to {own}")
    return 0


def _facts(survey: Survey) -> tuple[str, str, str]:
    """Bands, pixel scale and zero point in a few words."""
    scale = "of each file" if survey.pixel_scale is None else f"{survey.pixel_scale:g}"
    zero_point = "of each file" if survey.zero_point is None else f"{survey.zero_point:g}"
    return " ".join(survey.bands) or "any", scale, zero_point


def _first_words(text: str) -> str:
    """The first sentence of a profile's comment."""
    lines = []
    for line in text.splitlines():
        if not line.startswith("#"):
            break
        lines.append(line.lstrip("# "))
    return " ".join(lines).partition(". ")[0].rstrip(".")


def show(name_or_path: str, path_only: bool = False) -> int:
    """Print a profile as it is written, comments and all, or where it lies; return 0.

    Raises
    ------
    InputError
        When there is no such profile, or it can't be used.
    """
    path = find(name_or_path)
    load_survey(path)  # what can't be used should not be shown as if it could
    if path_only:
        print(path)
        return 0
    print(f"# {path}")
    print(path.read_text(encoding="utf-8"), end="")
    return 0
