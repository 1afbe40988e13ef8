"""Coadds of a Butler repository: the Butler tells which files they are, and they are tiles then.

Needs the package ``lsst-daf-butler``, which comes with the LSST Science Pipelines and is never
installed by this one. Only three calls are made: ``Butler.from_config``, ``Butler.query_datasets``
and ``Butler.getURI`` (https://pipelines.lsst.io, module lsst.daf.butler). They were tested against
a stand-in for that package and not yet against a real repository.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

from survey_gampen import commit
from survey_gampen.errors import InputError

_WORDS = ("collection", "dataset")


def is_butler(spec: object) -> bool:
    """Whether ``--images`` means a repository: ``butler:REPO?collection=NAME``."""
    return isinstance(spec, str) and spec.startswith("butler:")


def coadd_files(spec: str, band: str | None, cache: Path | None, frozen: bool) -> list[str]:
    """The files of all coadds of a band.

    Parameters
    ----------
    spec : str
        ``butler:REPO?collection=NAME``, with ``&dataset=NAME`` for another dataset type than
        ``deep_coadd``. REPO is a folder, or a label that the site knows.
    band : str or None
    cache : Path or None
        Where the list is kept, for workers.
    frozen : bool
        Take the list as it was made at planning: workers need no Butler.

    Raises
    ------
    InputError
        The package is missing, there is nothing, or files lie elsewhere.
    """
    name = hashlib.sha256(f"{spec}\0{band}".encode()).hexdigest()[:16]
    kept = cache / f"butler-{name}.json" if cache else None
    if frozen and kept is not None and kept.exists():
        known: list[str] = json.loads(kept.read_text())
        return known
    repo, _, query = spec.removeprefix("butler:").partition("?")
    words = dict(parse_qsl(query))
    for word in words:
        if word not in _WORDS:
            raise InputError(f"{spec}: unknown word {word!r} after the ?, use collection, dataset")
    if not repo or not words.get("collection") or not band:
        raise InputError("say which coadds: --images butler:REPO?collection=NAME --band B")
    dataset = words.get("dataset", "deep_coadd")
    files = _query(repo, words["collection"], dataset, band)
    if not files:
        raise InputError(f"{spec}: no {dataset} in band {band}")
    if kept is not None:
        text = json.dumps(files)
        commit.replace(kept, lambda path: _write(path, text), kept.parent)
    return files


def _query(repo: str, collection: str, dataset: str, band: str) -> list[str]:
    butler = _butler().from_config(repo, collections=collection)
    found = butler.query_datasets(
        dataset, where="band.name = :band", bind={"band": band}, limit=None, explain=False
    )
    files = set()
    for ref in found:
        address = butler.getURI(ref)
        if address.scheme not in ("", "file"):
            raise InputError(
                f"the coadds of {repo} lie at {address.scheme}:// and not in files here: give"
                " --images soda, or the address of their tree"
            )
        files.add(str(address.ospath))
    return sorted(files)


def _butler() -> Any:
    try:
        from lsst.daf.butler import Butler
    except ImportError:
        raise InputError(
            "images from a Butler repository need lsst-daf-butler, which comes with the LSST"
            " Science Pipelines: set them up first, or give --images soda"
        ) from None
    return Butler


def _write(path: Path, text: str) -> None:
    path.write_text(text)
