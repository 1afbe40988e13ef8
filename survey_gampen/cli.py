"""The command line: verbs, nothing else. More stand in the other `cli_*`.

Each verb imports what it needs when it is called, so that ``--help`` and a mistyped option answer
at once.

Exit codes: 0 all done; 2 usage or input; 3 some partitions quarantined; 75 a cause outside the
data, or interrupted: the same command goes on.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from survey_gampen import __version__, cli_around, cli_catalogs, cli_cluster, cli_science
from survey_gampen.cli_options import add_input_options
from survey_gampen.cli_science import Verbs
from survey_gampen.errors import GampenError, InputError, Interrupted
from survey_gampen.outside import outside_fault
from survey_gampen.signals import terminate_as_interrupt

if TYPE_CHECKING:
    from survey_gampen.config import Settings


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb, as what this process is for: once told to end by SIGTERM it ignores a second.

    Parameters
    ----------
    argv : sequence of str, optional
        Arguments without the program's name; those of the process by default.

    Returns
    -------
    int
        The exit code.
    """
    words = sys.argv[1:] if argv is None else list(argv)
    args = parser().parse_args(words)
    args.words = words[1:]
    try:
        with terminate_as_interrupt():
            return int(args.call(args))
    except Exception as error:
        fault = _fault(error)
        if fault is None:
            raise
        return _tell(fault)
    except KeyboardInterrupt:
        print("survey-gampen: interrupted: the same command goes on", file=sys.stderr)
        return Interrupted.exit_code


class _Parser(argparse.ArgumentParser):
    """Tells a slip in one line; those of verbs are of this class too."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"survey-gampen: error: {' '.join(message.split())}; see {self.prog} --help\n")


def _fault(error: Exception) -> GampenError | None:
    """What to tell of an error; None where it is a slip of this program."""
    from survey_gampen.opening import refusal

    if refused := refusal(error):  # whatever it was taken for further down
        return refused
    if isinstance(error, GampenError):
        return error
    if fault := outside_fault(error):
        return fault
    if isinstance(error, OSError):  # a folder that may not be entered, a file instead of a folder
        reason = error.strerror or str(error)
        told = f"{error.filename}: {reason}" if error.filename else reason
        return InputError(f"{told}; give another path")
    return None


def _tell(error: GampenError) -> int:
    print(f"survey-gampen: error: {' '.join(str(error).split())}", file=sys.stderr)
    return error.exit_code


def parser() -> argparse.ArgumentParser:
    """The parser of all verbs."""
    top = _Parser(
        prog="survey-gampen",
        description="Bayesian posteriors of bulge-to-total ratio, half-light radius and flux "
        "for every galaxy of a catalogue.",
    )
    top.add_argument("--version", action="version", version=f"survey-gampen {__version__}")
    verbs = top.add_subparsers(metavar="VERB", required=True)
    _add_run(verbs)
    _add_submit(verbs)
    _add_resume(verbs)
    _add_status(verbs)
    _add_compact(verbs)
    _add_report(verbs)
    cli_around.add_verbs(verbs)
    cli_catalogs.add_verbs(verbs)
    cli_cluster.add_verbs(verbs)
    cli_science.add_verbs(verbs)
    _add_demo(verbs)
    return top


def _add_run(verbs: Verbs) -> None:
    run = verbs.add_parser(
        "run",
        help="measure every galaxy of a catalogue; again on the same OUT: goes on",
        epilog="Options may also stand in survey-gampen.toml beside the catalogue, in --config, or "
        "in the catalogue's Parquet metadata under the key survey_gampen; the command line wins.",
    )
    _add_run_options(run)
    run.set_defaults(call=_run)


def _add_submit(verbs: Verbs) -> None:
    submit = verbs.add_parser(
        "submit",
        help="as run, in a batch job of its own that goes on in the next one until all is done",
        epilog="--cluster names a batch system's profile; its key `driver` sizes this job.",
    )
    _add_run_options(submit)
    submit.set_defaults(call=_submit)


def _add_run_options(run: argparse.ArgumentParser) -> None:
    add = run.add_argument
    add_input_options(run)
    add("--cluster", metavar="NAME|FILE", help="cluster profile (default local)")
    add("--out", metavar="DIR", help="results, also s3://... (default: CATALOG.gampen, beside it)")
    add("--seed", type=int, metavar="N", help="key of all random numbers (default 0)")
    add("--partition-rows", type=int, metavar="N", help="most rows a partition (default: measured)")
    add("--columns", type=_comma_list, metavar="A,B", help="extra columns to pass through")
    add(
        "--keep-samples",
        action=argparse.BooleanOptionalAction,
        help="write the joint draws as well (default: no)",
    )
    cutouts = run.add_mutually_exclusive_group()
    cutouts.add_argument(
        "--keep-cutouts",
        dest="keep_cutouts",
        action="store_true",
        default=None,
        help="keep cutouts after publication (default: unless they are very large)",
    )
    cutouts.add_argument(
        "--drop-cutouts",
        dest="keep_cutouts",
        action="store_false",
        default=None,
        help="remove cutouts once their posteriors are published",
    )
    add(
        "--lossy",
        type=float,
        metavar="Q",
        help="store cutouts quantised to Q times the sky noise (default 0: without loss)",
    )
    add("--plan-only", action="store_true", help="print the plan and its cost, and stop")
    add("--config", type=Path, metavar="FILE", help="TOML file with any of these options")


def _settings(args: argparse.Namespace) -> Settings:
    from survey_gampen.config import resolve

    others = ("call", "config", "words")
    given = {key: value for key, value in vars(args).items() if key not in others}
    return resolve(given, args.config)


def _submit(args: argparse.Namespace) -> int:
    settings = _settings(args)
    from survey_gampen.run.runner import submit

    job = submit(settings, args.words)
    print(f"job {job} runs it; see how far it is: survey-gampen status {settings.out}")
    return 0


def _run(args: argparse.Namespace) -> int:
    settings = _settings(args)
    # Only now, for it loads Dask: a slip in the settings is told at once.
    from survey_gampen.run.runner import run

    return run(settings)


def _add_resume(verbs: Verbs) -> None:
    resume = verbs.add_parser(
        "resume", help="go on with a run; quarantined partitions are tried again"
    )
    add = resume.add_argument
    _add_out(resume)
    add("--cluster", metavar="NAME|FILE", help="cluster profile (default: the run's own)")
    add("--redo", metavar="FLAG", help="do partitions again whose rows carry this status flag")
    resume.set_defaults(call=_resume)


def _resume(args: argparse.Namespace) -> int:
    from survey_gampen.run.runner import resume

    return resume(args.out, args.cluster, args.redo)


def _add_status(verbs: Verbs) -> None:
    status = verbs.add_parser("status", help="what is done, what is left, what failed and why")
    _add_out(status)
    status.add_argument("--json", action="store_true", help="for programs")
    status.set_defaults(call=_status)


def _status(args: argparse.Namespace) -> int:
    from survey_gampen.run.status import print_status

    return print_status(args.out, args.json)


def _add_compact(verbs: Verbs) -> None:
    compact = verbs.add_parser("compact", help="merge many small result files into few large ones")
    _add_out(compact)
    compact.set_defaults(call=_compact)


def _compact(args: argparse.Namespace) -> int:
    from survey_gampen.run.runner import compact

    return compact(args.out)


def _add_report(verbs: Verbs) -> None:
    report = verbs.add_parser("report", help="one HTML page with pictures about a run")
    _add_out(report)
    report.add_argument(
        "--out",
        dest="file",
        type=Path,
        metavar="FILE",
        help="where the page goes (default OUT/report.html)",
    )
    report.set_defaults(call=_report)


def _report(args: argparse.Namespace) -> int:
    from survey_gampen.report.verb import main

    return main(args.out, args.file)


def _add_demo(verbs: Verbs) -> None:
    demo = verbs.add_parser("demo", help="the real thing on a small simulated sky")
    demo.add_argument(
        "--out", type=Path, default=Path("demo"), metavar="DIR", help="results (default demo/)"
    )
    demo.set_defaults(call=_demo)


def _demo(args: argparse.Namespace) -> int:
    from survey_gampen.report.demo import main

    return main(args.out)


def _add_out(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("out", metavar="OUT", help="folder of the run")


def _comma_list(text: str) -> list[str]:
    return [name.strip() for name in text.split(",")]


if __name__ == "__main__":
    sys.exit(main())
