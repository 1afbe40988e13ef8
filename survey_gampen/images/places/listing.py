"""Which files there are: names, sizes and times, and one hash over them all."""

from __future__ import annotations

import glob
import hashlib
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import islice, takewhile
from pathlib import Path

from survey_gampen.errors import InputError
from survey_gampen.outside import outside_fault

SUFFIXES = (".fits", ".fit", ".fts", ".fits.fz", ".fits.gz", ".fit.gz", ".fits.bz2")
#: Products of the LSST pipelines that stand beside coadds, have a WCS and are no coadds.
_NOT_COADDS = ("warp-", "psfmatchedwarp", "directwarp", "psf-", "skymap", "brightobj")


@dataclass(frozen=True)
class FileFacts:
    """Name, size and time of a file.

    One that lies elsewhere has a tag that changes with its bytes instead of a time, and the size
    -1 where nobody tells it.
    """

    path: str
    size: int
    mtime: int
    tag: str = ""


def find_files(spec: str | os.PathLike[str] | Sequence[str]) -> tuple[Path, list[FileFacts]]:
    """All FITS files that a folder, a file, a glob pattern or a list of these names.

    Folders are searched with all that is below them.

    Returns
    -------
    root : Path
        Common folder, absolute.
    files : list of FileFacts
        Sorted by name, relative to `root`.

    Raises
    ------
    InputError
        Nothing there, or an address on the net.
    OutsideFault
        The file system fails.
    """
    specs = [spec] if isinstance(spec, str | os.PathLike) else list(spec)
    found: set[Path] = set()
    roots: list[Path] = []
    for item in [os.fspath(one) for one in specs]:
        if "://" in item:
            raise InputError(f"{item}: an address stands alone, not in a list with other places")
        base, files = _expand(item)
        roots.append(base)
        found |= files
    if not found:
        raise InputError(f"{specs[0]}: no FITS files ({', '.join(SUFFIXES)}) there")
    root = Path(os.path.commonpath(roots))
    facts = []
    for path in sorted(found):
        stat = path.stat()
        name = path.relative_to(root).as_posix()
        facts.append(FileFacts(name, stat.st_size, int(stat.st_mtime)))
    return root, facts


def _expand(item: str) -> tuple[Path, set[Path]]:
    path = Path(item).expanduser().absolute()
    if path.is_file():
        return path.parent, {path}
    if path.is_dir():
        return path, set(_below(path))
    if not glob.has_magic(item):
        raise InputError(f"{item}: no such file or folder of images")
    matches = [Path(m).absolute() for m in glob.glob(str(Path(item).expanduser()), recursive=True)]
    files = {m for m in matches if m.is_file()}
    for folder in (m for m in matches if m.is_dir()):
        files |= set(_below(folder))
    fixed = takewhile(lambda part: not glob.has_magic(part), path.parts)
    return Path(*fixed), files


def _below(folder: Path) -> Iterable[Path]:
    for parent, folders, names in os.walk(folder, onerror=_raise):
        folders.sort()
        for name in names:
            path = Path(parent, name)
            if is_image_name(name) and path.exists():
                yield path  # and not a link that leads nowhere


def is_image_name(path: str) -> bool:
    """Whether a file's name is that of a FITS file that may be an image of the sky."""
    low = path.rpartition("/")[2].lower()
    return low.endswith(SUFFIXES) and not low.startswith((".", *_NOT_COADDS))


def holds_many(folder: Path, number: int) -> bool:
    """Whether more than so many images lie below a folder; looks no further than that.

    Raises
    ------
    InputError, OutsideFault
        It cannot be listed.
    """
    return len(list(islice(_below(folder), number + 1))) > number


def _raise(error: OSError) -> None:
    fault = outside_fault(error)
    if fault is not None:
        raise fault from error
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error


def inventory(files: Iterable[FileFacts]) -> str:
    """SHA-256 over names, sizes and times, or tags where there are any."""
    digest = hashlib.sha256()
    for file in files:
        version = f"\0{file.tag}" if file.tag else ""
        digest.update(f"{file.path}\0{file.size}\0{file.mtime}{version}\n".encode())
    return digest.hexdigest()
