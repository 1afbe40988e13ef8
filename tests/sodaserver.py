"""A server on this machine that speaks TAP, DataLink and SODA as the Rubin Science Platform does.

Results of cutouts lie on a second server, as in the cloud: what goes there must carry no token.
"""

from __future__ import annotations

import io
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, quote, urlsplit

import numpy as np
from astropy.io import fits
from astropy.wcs import WCS
from skytiles import noise

SCALE = 0.2
#: Patches of the tract: inner side and border in pixels, and how many along x and y.
INNER, BORDER, NX, NY = 300, 50, 3, 2

_FIELDS = """<FIELD name="access_url" datatype="char" arraysize="*"/>
<FIELD name="s_region" datatype="char" arraysize="*"/>
<FIELD name="lsst_tract" datatype="long"/><FIELD name="lsst_patch" datatype="long"/>"""
_HEAD = '<?xml version="1.0"?><VOTABLE version="1.4" xmlns="http://www.ivoa.net/xml/VOTable/v1.3">'
_SERVICE = """<RESOURCE ID="{id}" type="meta" utype="adhoc:service"><GROUP name="inputParams">
<PARAM arraysize="*" datatype="char" name="ID" ucd="meta.id;meta.dataset" value="{dataset}"/>
<PARAM arraysize="3" datatype="double" name="CIRCLE" unit="deg" value="" xtype="circle"/>
<PARAM arraysize="*" datatype="char" name="CUTOUTDETAIL" value="{detail}"/></GROUP>
<PARAM arraysize="*" datatype="char" name="accessURL" ucd="meta.ref.url" value="{url}"/>
<PARAM arraysize="*" datatype="char" name="standardID" value="ivo://ivoa.net/std/SODA#sync-1.0"/>
</RESOURCE>"""
_LINKS = """<RESOURCE type="results"><TABLE>
<FIELD ID="ID" name="ID" datatype="char" arraysize="*" ucd="meta.id;meta.main"/>
<FIELD ID="access_url" name="access_url" datatype="char" arraysize="*" ucd="meta.ref.url"/>
<FIELD ID="service_def" name="service_def" datatype="char" arraysize="*" ucd="meta.ref"/>
<FIELD ID="error_message" name="error_message" datatype="char" arraysize="*"/>
<FIELD ID="semantics" name="semantics" datatype="char" arraysize="*" ucd="meta.code"/>
<FIELD ID="content_type" name="content_type" datatype="char" arraysize="*" ucd="meta.code.mime"/>
<DATA><TABLEDATA><TR><TD>{dataset}</TD><TD></TD><TD>cutout-sync-maskedimage</TD><TD></TD>
<TD>#cutout</TD><TD>application/fits</TD></TR></TABLEDATA></DATA></TABLE></RESOURCE>"""


class Tract:
    """A mosaic in nJy, cut into patches on one pixel grid."""

    def __init__(self) -> None:
        self.wcs = WCS(naxis=2)
        self.wcs.wcs.ctype = ["RA---TAN", "DEC--TAN"]
        self.wcs.wcs.crval = [53.0, -28.0]
        self.wcs.wcs.crpix = [700.0, -300.0]
        self.wcs.wcs.cd = np.diag([-SCALE, SCALE]) / 3600.0
        shape = (NY * INNER + 2 * BORDER, NX * INNER + 2 * BORDER)
        self.image = noise(shape, 5) * 100
        self.mask = np.zeros(shape, np.int32)
        self.variance = np.full(shape, 25.0, np.float32)

    def box(self, patch: int) -> tuple[int, int, int, int]:
        """First and last pixel along x and y, the last excluded."""
        x, y = (patch % NX) * INNER, (patch // NX) * INNER
        return x, x + INNER + 2 * BORDER, y, y + INNER + 2 * BORDER

    def region(self, patch: int) -> str:
        left, right, low, high = self.box(patch)
        x = np.array([left, right, right, left]) - 0.5
        y = np.array([low, low, high, high]) - 0.5
        ra, dec = self.wcs.all_pix2world(x, y, 0)
        return "POLYGON ICRS " + " ".join(f"{a:.9f} {b:.9f}" for a, b in zip(ra, dec, strict=True))

    def cut(self, patch: int, ra: float, dec: float, radius: float) -> bytes | None:
        """The square around a circle, cut off at the patch's border, as a compressed FITS file."""
        x, y = (float(v) for v in self.wcs.wcs_world2pix(ra, dec, 0))
        reach = radius * 3600 / SCALE
        left, right, low, high = self.box(patch)
        x0, x1 = max(left, int(np.floor(x - reach))), min(right, int(np.ceil(x + reach)) + 1)
        y0, y1 = max(low, int(np.floor(y - reach))), min(high, int(np.ceil(y + reach)) + 1)
        if x0 >= x1 or y0 >= y1:
            return None
        hdus = [fits.PrimaryHDU()]
        header = self.wcs.to_header()
        header["CRPIX1"] -= x0
        header["CRPIX2"] -= y0
        planes = {"IMAGE": self.image, "MASK": self.mask, "VARIANCE": self.variance}
        for name, pixels in planes.items():
            hdu = fits.CompImageHDU(
                pixels[y0:y1, x0:x1], header, name=name, compression_type="GZIP_2",
                quantize_level=0.0,
            )  # fmt: skip
            if name == "IMAGE":
                hdu.header["BUNIT"] = "nJy"
            if name == "MASK":
                hdu.header["MP_BAD"], hdu.header["MP_SAT"] = 0, 1
            hdus.append(hdu)
        out = io.BytesIO()
        fits.HDUList(hdus).writeto(out)
        return out.getvalue()


class SodaServer:
    """The servers, as a context manager.

    Parameters
    ----------
    tract : Tract
    faults : list of str
        What happens to one cutout request after the other: "", ``503``, ``429``, ``short``
        (fewer bytes than announced), ``junk``, ``empty`` (a result of no bytes), ``204`` (nothing
        there), ``401``, ``400`` (its page repeats the token),
        ``astray`` (the result is where nobody answers, and the token in its address),
        ``nonsense`` (no HTTP).
    tables : dict of str to str, optional
        What is wrong with the answers of ``tap`` (when it is asked for images) and of ``datalink``:
        ``error`` (one of their own, which repeats the token), ``page`` (no table, but the token),
        ``bare`` (a table of nothing), ``overflow`` (there are more rows).
    """

    token = "gt-abcdefghijklmnopqrstuv.wxyz0123456789ABCDEF"

    def __init__(
        self,
        tract: Tract,
        faults: list[str] | None = None,
        tables: dict[str, str] | None = None,
    ) -> None:
        self.tract, self.faults, self.tables = tract, list(faults or []), tables or {}
        self.paths: list[str] = []
        self.queries: list[str] = []
        self.foreign: list[dict[str, str]] = []
        self.results: dict[str, bytes] = {}
        self._guard = threading.Lock()
        self._servers = [
            ThreadingHTTPServer(("127.0.0.1", 0), kind) for kind in (self._main(), self._store())
        ]
        for each in self._servers:
            each.daemon_threads = True

    def port(self, number: int = 0) -> int:
        return int(self._servers[number].server_address[1])

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port()}/api"

    @property
    def spec(self) -> str:
        return f"soda+{self.url}/tap?collection=LSST.DP1"

    def __enter__(self) -> SodaServer:
        for each in self._servers:
            threading.Thread(target=each.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self._servers:
            each.shutdown()
            each.server_close()

    def _main(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def reply(self, code: int, content: bytes = b"", **headers: str) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                for key, value in headers.items():
                    self.send_header(key.replace("_", "-"), value)
                self.end_headers()
                self.wfile.write(content)

            def handle_any(self, words: dict[str, str]) -> None:
                path = urlsplit(self.path).path
                with server._guard:
                    server.paths.append(self.path)
                if self.headers.get("Authorization") != f"Bearer {server.token}":
                    return self.reply(401)
                if path == "/api/tap/sync":
                    return self.reply(200, server.rows(words["QUERY"]).encode())
                if path == "/api/datalink/links":
                    return self.reply(200, server.links(words["ID"]).encode())
                if path == "/api/cutout/sync":
                    return self.cutout(words)
                return self.reply(404, b"no such service")

            def cutout(self, words: dict[str, str]) -> None:
                with server._guard:
                    fault = server.faults.pop(0) if server.faults else ""
                    number = str(len(server.results))
                    server.results[number] = b""
                if fault.isdigit():
                    page = f"UsageError: {self.headers.get('Authorization')}".encode()
                    return self.reply(int(fault), page, Retry_After="0")
                if fault == "nonsense":
                    self.wfile.write(b"\0\1\2 no protocol\r\n\r\n")
                    self.close_connection = True
                    return None
                if fault == "astray":
                    return self.reply(303, Location=f"http://127.0.0.1:9/{number}?{server.token}")
                assert words["CUTOUTDETAIL"] == "MaskedImage"
                ra, dec, radius = (float(word) for word in words["CIRCLE"].split())
                patch = int(words["ID"].rpartition("/")[2])
                content = server.tract.cut(patch, ra, dec, radius)
                if content is None:
                    return self.reply(400, b"UsageError\nNo intersection between cutout and image")
                spoilt = {"junk": b"junk", "empty": b""}
                server.results[number] = spoilt.get(fault, content)
                tail = "?short" if fault == "short" else ""
                where = f"http://127.0.0.1:{server.port(1)}/{number}{tail}"
                return self.reply(303, Location=where)

            def do_GET(self) -> None:
                query = parse_qs(urlsplit(self.path).query)
                self.handle_any({key: value[0] for key, value in query.items()})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self.handle_any({key: value[0] for key, value in parse_qs(body).items()})

        return Handler

    def _store(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Store(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                server.foreign.append(dict(self.headers))
                content = server.results[urlsplit(self.path).path.strip("/")]
                self.send_response(200)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content[:1000] if "short" in self.path else content)

        return Store

    def rows(self, query: str) -> str:
        """The answer of TAP."""
        self.queries.append(query)
        if "tap_schema" in query:
            rows = ""
        elif "tap" in self.tables:
            return self.spoilt(self.tables["tap"])
        else:
            assert "lsst_band = 'r'" in query
            assert "obs_collection = 'LSST.DP1'" in query
            assert "dataproduct_subtype = 'lsst.deep_coadd'" in query
            rows = "".join(
                f"<TR><TD>{self.url}/datalink/links?ID={quote(f'butler://dp1/{patch}', safe='')}"
                f"</TD><TD>{self.tract.region(patch)}</TD><TD>5063</TD><TD>{patch}</TD></TR>"
                for patch in range(NX * NY)
            )
        status = '<INFO name="QUERY_STATUS" value="OK"/>'
        table = f"<TABLE>{_FIELDS}<DATA><TABLEDATA>{rows}</TABLEDATA></DATA></TABLE>"
        return f'{_HEAD}<RESOURCE type="results">{status}{table}</RESOURCE></VOTABLE>'

    def links(self, dataset: str) -> str:
        """The answer of DataLink."""
        if "datalink" in self.tables:
            return self.spoilt(self.tables["datalink"])
        details = {"cutout-sync": "Image", "cutout-sync-maskedimage": "MaskedImage"}
        services = "".join(
            _SERVICE.format(id=key, dataset=dataset, detail=detail, url=f"{self.url}/cutout/sync")
            for key, detail in details.items()
        )
        return f"{_HEAD}{_LINKS.format(dataset=dataset)}{services}</VOTABLE>"

    def spoilt(self, kind: str) -> str:
        """An answer that is none."""
        if kind == "page":
            return f"<html><{self.token}>Bearer {self.token}</html>"
        if kind == "bare":
            service = _SERVICE.partition("<GROUP")[0].format(id="cutout-sync-maskedimage")
            return f'{_HEAD}<RESOURCE type="results"/>{service}</RESOURCE></VOTABLE>'
        if kind == "overflow":
            table = f"<TABLE>{_FIELDS}<DATA><TABLEDATA></TABLEDATA></DATA></TABLE>"
            status = '<INFO name="QUERY_STATUS" value="OVERFLOW"/>'
            return f'{_HEAD}<RESOURCE type="results">{table}{status}</RESOURCE></VOTABLE>'
        said = f'<INFO name="QUERY_STATUS" value="ERROR">no, Bearer {self.token}</INFO>'
        return f'{_HEAD}<RESOURCE type="results">{said}</RESOURCE></VOTABLE>'
