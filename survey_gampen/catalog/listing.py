"""Which Parquet files make up a catalogue that is a folder.

Three kinds: a HATS catalogue, whose ``partition_info.csv`` decides what is visible and in which
order; a HATS collection, which names its main catalogue among indexes and margins; and any folder
of Parquet files. https://hats.readthedocs.io describes the first two.
"""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from survey_gampen.catalog.files import PARQUET, File, Folder
from survey_gampen.errors import InputError
from survey_gampen.net.faults import Denied

#: Kinds of HATS tables (``dataproduct_type``) whose rows are the rows of a catalogue, each once.
_ROWS_ONCE = ("object", "source", "nested")
_LEAF = re.compile(r"Norder=(\d+)/Dir=\d+/Npix=(\d+)")
_FINEST = 29


@dataclass(frozen=True)
class Listing:
    """The files of a catalogue, in its own order, or in order of their names.

    Attributes
    ----------
    folder : Folder
        Where they lie.
    names : tuple of str
        Their names in it.
    files : tuple of File
    is_hats : bool
        Whether they are leaves of a HATS catalogue.
    """

    folder: Folder
    names: tuple[str, ...]
    files: tuple[File, ...]
    is_hats: bool


def parquet_files(folder: Folder) -> Listing:
    """The files of a catalogue that is a folder.

    Raises
    ------
    InputError
        When there are none, or the folder is no catalogue of rows.
    """
    folder, about = _main_table(folder)
    names = _plain_names(folder) if about is None else _hats_names(folder, _properties(about))
    if not names:
        raise InputError(f"{folder.name} holds no Parquet files; give a file or another folder")
    files = tuple(folder.file(name) for name in names)
    return Listing(folder, tuple(names), files, is_hats=about is not None)


def _main_table(folder: Folder) -> tuple[Folder, str | None]:
    """The folder of the rows, and its ``hats.properties`` if it has them."""
    denied: Denied | None = None
    for name in ("hats.properties", "collection.properties"):
        try:
            about = folder.text(name)
        except Denied as error:  # which is what some stores say of all that is not there
            denied = denied or error
            continue
        if about is not None and name == "hats.properties":
            return folder, about
        if about is not None:
            primary = _properties(about).get("hats_primary_table_url")
            if not primary:
                raise InputError(
                    f"{folder.name}/{name} names no hats_primary_table_url; give the folder of "
                    "the catalogue itself"
                )
            folder = folder.folder(primary)
            return folder, folder.text("hats.properties")
    if denied is not None:
        raise denied
    return folder, None


def _plain_names(folder: Folder) -> list[str]:
    names = folder.walk()
    if names is None:
        raise InputError(
            f"{folder.name}: a web server has no list of its files; give the address of a Parquet "
            "file, or of the folder of a HATS catalogue"
        )
    inner = sorted(name.rpartition("/")[0] for name in names if name.endswith("/hats.properties"))
    if inner:
        raise InputError(
            f"{folder.name} holds HATS catalogues ({', '.join(inner[:5])}), whose rows may be the "
            "same; give the folder of one"
        )
    return _shown_files(names)


def _shown_files(names: Iterable[str]) -> list[str]:
    """The Parquet files among names, but those that are hidden from readers, in order."""
    found = (name.split("/") for name in names if name.endswith(PARQUET))
    return ["/".join(parts) for parts in sorted(found) if not any(p[0] in "._" for p in parts)]


def _hats_names(folder: Folder, about: dict[str, str]) -> list[str]:
    kind = about.get("dataproduct_type", "object")
    if kind not in _ROWS_ONCE:
        primary = about.get("hats_primary_table_url")
        whose = f" of {primary}" if primary else ""
        raise InputError(
            f"{folder.name} is the {kind} table{whose}, not a catalogue whose rows come once; give "
            "the catalogue itself"
        )
    suffix = about.get("hats_npix_suffix", ".parquet")
    info = folder.text("partition_info.csv")
    if info is not None and suffix not in ("/", "\\"):
        return [
            f"dataset/Norder={norder}/Dir={npix // 10_000 * 10_000}/Npix={npix}{suffix}"
            for norder, npix in sorted(_visible(folder, info), key=_start)
        ]
    # Only the files themselves, or the one that knows the footers of all, tell their names.
    names = folder.folder("dataset").walk()
    if names is None:
        names = _names_in_metadata(folder)
    named = ((_pixel(name), name) for name in _shown_files(names))
    leaves = [(pixel, name) for pixel, name in named if pixel is not None]
    if info is not None:
        visible = set(_visible(folder, info))
        leaves = [(pixel, name) for pixel, name in leaves if pixel in visible]
    leaves.sort(key=lambda leaf: (_start(leaf[0]), leaf[1]))
    return [f"dataset/{name}" for _, name in leaves]


def _visible(folder: Folder, info: str) -> list[tuple[int, int]]:
    """The pixels that ``partition_info.csv`` names."""
    try:
        return [(int(row["Norder"]), int(row["Npix"])) for row in csv.DictReader(io.StringIO(info))]
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(
            f"{folder.name}/partition_info.csv is damaged ({type(error).__name__}: {error}); make "
            "it again with hats"
        ) from None


def _names_in_metadata(folder: Folder) -> list[str]:
    """Names in ``dataset/_metadata``, which holds the footers of all files."""
    file = folder.file("dataset/_metadata")
    try:
        footers = pq.read_metadata(file.source())
    except pa.ArrowException:
        raise InputError(f"{file.name} is damaged; make it again with hats") from None
    groups = (footers.row_group(number) for number in range(footers.num_row_groups))
    return sorted({group.column(0).file_path for group in groups})


def _pixel(name: str) -> tuple[int, int] | None:
    found = _LEAF.search(name)
    return (int(found[1]), int(found[2])) if found else None


def _start(pixel: tuple[int, int]) -> int:
    """Where a pixel begins along the sky: its first pixel of order 29."""
    norder, npix = pixel
    return npix << 2 * (_FINEST - norder)


def _properties(text: str) -> dict[str, str]:
    """Keys and values of a Java properties file of one line each, as HATS writes them."""
    found = {}
    for line in text.splitlines():
        key, equals, value = line.partition("=")
        if equals and not line.lstrip().startswith(("#", "!")):
            found[key.strip()] = re.sub(r"\\(.)", r"\1", value.strip())
    return found
