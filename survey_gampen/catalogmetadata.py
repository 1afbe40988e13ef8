"""Settings that a catalogue brings along, in the metadata of its Parquet files."""

from __future__ import annotations

import io
import os
from pathlib import Path

from survey_gampen.addresses import is_address, join

#: Key of the metadata; its value is a text of TOML.
METADATA_KEY = b"survey_gampen"
_PARQUET = (".parquet", ".parq", ".pq")
_FOR_ALL = ("_common_metadata", "dataset/_common_metadata")
#: Bytes at the end of a remote file that hold most footers.
_GUESS = 64 << 10


def catalog_metadata(catalog: str) -> str | None:
    """Our TOML text in a catalogue's metadata; None where there is none.

    A catalogue that cannot be read is no matter of settings: whoever opens its rows will say so.

    Raises
    ------
    InputError, OutsideFault
        When the catalogue lies elsewhere and nobody can be asked about it.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    source: io.BytesIO | Path | None
    try:
        if is_address(catalog):
            footer = _remote_footer(catalog)
            source = None if footer is None else io.BytesIO(footer)
        else:
            path = Path(catalog)
            source = _first_file(path) if path.is_dir() else path
        metadata = {} if source is None else pq.read_schema(source).metadata or {}
    except (pa.ArrowException, OSError):
        return None
    text = metadata.get(METADATA_KEY)
    return None if text is None else text.decode("utf-8", errors="replace")


def _first_file(folder: Path) -> Path | None:
    """The file of a Parquet folder that speaks for all of it."""
    for name in _FOR_ALL:
        if (folder / name).is_file():
            return folder / name
    for root, subfolders, files in os.walk(folder):
        subfolders.sort()
        found = sorted(f for f in files if f.endswith(_PARQUET))
        if found:
            return Path(root) / found[0]
    return None


def _remote_footer(url: str) -> bytes | None:
    """The end of the file elsewhere that speaks for all of the catalogue; None: there is none."""
    from survey_gampen.net.faults import Denied, Missing
    from survey_gampen.stores import open_store

    store = open_store(url)
    named = url.lower().endswith(_PARQUET)
    for place in [url] if named else [join(url, name) for name in _FOR_ALL]:
        try:
            tail, size = store.tail(place, _GUESS)
            length = int.from_bytes(tail[-8:-4], "little") + 8
            if len(tail) < length <= size:
                tail, _ = store.tail(place, length, size)
        except (Missing, Denied):
            continue
        return tail
    return None
