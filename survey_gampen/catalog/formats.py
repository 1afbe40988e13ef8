"""Kinds of tables that are no Parquet, by the ends of their names."""

from __future__ import annotations

from pathlib import Path

_SUFFIXES = {
    ".fits": "fits", ".fit": "fits", ".fits.gz": "fits", ".fit.gz": "fits", ".fz": "fits",
    ".vot": "votable", ".votable": "votable", ".xml": "votable", ".vot.gz": "votable",
    ".ecsv": "ecsv", ".csv": "csv", ".csv.gz": "csv",
}  # fmt: skip


def table_format(path: str | Path) -> str | None:
    """The kind of a file by its name, None when it is none of these."""
    name = str(path).lower()
    return next((kind for suffix, kind in _SUFFIXES.items() if name.endswith(suffix)), None)
