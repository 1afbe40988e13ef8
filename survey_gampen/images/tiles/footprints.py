"""The index of images: which files there are, what is in them, where they lie on the sky.

Headers are read once; the index is kept as a Parquet file in a cache folder, and a file whose
name, size and time are those of the index is not opened again.
"""

from __future__ import annotations

import bz2
import gzip
import hashlib
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from astropy.io import fits

from survey_gampen import commit, parquet, storage
from survey_gampen.ahead import ahead
from survey_gampen.errors import GampenError, OutsideFault, UnreadableFile
from survey_gampen.images.pixels.grid import Grid, celestial_text, quiet
from survey_gampen.images.pixels.planes import find_groups, psf_fwhm, unit_of
from survey_gampen.images.places.files import Files, LocalFiles
from survey_gampen.images.places.listing import FileFacts
from survey_gampen.outside import outside_fault

#: Raised when rows of the index change their meaning: older caches are read again.
_INDEX_VERSION = "3"
#: Bytes of a FITS record (FITS standard 4.0, section 3.1).
_BLOCK = 2880

#: What a file is: a usable image of the sky; not readable; something else (a table, a PSF, a cube).
SKY, UNREADABLE, OTHER = "sky", "unreadable", "other"

SCHEMA = pa.schema(
    [
        ("path", pa.string()),  # relative to the root
        ("size", pa.int64()),
        ("mtime", pa.int64()),  # whole seconds: file systems differ in the rest
        ("tag", pa.string()),  # of a file that lies elsewhere: changes with its bytes
        ("kind", pa.string()),
        ("why", pa.string()),  # of UNREADABLE and OTHER; of SKY: what is broken below its headers
        ("band", pa.string()),
        ("plane", pa.int32()),  # of a cube of several bands
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


def open_index(
    files: Files, key: str, cache_dir: Path | None, frozen: bool = False
) -> tuple[list[FileFacts], pa.Table]:
    """The index of some files, from the cache as far as that knows them.

    Parameters
    ----------
    files : Files
        Where they lie.
    key : str
        What names them: the index is kept under it.
    cache_dir : Path or None
        Where the index is kept. None: all headers are read.
    frozen : bool
        Take the index as it was last made and don't look at the files at all: what a worker does,
        so that all of them see the images that the run was planned with.

    Returns
    -------
    found : list of FileFacts
        All files.
    index : pyarrow.Table
        One row an image (a file may hold several), see ``SCHEMA``.

    Raises
    ------
    InputError
        Nothing there.
    OutsideFault
        The file system or the network fails.
    """
    cache = _cache_file(key, cache_dir) if cache_dir is not None else None
    cached = _read_cache(cache) if cache is not None else None
    if frozen and cached is not None:
        found = list(dict.fromkeys(_facts(cached)))
        files.settle(cached.schema.metadata[b"root"].decode(), found)
        return found, _plain(cached)
    found = files.find_all()
    if cached is not None and cached.schema.metadata[b"root"].decode() == files.address:
        fresh = UNREADABLE not in pc.unique(cached["kind"]).to_pylist()
        if fresh and list(dict.fromkeys(_facts(cached))) == found:
            return found, _plain(cached)
    else:
        cached = None
    index = _scan_new(files, found, cached)
    if cache is not None:
        tags = {"index_version": _INDEX_VERSION, "root": files.address}
        tagged = index.replace_schema_metadata(tags)
        staging = storage.scratch(cache) if storage.is_remote(cache) else cache.parent
        commit.replace(
            cache, lambda path: pq.write_table(tagged, path, compression="zstd"), staging
        )
    return found, index


def is_indexed(key: str, cache_dir: Path | None) -> bool:
    """Whether an index of these files was kept."""
    return cache_dir is not None and _cache_file(key, cache_dir).exists()


def _scan_new(files: Files, found: Sequence[FileFacts], cached: pa.Table | None) -> pa.Table:
    """Rows of all files; headers are read of those that the cache does not know."""
    known: dict[FileFacts, list[dict[str, Any]]] = {}
    for row in cached.to_pylist() if cached is not None else ():
        # An unreadable file may be readable the next time, by chmod for one.
        if row["kind"] != UNREADABLE:
            file = FileFacts(row["path"], row["size"], row["mtime"], row["tag"])
            known.setdefault(file, []).append(row)
    new = [file for file in found if file not in known]
    # Headers of files on a network disk: most of the time is waiting, so threads help.
    with quiet():
        scanned = dict(zip(new, ahead(lambda file: scan(files, file), new, threads=8), strict=True))
    rows = [row for file in found for row in (scanned.get(file) or known[file])]
    return pa.Table.from_pylist(rows, schema=SCHEMA)


def _cache_file(key: str, cache_dir: Path) -> Path:
    return cache_dir / f"footprints-{hashlib.sha256(key.encode()).hexdigest()[:16]}.parquet"


def _read_cache(cache: Path) -> pa.Table | None:
    try:
        table = parquet.read_table(cache)
    except (OSError, pa.ArrowException):
        return None  # not there, or broken: a cache is only ever made again
    version = (table.schema.metadata or {}).get(b"index_version", b"").decode()
    return table if version == _INDEX_VERSION and table.schema.names == SCHEMA.names else None


def _facts(index: pa.Table) -> Iterator[FileFacts]:
    columns = (index[name].to_pylist() for name in ("path", "size", "mtime", "tag"))
    return map(FileFacts, *columns)


def _plain(table: pa.Table) -> pa.Table:
    return table.replace_schema_metadata(None)


def scan(files: Files, file: FileFacts) -> list[dict[str, Any]]:
    """Read the headers of one file; never raises for a broken one."""
    start, where = asdict(file), files.where(file.path)
    try:
        rows = _scan(files, file.path)
    except UnreadableFile as error:  # downloaded whole, and no FITS file or shorter than it says
        return [{**start, "kind": UNREADABLE, "why": str(error).removeprefix(f"{where}: ")}]
    except (GampenError, MemoryError):
        raise
    except Exception as error:
        fault = outside_fault(error, where)
        if fault is not None:
            raise fault from error
        if isinstance(files, LocalFiles) and not files.root.exists():
            raise OutsideFault(f"{files.root}: the images are gone; mount them again") from error
        words = " ".join(str(error).split())[:200] or type(error).__name__
        return [{**start, "kind": UNREADABLE, "why": words}]
    if not rows and (damage := _damage(files, file.path)):
        return [{**start, "kind": UNREADABLE, "why": damage}]
    if not rows:
        return [{**start, "kind": OTHER, "why": "no 2-D image with a celestial WCS"}]
    return [{**start, "kind": SKY, **row} for row in rows]


@contextmanager
def _hdus(files: Files, name: str) -> Iterator[fits.HDUList]:
    with files.open(name) as source:
        mapped = isinstance(source, Path)
        with fits.open(source, mode="readonly", memmap=mapped) as hdus:
            yield hdus


def _scan(files: Files, name: str) -> list[dict[str, Any]]:
    rows = []
    with _hdus(files, name) as hdus:
        for group in find_groups(hdus, name.rpartition("/")[2]):
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
                    "why": None if whole else _damage(files, name),
                    "band": group.band, "plane": group.plane, "image": group.image,
                    "mask": group.mask, "variance": group.variance, "invvar": group.invvar,
                    "nx": nx, "ny": ny,
                    "ra": ra, "dec": dec, "radius": radius, "scale_x": scale_x, "scale_y": scale_y,
                    "zero_point": unit[0] if unit else None,
                    "zero_point_from": unit[1] if unit else None,
                    "psf_fwhm": psf_fwhm(header, hdus[0].header), "wcs": text,
                }
            )  # fmt: skip
    return rows


def _damage(files: Files, name: str) -> str | None:
    """What is broken in a file whose first headers are fine, or None.

    A mask that was cut off with its header leaves a file that looks like one without a mask:
    astropy ends the list of HDUs where it can't go on. So a file with less than image, mask and
    variance is looked at more closely: compressed as a whole, it must unpack to the end;
    else no HDU may end behind the file nor begin behind the last one that was understood.
    """
    openers: dict[str, Any] = {".gz": gzip.open, ".bz2": bz2.open}
    unpack = openers.get(Path(name).suffix.lower())
    if unpack is not None:
        path = files.local(name)
        try:
            with unpack(path, "rb") as stream:
                while stream.read(1 << 22):
                    pass
        except (EOFError, OSError, zlib.error) as error:
            if outside_fault(error, path) is not None:
                raise
            return f"does not unpack: {error}"
        return None
    with _hdus(files, name) as hdus:
        last = hdus.fileinfo(len(hdus) - 1)
    end, size = last["datLoc"] + last["datSpan"], files.size(name)
    if end - size >= _BLOCK:  # less may be padding that its writer left out
        return "is cut off"
    with files.open(name) as source:
        opened = source.open("rb") if isinstance(source, Path) else source
        with opened as stream:
            stream.seek(min(end, size))
            return "is cut off in a header" if stream.read(8) == b"XTENSION" else None
