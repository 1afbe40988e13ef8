"""A server on this machine that speaks the protocol of HSC's cutout service, faults included.

It cuts from one mosaic in memory. Members are written by hand, which is a hundred times faster than
by astropy; the headers are those of real answers as far as a reader looks at them.
"""

from __future__ import annotations

import base64
import email
import io
import tarfile
import threading
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType

import numpy as np
from astropy.wcs import WCS
from skytiles import SCALE, noise, sky_wcs

COLUMNS = "rerun type filter tract ra dec sw sh image mask variance".split()


def fits_bytes(
    parts: list[tuple[str, np.ndarray]], wcs: WCS, x0: int, y0: int, filter_: str
) -> bytes:
    """Empty primary HDU, then image, mask, variance as hscPipe orders them."""
    first = {"SIMPLE": True, "BITPIX": 8, "NAXIS": 0, "FILTER": filter_}
    out = [_header(first | {"FLUXMAG0": 63095734448.0194})]
    for role, pixels in parts:
        cards: dict[str, object] = {
            "XTENSION": "IMAGE",
            "BITPIX": {"f": -32, "i": 32}[pixels.dtype.kind],
            "NAXIS": 2,
            "NAXIS1": pixels.shape[1],
            "NAXIS2": pixels.shape[0],
            "PCOUNT": 0,
            "GCOUNT": 1,
            "EXTTYPE": role,
            "CTYPE1": wcs.wcs.ctype[0],
            "CTYPE2": wcs.wcs.ctype[1],
            "CRVAL1": float(wcs.wcs.crval[0]),
            "CRVAL2": float(wcs.wcs.crval[1]),
            "CRPIX1": float(wcs.wcs.crpix[0] - x0),
            "CRPIX2": float(wcs.wcs.crpix[1] - y0),
            "CD1_1": float(wcs.wcs.cd[0, 0]),
            "CD2_2": float(wcs.wcs.cd[1, 1]),
        }
        if role == "MASK":
            cards |= {"MP_BAD": 0, "MP_SAT": 1}
        data = pixels.astype(pixels.dtype.newbyteorder(">")).tobytes()
        out += [_header(cards), data, b"\0" * (-len(data) % 2880)]
    return b"".join(out)


def _header(cards: dict[str, object]) -> bytes:
    lines = []
    for key, value in cards.items():
        if isinstance(value, bool):
            text = f"{'T' if value else 'F':>20}"
        elif isinstance(value, str):
            text = f"'{value:<8}'"
        else:
            text = f"{value!r:>20}"
        lines.append(f"{key:<8}= {text}".ljust(80))
    text = "".join([*lines, "END".ljust(80)])
    return text.ljust(-(-len(text) // 2880) * 2880).encode("ascii")


class Sky:
    """A mosaic and what lies outside of it."""

    def __init__(self, nx: int = 2000, ny: int = 1500, seed: int = 0) -> None:
        self.wcs = sky_wcs()
        self.image = noise((ny, nx), seed)
        self.mask = np.zeros((ny, nx), np.int32)
        self.mask[700:703, 400:403] = 1
        self.variance = np.full((ny, nx), 0.0025, np.float32)

    def cut(self, ra: float, dec: float, half: float, variance: bool, filter_: str) -> bytes | None:
        """The box around a position, smaller at an edge; None off the mosaic."""
        x, y = (float(v) for v in self.wcs.wcs_world2pix(ra, dec, 0))
        reach = half / SCALE
        ny, nx = self.image.shape
        left, right = max(0, int(np.floor(x - reach))), min(nx, int(np.ceil(x + reach)) + 1)
        low, high = max(0, int(np.floor(y - reach))), min(ny, int(np.ceil(y + reach)) + 1)
        if left >= right or low >= high:
            return None
        box = slice(low, high), slice(left, right)
        parts = [("IMAGE", self.image[box]), ("MASK", self.mask[box])]
        parts += [("VARIANCE", self.variance[box])] if variance else []
        return fits_bytes(parts, self.wcs, left, low, filter_)


class DasServer:
    """The server, as a context manager.

    Parameters
    ----------
    sky : Sky
    faults : list of str
        What happens to one request after the other: ``""``, ``401``, ``429``, ``503``, ``cut``
        (the tar stops in the middle of a member), ``cut-between`` (after a whole member), ``slow``,
        ``stray`` (a member of no line), ``html``, ``garbage``, ``silent`` (waits for `released`).
        Later requests have none.
    wrong : callable, optional
        Of a line's position in the sky: what its member is, or "": ``band``, ``place``, ``junk``,
        ``long``. Told how often that position was asked for before.
    """

    user, password = "someone", "pass:word with % and ü"

    def __init__(
        self,
        sky: Sky,
        faults: list[str] | None = None,
        wrong: Callable[[float, float, int], str] | None = None,
    ) -> None:
        self.sky, self.faults, self.wrong = sky, list(faults or []), wrong or (lambda *_: "")
        self.posts: list[str] = []
        self.lists: list[list[str]] = []
        self.asked: Counter[tuple[float, float]] = Counter()
        self.sent: Counter[tuple[float, float]] = Counter()
        self.now = self.most = 0
        self.reached, self.released = threading.Event(), threading.Event()
        self._guard = threading.Lock()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}/das_cutout/pdr3"

    @property
    def spec(self) -> str:
        return f"das+{self.url}?rerun=pdr3_wide"

    def __enter__(self) -> DasServer:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.released.set()
        self._server.shutdown()
        self._server.server_close()

    def environment(self) -> dict[str, str]:
        return {
            "SURVEY_GAMPEN_HSC_USER": self.user,
            "SURVEY_GAMPEN_HSC_PASSWORD": self.password,
        }

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def allowed(self) -> bool:
                pair = f"{server.user}:{server.password}".encode()
                return self.headers.get("Authorization") == (
                    "Basic " + base64.b64encode(pair).decode()
                )

            def fail(self, code: int, **headers: str) -> None:
                self.send_response(code)
                for key, value in headers.items():
                    self.send_header(key.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(f"code {code} {self.headers.get('Authorization')}".encode())

            def do_GET(self) -> None:
                if not self.allowed():
                    return self.fail(401)
                self.fail(200)
                return None

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                with server._guard:
                    fault = server.faults.pop(0) if server.faults else ""
                    server.posts.append(fault)
                    server.now += 1
                    server.most = max(server.most, server.now)
                try:
                    self.answer(body, fault)
                except (BrokenPipeError, ConnectionResetError):
                    pass
                finally:
                    with server._guard:
                        server.now -= 1

            def answer(self, body: bytes, fault: str) -> None:
                if not self.allowed() or fault == "401":
                    return self.fail(401, WWW_Authenticate='Basic realm="HSC"')
                if self.path != "/das_cutout/pdr3/cgi-bin/cutout":
                    return self.fail(404)
                if fault == "429":
                    return self.fail(429, Retry_After="0")
                if fault == "503":
                    return self.fail(503)
                head = f"Content-Type: {self.headers['Content-Type']}\r\n\r\n".encode()
                (part,) = email.message_from_bytes(head + body).get_payload()
                assert part.get_param("name", header="Content-Disposition") == "list"
                lines = part.get_payload(decode=True).decode().splitlines()
                with server._guard:
                    server.lists.append(lines)
                assert lines[0] == f"#? {' '.join(COLUMNS)}"
                self.send_response(200)
                html = fault == "html"
                self.send_header("Content-Type", "text/html" if html else "application/x-tar")
                self.end_headers()
                if html or fault == "garbage":
                    self.wfile.write(b"<html>" + b"x" * 5000)
                    return None
                server.send(self.wfile, lines, fault)
                return None

        return Handler

    def send(self, to: io.BufferedIOBase, lines: list[str], fault: str) -> None:
        """Stream the tar."""
        half = len(lines) // 2
        for number, line in enumerate(lines[1:], start=2):
            row = dict(zip(COLUMNS, line.split(), strict=True))
            ra, dec = (float(row[key].removesuffix("deg")) for key in ("ra", "dec"))
            width = float(row["sw"].removesuffix("asec"))
            with self._guard:
                before = self.asked[ra, dec]
                self.asked[ra, dec] += 1
            wrong = self.wrong(ra, dec, before)
            content = self.sky.cut(ra, dec, width, row["variance"] == "true", row["filter"])
            name = f"{number}-cutout-{row['filter']}-9813-{row['rerun']}.fits"
            if fault in ("silent", "slow") and number == half:
                to.flush()
                self.reached.set()
                self.released.wait(0.2 if fault == "slow" else 60)
            if fault == "cut-between" and number == half:
                return  # the connection closes
            if content is None:
                continue
            if wrong == "band":
                content = content.replace(b"HSC-G", b"HSC-I")
            elif wrong == "place":
                content = self.sky.cut(ra, dec + 0.01, width, False, row["filter"]) or b"x"
            elif wrong == "junk":
                content = b"not a FITS file"
            elif wrong == "long":
                content = content + b"\0" * 5_000_000
            stray = fault == "stray" and number == half
            if stray:
                name = f"{len(lines) + 7}-cutout-HSC-G-9813-pdr3_wide.fits"
            info = tarfile.TarInfo(f"arch-261126-120000/{name}")
            info.size = len(content)
            record = info.tobuf() + content + b"\0" * (-len(content) % 512)
            if fault == "cut" and number >= half:
                to.write(record[: len(record) // 2])
                return
            to.write(record)
            with self._guard:
                self.sent[ra, dec] += not wrong and not stray
        to.write(b"\0" * 10240)
        to.flush()
