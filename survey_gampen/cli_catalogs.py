"""The verb `catalogs`: survey profiles, what each of them knows."""

from __future__ import annotations

import argparse

Verbs = argparse._SubParsersAction


def add_verbs(verbs: Verbs) -> None:
    """Add it to the parser of all verbs."""
    catalogs = verbs.add_parser("catalogs", help="survey profiles: list, show")
    what = catalogs.add_subparsers(metavar="WHAT", required=True)
    what.add_parser("list", help="all that have a name").set_defaults(call=_list)
    show = what.add_parser("show", help="a profile as it is written, with the source of each fact")
    show.add_argument("profile", metavar="NAME|FILE")
    show.add_argument("--path", action="store_true", help="only where it lies, to copy it")
    show.set_defaults(call=_show)


def _list(args: argparse.Namespace) -> int:
    from survey_gampen.surveys import list_surveys

    return list_surveys()


def _show(args: argparse.Namespace) -> int:
    from survey_gampen.surveys import show

    return show(args.profile, args.path)
