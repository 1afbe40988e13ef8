"""Options that several verbs take: what is measured, on which images, by which model."""

from __future__ import annotations

import argparse

from survey_gampen.config import PRECISIONS


def add_input_options(verb: argparse.ArgumentParser) -> None:
    """Add the catalogue, its images, and what decides the cost of a galaxy."""
    add = verb.add_argument
    add(
        "catalog",
        metavar="CATALOG",
        help="Parquet file or folder, HATS catalogue, FITS, VOTable, ECSV or CSV",
    )
    add(
        "--images",
        metavar="PATH|URL",
        help="folder, glob or address of images; tree, das, soda",
    )
    add("--survey", metavar="NAME|FILE", help="survey profile (default hsc-wide)")
    add(
        "--band",
        metavar="B",
        help="band to measure (default: the survey profile's; a model of several bands says them)",
    )
    add(
        "--model",
        metavar="NAME|FILE",
        help="shipped model or safetensors file (default: the survey profile's for the band)",
    )
    add(
        "--select",
        metavar="EXPR",
        help='only rows for which EXPR is true, such as "@no_edge and mag_g < 21"; @name is a cut '
        "of the survey profile (survey-gampen catalogs show NAME)",
    )
    add("--limit", type=int, metavar="N", help="only the first N rows")
    add("--passes", type=int, metavar="N", help="Monte-Carlo passes a galaxy (default 1000)")
    add("--precision", choices=PRECISIONS, help="arithmetic (default auto)")
