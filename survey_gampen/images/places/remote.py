"""Files of a server or an object store: headers read in pieces, tiles downloaded once a node."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Protocol, TypeVar

from survey_gampen.errors import OutsideFault, UnreadableFile
from survey_gampen.images.places.cache import TileCache
from survey_gampen.images.places.listing import FileFacts
from survey_gampen.images.places.pieces import Pieces
from survey_gampen.net.waiting import CutOff, Patience, Transient

T = TypeVar("T")
#: Makes a request about a file, again and again where that may help.
Ask = Callable[[str, Callable[[], Any]], Any]

#: Bytes asked for at once when headers are read: the first headers of an HSC patch are 30 kB.
_PIECE = 1 << 16
#: A file that ends too early at the same byte so often is broken where it lies.
_SAME_CUT = 4
#: The first bytes of FITS (standard 4.0, section 4.4.1.1), gzip (RFC 1952) and bzip2 files.
_BEGINNINGS = (b"SIMPLE  =", b"\x1f\x8b", b"BZh")


class NoRanges(Exception):
    """The server sends whole files only."""


class Stream(NamedTuple):
    """An answer: the first byte it holds, the file's size (-1: not told) and tag, the bytes."""

    start: int
    size: int
    tag: str
    chunks: Iterable[bytes]


class Store(Protocol):
    """What a kind of server must be able to do.

    Its methods raise ``Transient`` where asking again may help.
    """

    address: str
    host: str

    def where(self, name: str) -> str:
        """Address of a file, without secrets."""
        ...

    def has_folder(self, name: str) -> bool:
        """Whether there is such a folder."""
        ...

    def find_all(self, ask: Ask) -> list[FileFacts]:
        """All image files, sorted by name; each request of it through `ask`."""
        ...

    def facts(self, name: str) -> FileFacts | None:
        """Size and tag of a file; None: not there."""
        ...

    def read(self, name: str, start: int, stop: int) -> bytes:
        """A part of a file; raises NoRanges where only whole ones are sent."""
        ...

    def stream(
        self, name: str, start: int, tag: str
    ) -> contextlib.AbstractContextManager[Stream | None]:
        """A file from `start` on if its tag is still `tag`, else from its beginning."""
        ...


class RemoteFiles:
    """Files of a store, kept in a cache.

    Parameters
    ----------
    store : Store
    cache : TileCache
    patience : Patience, optional

    Attributes
    ----------
    known : dict of str to FileFacts
        Files whose size and tag were seen at planning, by name; another version is refused.
    """

    def __init__(
        self,
        store: Store,
        cache: TileCache,
        patience: Patience | None = None,
    ) -> None:
        self.store, self.cache = store, cache
        self.patience = patience or Patience()
        self.known: dict[str, FileFacts] = {}
        self._absent: set[str] = set()

    @property
    def address(self) -> str:
        """Address of the folder."""
        return self.store.address

    def where(self, name: str) -> str:
        """Address of a file."""
        return self.store.where(name)

    def find_all(self) -> list[FileFacts]:
        """All image files, sorted by name; they are known from then on."""
        found = self.store.find_all(self._ask)
        self.settle(self.address, found)
        return found

    def settle(self, address: str, files: list[FileFacts]) -> None:
        """Take the files as they were found before."""
        self.known = {facts.path: facts for facts in files}

    def has_folder(self, name: str) -> bool:
        """Whether there is such a folder; the empty name is the place itself."""
        return self._ask(name, lambda: self.store.has_folder(name))

    def exists(self, name: str) -> bool:
        """Whether there is such a file now."""
        key = self._key(name)
        if self.cache.find(key) is not None:
            return True
        return self._ask(name, lambda: self.store.facts(name)) is not None

    def is_absent(self, name: str) -> bool:
        """Whether a process of the node noted, not long ago, that there is no such file."""
        if name not in self._absent and self.cache.is_absent(self._key(name)):
            self._absent.add(name)
        return name in self._absent

    def note_absent(self, name: str) -> None:
        """Note that there is no such file, for all processes of the node.

        A server that has lost its disk has no file at all, for a while; a note would outlive that.
        So whoever notes looks first whether the place stands.
        """
        self._absent.add(name)
        self.cache.note_absent(self._key(name))

    def local(self, name: str) -> Path:
        """The downloaded file.

        Raises
        ------
        FileNotFoundError
            There is none.
        UnreadableFile
            The server's file is no FITS file, or shorter than the server says.
        OutsideFault
            The server fails for long, the disk is full, or the file is another than at planning.
        """
        key = self._key(name)
        found = self.cache.find(key)
        if found is not None:
            return found
        return self.cache.add(key, lambda part: self._download(name, part))

    @contextlib.contextmanager
    def open(self, name: str) -> Iterator[BinaryIO | Path]:
        """A file to read headers of; the whole of it where it is compressed or comes whole only."""
        size = self.size(name)
        pieces = None
        if size >= 0 and not name.lower().endswith((".gz", ".bz2")):
            read = partial(self.read, name)
            pieces = io.BufferedReader(Pieces(read, size, self.where(name)), _PIECE)
            try:
                pieces.peek(1)
            except NoRanges:
                pieces = None
        if pieces is None:
            yield self.local(name)
        else:
            with pieces:
                yield pieces

    def size(self, name: str) -> int:
        """Bytes of a file."""
        return self._facts(name).size

    def forget(self, name: str) -> None:
        """Remove the downloaded file: the next one to need it gets it anew."""
        found = self.cache.find(self._key(name))
        if found is not None:
            found.unlink(missing_ok=True)

    def read(self, name: str, start: int, stop: int) -> bytes:
        """Some bytes of a file."""
        return self._ask(name, lambda: self.store.read(name, start, stop))

    # --- How --------------------------------------------------------------------------------------

    def _ask(self, name: str, attempt: Callable[[], T]) -> T:
        def connected() -> T:
            with self.cache.connection(self.store.host):
                return attempt()

        return self.patience(self.where(name), connected)

    def _key(self, name: str) -> str:
        known = self.known.get(name)
        version = f"{known.size} {known.tag or known.mtime}" if known else ""
        return f"{version}\n{self.store.where(name)}"

    def _facts(self, name: str) -> FileFacts:
        facts = self.known.get(name) or self._ask(name, lambda: self.store.facts(name))
        if facts is None:
            raise FileNotFoundError(self.where(name))
        return facts

    def _download(self, name: str, part: Path) -> None:
        """Bring the file to `part`, going on with what is there."""
        tag_file = part.with_name(part.name + ".tag")
        reached, cuts = _size(part), list[int]()

        def attempt() -> None:
            nonlocal reached
            try:
                self._fetch(name, part, tag_file)
            except Transient as error:
                at = _size(part)
                cuts.extend([at] if isinstance(error, CutOff) else [])
                if cuts[-_SAME_CUT:] == [at] * _SAME_CUT:
                    raise UnreadableFile(
                        f"{self.where(name)}: the server's file ends at byte {at}, earlier than it "
                        "says; when it is mended there, resume the run"
                    ) from None
                further, reached = at > reached, max(at, reached)
                raise Transient(str(error), error.after, progress=further) from None

        self._ask(name, attempt)
        with part.open("rb") as file:
            beginning = file.read(512)
        if not beginning.startswith(_BEGINNINGS):
            part.unlink()
            tag_file.unlink(missing_ok=True)
            if beginning.lstrip()[:5].lower() in (b"<!doc", b"<html"):
                raise OutsideFault(
                    f"{self.where(name)}: the server sends a page instead of the file; open it in "
                    "a browser to see what it says"
                )
            raise UnreadableFile(
                f"{self.where(name)}: is no FITS file; when it is mended there, resume the run"
            )
        tag_file.unlink(missing_ok=True)

    def _fetch(self, name: str, part: Path, tag_file: Path) -> None:
        """One request; `part` is as long as the file when it returns."""
        start = _size(part)
        tag = tag_file.read_text(encoding="utf-8") if start and tag_file.exists() else ""
        with self.store.stream(name, start, tag) as stream:
            if stream is None:
                raise FileNotFoundError(self.where(name))
            self._see_version(name, stream)
            tag_file.write_text(stream.tag, encoding="utf-8")
            with part.open("r+b" if part.exists() else "wb") as out:
                out.truncate(stream.start)
                out.seek(stream.start)
                for chunk in stream.chunks:
                    out.write(chunk)
                    out.flush()
                length = out.tell()
        if stream.size >= 0 and length != stream.size:
            raise CutOff(f"the answer ended at byte {length} of {stream.size}")

    def _see_version(self, name: str, stream: Stream) -> None:
        known = self.known.get(name)
        if known is None:
            return
        other_size = known.size >= 0 and stream.size >= 0 and known.size != stream.size
        if other_size or (known.tag and stream.tag and known.tag != stream.tag):
            raise OutsideFault(
                f"{self.where(name)} has changed since the run was planned: go on with "
                "`survey-gampen resume`"
            )


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
