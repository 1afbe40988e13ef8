"""The index of images: which files there are, what is in them, where they lie on the sky.

Headers are read once; the index is kept as a Parquet file in a cache folder, and a file whose
name, size and time are those of the index is not opened again.
"""

from __future__ import annotations

import bz2
import glob
import gzip
import hashlib
import os
import zlib
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from survey_gampen import commit
from survey_gampen.errors import GampenError, InputError, OutsideFault
from survey_gampen.images.grid import Grid, celestial_text, quiet
from survey_gampen.images.planes import find_groups, psf_fwhm, unit_of

SUFFIXES = (".fits", ".fit", ".fts", ".fits.fz", ".fits.gz", ".fit.gz", ".fits.bz2")
#: Products of the LSST pipelines that stand beside coadds, have a WCS and are no coadds.
_NOT_COADDS = ("warp-", "psfmatchedwarp", "directwarp", "psf-", "skymap", "brightobj")
#: Raised when rows of the index change their meaning: older caches are read again.
_INDEX_VERSION = "1"
#: Bytes of a FITS record (FITS standard 4.0, section 3.1).
_BLOCK = 2880

#: What a file is: a usable image of the sky; not readable; something else (a table, a PSF, a cube).
SKY, UNREADABLE, OTHER = "sky", "unreadable", "other"

SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # relative to the root
        ("size", pa.int64()),
        ("mtime", pa.int64()),  # whole seconds: file systems differ in the rest
        ("kind", pa.string()),
        ("why", pa.string()),  # of UNREADABLE and OTHER; of SKY: what is broken below its headers
        ("band", pa.string()),
        ("image", pa.int32()),  # HDU numbers
        ("mask", pa.int32()),
        ("variance", pa.int32()),
        ("invvar", pa.int32()),
        ("nx", pa.int32()),
        ("ny", pa.int32()),
        ("ra", pa.float64()),  # circle around the image, degrees
        ("dec", pa.float64()),
        ("radius", pa.float64()),
        ("scale_x", pa.float64()),  # arcsec a pixel
        ("scale_y", pa.float64()),
        ("zero_point", pa.float64()),  # null where no header tells it
        ("zero_point_from", pa.string()),
        ("psf_fwhm", pa.float64()),
        ("wcs", pa.string()),
    ]
)


@dataclass(frozen=True)
class FileFacts:
    """Name, size and time of a file."""

    path: str
    size: int
    mtime: int


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
            raise InputError(f"{item}: images must be files; download them and give the folder")
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
            low = name.lower()
            if low.endswith(SUFFIXES) and not low.startswith((".", *_NOT_COADDS)):
                yield Path(parent, name)


def _raise(error: OSError) -> None:
    fault = commit.outside_fault(error)
    if fault is not None:
        raise fault from error
    raise InputError(f"{error.filename}: cannot be listed ({error.strerror})") from error


def inventory(files: Iterable[FileFacts]) -> str:
    """SHA-256 over names, sizes and times."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(f"{file.path}\0{file.size}\0{file.mtime}\n".encode())
    return digest.hexdigest()


def build_index(root: Path, files: Sequence[FileFacts], cache_dir: Path | None) -> pa.Table:
    """One row an image (a file may hold several), from the cache where it knows the file.

    Raises
    ------
    OutsideFault
        The file system fails.
    """
    cache = None
    known: dict[FileFacts, list[dict[str, Any]]] = {}
    if cache_dir is not None:
        name = hashlib.sha256(str(root).encode()).hexdigest()[:16]
        cache = cache_dir / f"footprints-{name}.parquet"
        known = _read_cache(cache)
    new = [file for file in files if file not in known]
    # Headers of files on a network disk: most of the time is waiting, so threads help.
    with quiet(), ThreadPoolExecutor(max_workers=8) as pool:
        scanned = dict(zip(new, pool.map(lambda file: scan(root, file), new), strict=True))
    rows = [row for file in files for row in (scanned.get(file) or known[file])]
    table = pa.Table.from_pylist(rows, schema=SCHEMA)
    if cache is not None and (new or len(known) != len(files)):
        tagged = table.replace_schema_metadata({"index_version": _INDEX_VERSION})
        commit.replace(
            cache, lambda path: pq.write_table(tagged, path, compression="zstd"), cache.parent
        )
    return table


def _read_cache(cache: Path) -> dict[FileFacts, list[dict[str, Any]]]:
    known: dict[FileFacts, list[dict[str, Any]]] = {}
    try:
        table = pq.read_table(cache)
    except (OSError, pa.ArrowException):
        return known  # not there, or broken: a cache is only ever made again
    version = (table.schema.metadata or {}).get(b"index_version", b"").decode()
    if version != _INDEX_VERSION or table.schema.names != SCHEMA.names:
        return known
    for row in table.to_pylist():
        # An unreadable file may be readable the next time, by chmod for one.
        if row["kind"] != UNREADABLE:
            file = FileFacts(row["path"], row["size"], row["mtime"])
            known.setdefault(file, []).append(row)
    return known


def scan(root: Path, file: FileFacts) -> list[dict[str, Any]]:
    """Read the headers of one file; never raises for a broken one."""
    start = asdict(file)
    try:
        rows = _scan(root / file.path)
    except (GampenError, MemoryError):
        raise
    except Exception as error:
        fault = commit.outside_fault(error, root / file.path)
        if fault is not None:
            raise fault from error
        if not root.exists():
            raise OutsideFault(f"{root}: the images are gone; mount them again") from error
        words = " ".join(str(error).split())[:200] or type(error).__name__
        return [{**start, "kind": UNREADABLE, "why": words}]
    if not rows and (damage := _damage(root / file.path)):
        return [{**start, "kind": UNREADABLE, "why": damage}]
    if not rows:
        return [{**start, "kind": OTHER, "why": "no 2-D image with a celestial WCS"}]
    return [{**start, "kind": SKY, **row} for row in rows]


def _scan(path: Path) -> list[dict[str, Any]]:
    rows = []
    with fits.open(path, mode="readonly", memmap=True) as hdus:
        for group in find_groups(hdus, path.name):
            header = hdus[group.image].header
            text = celestial_text(header)
            if text is None:
                continue
            ny, nx = group.shape
            grid = Grid(text, nx, ny)
            ra, dec, radius = grid.circle()
            scale_x, scale_y = grid.pixel_scales()
            whole = group.mask is not None and group.variance is not None
            unit = unit_of(header, hdus[0].header, scale_x * scale_y)
            rows.append(
                {
                    "why": None if whole else _damage(path),
                    "band": group.band, "image": group.image, "mask": group.mask,
                    "variance": group.variance, "invvar": group.invvar, "nx": nx, "ny": ny,
                    "ra": ra, "dec": dec, "radius": radius, "scale_x": scale_x, "scale_y": scale_y,
                    "zero_point": unit[0] if unit else None,
                    "zero_point_from": unit[1] if unit else None,
                    "psf_fwhm": psf_fwhm(header, hdus[0].header), "wcs": text,
                }
            )  # fmt: skip
    return rows


def _damage(path: Path) -> str | None:
    """What is broken in a file whose first headers are fine, or None.

    A mask that was cut off with its header leaves a file that looks like one without a mask:
    astropy ends the list of HDUs where it can't go on. So a file with less than image, mask and
    variance is looked at more closely: compressed as a whole, it must unpack to the end;
    else no HDU may end behind the file nor begin behind the last one that was understood.
    """
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
    unpack = openers.get(path.suffix.lower())
    if unpack is not None:
        try:
            with unpack(path, "rb") as stream:
                while stream.read(1 << 22):
                    pass
        except (EOFError, OSError, zlib.error) as error:
            if commit.outside_fault(error, path) is not None:
                raise
            return f"does not unpack: {error}"
        return None
    with fits.open(path, mode="readonly", memmap=True) as hdus:
        last = hdus.fileinfo(len(hdus) - 1)
    end, size = last["datLoc"] + last["datSpan"], path.stat().st_size
    if end - size >= _BLOCK:  # less may be padding that its writer left out
        return "is cut off"
    with path.open("rb") as stream:
        stream.seek(min(end, size))
        return "is cut off in a header" if stream.read(8) == b"XTENSION" else None
