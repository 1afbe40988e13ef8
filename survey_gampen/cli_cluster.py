"""The verb `cluster`: profiles, their job scripts, and whether they work."""

from __future__ import annotations

import argparse

Verbs = argparse._SubParsersAction


def add_verbs(verbs: Verbs) -> None:
    """Add it to the parser of all verbs."""
    cluster = verbs.add_parser("cluster", help="cluster profiles: list, show, check")
    what = cluster.add_subparsers(metavar="WHAT", required=True)
    what.add_parser("list", help="all that have a name").set_defaults(call=_list)
    show = what.add_parser("show", help="what a profile asks for, with its job script")
    check = what.add_parser("check", help="start one worker, say what it is, take it down")
    for verb in (show, check):
        verb.add_argument("profile", metavar="NAME|FILE[:KEY=VALUE,...]")
    check.add_argument(
        "--patience",
        type=_seconds,
        default=600.0,
        metavar="S",
        help="seconds to wait for the worker (default 600)",
    )
    show.set_defaults(call=_show)
    check.set_defaults(call=_check)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds above 0")
    return seconds


def _list(args: argparse.Namespace) -> int:
    from survey_gampen.cluster.verbs import list_profiles

    return list_profiles()


def _show(args: argparse.Namespace) -> int:
    from survey_gampen.cluster.verbs import show

    return show(args.profile)


def _check(args: argparse.Namespace) -> int:
    from survey_gampen.cluster.verbs import check

    return check(args.profile, args.patience)
