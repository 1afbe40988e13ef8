"""The verbs around a run: inspect before it, join after several."""

from __future__ import annotations

import argparse
from pathlib import Path

from survey_gampen.cli_options import add_input_options

Verbs = argparse._SubParsersAction


def add_verbs(verbs: Verbs) -> None:
    """Add them to the parser of all verbs."""
    _add_inspect(verbs)
    _add_join(verbs)


def _add_inspect(verbs: Verbs) -> None:
    inspect = verbs.add_parser(
        "inspect",
        help="before a run: rows, area, images, cost, and cutouts as the network sees them",
        epilog="Takes the options of `run` from the same places: command line, --config, "
        "survey-gampen.toml beside the catalogue, the catalogue's Parquet metadata.",
    )
    add = inspect.add_argument
    add_input_options(inspect)
    add("--seed", type=int, metavar="N", help="which galaxies are shown (default 0)")
    add("--config", type=Path, metavar="FILE", help="TOML file with any options of `run`")
    add(
        "--out",
        dest="folder",
        metavar="DIR",
        help="pictures and numbers (default CATALOG's name with .inspect, beside it)",
    )
    inspect.set_defaults(call=_inspect)


def _inspect(args: argparse.Namespace) -> int:
    from survey_gampen.config import resolve

    others = ("call", "config", "words", "folder")
    given = {key: value for key, value in vars(args).items() if key not in others}
    settings = resolve(given, args.config)
    # Only now, for it loads torch: a slip in the settings is told at once.
    from survey_gampen.report.inspect import main

    return main(settings, args.folder)


def _add_join(verbs: Verbs) -> None:
    join = verbs.add_parser(
        "join",
        help="runs of several bands as one catalogue, columns by band",
        epilog="A column bt_p50 of band g becomes bt_p50_g. NAME=OUT gives another ending than the "
        "run's band, for two runs of one band.",
    )
    add = join.add_argument
    add("outs", nargs="+", metavar="[NAME=]OUT", help="folders of two or more runs")
    add("--out", required=True, metavar="DIR", help="the new HATS catalogue")
    join.set_defaults(call=_join)


def _join(args: argparse.Namespace) -> int:
    from survey_gampen.bands.join import main

    return main(args.outs, args.out)
