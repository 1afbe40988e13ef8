"""The run's folder: made where it is missing, and left as it was where planning fails."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from survey_gampen import storage
from survey_gampen.errors import InputError
from survey_gampen.outside import outside_faults
from survey_gampen.run.claim import Claim
from survey_gampen.run.layout import RunDir


@contextlib.contextmanager
def folder(root: Path) -> Iterator[RunDir]:
    """The run's folder, made where it is missing.

    Raises
    ------
    InputError
        Where it can't be made or written to, or holds other things than a run.
    """
    made: list[Path] = []
    try:
        try:
            with outside_faults(root):
                if storage.is_remote(root):
                    _look(root)
                else:
                    _make(root, made)
        except OSError as error:
            why = error.strerror or error
            raise InputError(f"{root} can't be used ({why}): give another --out") from None
        yield RunDir(root)
    finally:
        for path in reversed(made):  # only while nothing is in them
            with contextlib.suppress(OSError):
                path.rmdir()


def _make(root: Path, made: list[Path]) -> None:
    """Make a folder and its parents, take note of each, and look whether a run may be in it."""
    for path in (*reversed(root.parents), root):
        if not path.is_dir():
            if path.exists():
                raise InputError(f"{path} is a file: give a folder with --out")
            with contextlib.suppress(FileExistsError):  # another client made it meanwhile
                path.mkdir()
                made.append(path)
    if not os.access(root, os.W_OK | os.X_OK):
        raise InputError(f"{root} may not be written to: give another --out")
    _refuse_other_things(RunDir(root))


def _look(root: Path) -> None:
    """Look whether a run may be in a place of an object store."""
    _refuse_other_things(RunDir(root))
    storage.check_store(root)


def _refuse_other_things(run: RunDir) -> None:
    # Jobs that are to work here may have left their mark before the client.
    others = set(storage.names_in(run.root)) - {run.cluster.name, run.cache.name}
    if storage.is_remote(run.root):  # a client killed while it looked leaves its probe
        others = {name for name in others if not name.startswith(storage.PROBE)}
    if others and run.claims.name not in others:
        raise InputError(f"{run.root} holds other things than a run: give an empty or new --out")


@contextlib.contextmanager
def all_or_nothing(run: RunDir, claim: Claim) -> Iterator[None]:
    """Undo a planning that did not come to its end, unless another client plans here now.

    Raises
    ------
    ClaimLostError
        In the place of whatever went wrong because another client took the folder over.
    """
    if not run.run_toml.exists():
        clear_plan(run)
    try:
        yield
    except Exception:
        claim.check()
        raise
    finally:
        if claim.is_held() and not run.run_toml.exists():
            clear_plan(run)
            begun = [run.cache, run.staging_root, run.claims]
            if not run.driver_script.exists():
                begun.append(run.job_logs)
            for path in begun:
                storage.remove_tree(path)
            with contextlib.suppress(OSError):  # what others still need there stays
                run.cluster.rmdir()


def clear_plan(run: RunDir) -> None:
    """Remove a plan, run.toml first: from then on nothing else counts."""
    run.run_toml.unlink(missing_ok=True)
    run.plan.unlink(missing_ok=True)
    storage.remove_tree(run.catalog)
