"""The verb `report`: what its page says, and what a browser makes of it."""

from __future__ import annotations

import json
import re
import shutil
import socketserver
import subprocess
import threading
from html.parser import HTMLParser
from pathlib import Path

import lsdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from matplotlib.image import imread
from smallrun import Sky, call, verb

from survey_gampen.catalog.hats_out import published
from survey_gampen.cli import main
from survey_gampen.report import html
from survey_gampen.report.gather import COLUMNS, MAGNITUDES, Gathered
from survey_gampen.report.picks import FLAGGED, SHOWN, Picks
from survey_gampen.report.skymap import Outlines, State, sky_map
from survey_gampen.report.tally import Counts, Smallest, Trend, shuffled_keys
from survey_gampen.run.plan import Partition, read_plan

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that elements nest, and takes note of what is in them."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.images: list[dict[str, str | None]] = []
        self.headings: list[str] = []
        self.words = ""
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        given = dict(attrs)
        assert tag not in ("script", "link", "iframe", "object", "a")
        for name in ("src", "href"):
            assert (given.get(name) or "data:").startswith("data:")
        if tag == "img":
            self.images.append(given)
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] in ("h1", "h2"):
            self.headings.append(data)
        if self.open[-1:] != ["style"]:
            self.words += data


@pytest.fixture
def copy(calm: Path, tmp_path: Path) -> Path:
    """A finished run of one's own."""
    return shutil.copytree(calm, tmp_path / "run")


@pytest.fixture(scope="module")
def written(calm: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of the undisturbed run."""
    page = tmp_path_factory.mktemp("page") / "all.html"
    assert main(["report", str(calm), "--out", str(page)]) == 0
    return page


def page_of(out: Path) -> Page:
    assert main(["report", str(out)]) == 0
    return Page((out / "report.html").read_text())


def test_the_page_tells_all(written: Path, calm: Path) -> None:
    page = Page(written.read_text())
    wanted = ["The run", "Flags", "Distributions", "On the sky", "20 galaxies", "Joint posteriors"]
    assert [h for h in page.headings if h in wanted] == wanted
    assert page.headings[0] == "Galaxy posteriors of galaxies.parquet"
    assert "36 of 36 galaxies are published" in page.words
    assert "NO_IMAGE" in page.words
    assert "galaxies/s from the first published file" in page.words
    # three of distributions, sky, rates, twenty galaxies, three joint posteriors
    assert len(page.images) == 3 + 1 + 1 + 20 + 3
    assert all(image["alt"] for image in page.images)
    assert list(written.parent.iterdir()) == [written]  # nothing staged is left


@pytest.mark.slow
def test_a_page_in_the_folder_harms_nothing(copy: Path, sky: Sky) -> None:
    page_of(copy)
    page_of(copy)  # an older page is replaced
    assert call(sky.command(copy, "--keep-samples")).returncode == 0
    assert verb("status", copy).returncode == 0
    assert len(lsdb.open_catalog(copy / "posteriors").compute()) == 36
    assert not list((copy / "posteriors").rglob("*.html"))


def test_half_done_without_cutouts_and_samples(copy: Path) -> None:
    leaves = sorted((copy / "posteriors" / "dataset").rglob("Npix=*.parquet"))
    for leaf in leaves[: len(leaves) // 2]:
        leaf.unlink()
    damaged = leaves[-1]
    damaged.write_bytes(b"PAR1 not really")
    shutil.rmtree(copy / "cutouts")
    shutil.rmtree(copy / "samples")
    done = published(copy / "posteriors")
    lost = next(p for p in read_plan(copy / "plan.parquet") if not done.covers(p))
    (copy / "quarantine").mkdir(exist_ok=True)
    note = {"partition": lost.name, "index": 0, "rows": lost.rows, "stage": "cut", "attempts": 3}
    note |= {"cause": "<b>tile</b> & co", "when": "2026-01-01T00:00:00Z", "traceback": []}
    (copy / "quarantine" / f"{lost.name}.json").write_text(json.dumps(note))
    page = page_of(copy)
    assert "Quarantined partitions" in page.headings
    assert "<b>tile</b> & co" in page.words  # escaped: it is text, not a tag
    assert "1 quarantined." in page.words
    assert "None of their cutouts are kept" in page.words
    assert "1 published files could not be read" in page.words
    assert "Joint posteriors" not in page.headings


def test_nothing_is_published(copy: Path) -> None:
    shutil.rmtree(copy / "posteriors")
    page = page_of(copy)
    assert "Nothing is published yet" in page.words
    assert "0 files are published" in page.words
    assert len(page.images) == 1  # where the partitions are


def test_no_galaxy_has_a_posterior(copy: Path) -> None:
    for leaf in (copy / "posteriors" / "dataset").rglob("Npix=*.parquet"):
        table = pq.ParquetFile(leaf).read()
        for place, field in enumerate(table.schema):
            if field.nullable and field.name in COLUMNS:
                empty = pa.nulls(table.num_rows, field.type)
                table = table.set_column(place, field, empty)
        pq.write_table(table, leaf)
    page = page_of(copy)
    assert "No galaxy has a posterior yet." in page.words
    assert "no posterior" in page.words


@pytest.mark.parametrize("name", ["page.txt", "none/page.html", "posteriors/dataset/page.html"])
def test_bad_places_for_the_page(calm: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(calm), "--out", str(calm / name)]) == 2
    assert re.fullmatch(r"survey-gampen: error: [^\n]+\n", capsys.readouterr().err)
    assert not (calm / name).exists()


def test_no_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["report", str(tmp_path)]) == 2
    assert "holds no planned run" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- the parts ------------------------------------------------------------------------------


def test_text_is_never_html() -> None:
    assert html.text("<script>&\"'\n\x00\u202e") == "&lt;script&gt;&amp;&quot;&#x27;"
    assert html.text("\ud800") == "?" or html.text("\ud800") == ""


def rows(n: int, seed: int = 0) -> pa.Table:
    """Published rows of galaxies, a tenth flagged, a twentieth without a posterior."""
    rng = np.random.default_rng(seed)
    columns = {name: rng.uniform(0.2, 0.8, n).astype(np.float32) for name in COLUMNS}
    status = rng.choice([0, 4, 1], n, p=[0.85, 0.1, 0.05]).astype(np.int32)
    magnitude = rng.uniform(16, 24, n).astype(np.float32)
    table = {
        **columns,
        "_healpix_29": rng.integers(0, 2**60, n),
        "object_id": rng.permutation(n).astype(np.int64),
        "ra": rng.uniform(0, 360, n),
        "dec": rng.uniform(-90, 90, n),
        "status": status,
        "status_note": pa.nulls(n, pa.string()),
        "mag_p50": magnitude,
    }
    null = status == 1
    for name in COLUMNS[6:]:
        table[name] = pa.array(table[name], mask=null)
    return pa.table({name: table[name] for name in COLUMNS})


def test_the_choice_needs_no_order() -> None:
    table = rows(3000)
    one, other = Gathered(), Gathered()
    one.add(table)
    for start in reversed(range(0, 3000, 700)):
        other.add(table.slice(start, 700))
    first, second = one.picks.chosen(), other.picks.chosen()
    assert [r["object_id"] for r in first] == [r["object_id"] for r in second]
    assert len(first) == SHOWN
    assert sum(r["status"] != 0 for r in first) == FLAGGED
    clean = [r["mag_p50"] for r in first if r["status"] == 0]
    assert clean == sorted(clean)
    assert max(clean) - min(clean) > 6
    assert one.sample.table().equals(other.sample.table())
    assert one.flags == other.flags


def test_few_or_only_flagged_galaxies_are_shown_too() -> None:
    flagged = rows(40).set_column(4, "status", pa.array(np.full(40, 32, np.int32)))
    found = Gathered()
    found.add(flagged)
    assert len(found.picks.chosen()) == SHOWN
    assert Picks(MAGNITUDES).chosen() == []


def test_memory_is_bounded() -> None:
    found = Gathered()
    for seed in range(3):
        found.add(rows(5000, seed))
    assert len(found.sample) == 4000
    outlines = Outlines(most=100)
    outlines.add((Partition(i, 9, i, 1), State(i % 3)) for i in range(5000))
    assert len(outlines.states) <= 100
    assert sum(outlines.counts.values()) == 5000
    assert outlines.merged


def test_smallest_keys() -> None:
    keys = shuffled_keys(pa.array(np.arange(500)))
    assert len(set(keys.tolist())) == 500
    best = Smallest(10)
    table = pa.table({"k": keys})
    for start in range(0, 500, 50):
        best.offer(keys[start : start + 50], table.slice(start, 50), np.ones(50, bool))
    assert best.table()["k"].to_pylist() == sorted(keys.tolist())[:10]


def test_counts_and_trends() -> None:
    counts = Counts([0, 1, 2])
    counts.add(np.array([-5, 0.5, 1.5, 9, np.nan]))
    assert counts.counts.tolist() == [2, 2]
    trend = Trend([0, 1, 2], np.linspace(0, 1, 101))
    trend.add(np.full(1000, 0.5), np.linspace(0, 1, 1000))
    middle, found = trend.quantiles([0.16, 0.5], least=5)
    assert middle.tolist() == [0.5]
    np.testing.assert_allclose(found[:, 0], [0.16, 0.5], atol=0.02)


@pytest.mark.parametrize("norder", [0, 2, 9])
def test_maps(norder: int) -> None:
    """The whole sky, poles and seam with it, and a patch."""
    found = Gathered()
    found.add(rows(50))
    outlines = Outlines()
    outlines.add((Partition(i, norder, i, 1), State(i % 3)) for i in range(12))
    assert sky_map(outlines, found).startswith(b"\x89PNG")


# --- in a browser ---------------------------------------------------------------------------


@pytest.fixture(scope="module")
def browser() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium or Chrome here")


class Proxy(socketserver.ThreadingTCPServer):
    """Takes note of all that a browser asks the network for, and gives nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        self.asked: list[str] = []
        super().__init__(("127.0.0.1", 0), _Ask)


class _Ask(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        assert isinstance(self.server, Proxy)
        self.server.asked.append(self.rfile.readline().decode(errors="replace"))


@pytest.fixture
def proxy() -> object:
    with Proxy() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def open_page(
    browser: str, proxy: Proxy, page: Path, folder: Path, *options: str
) -> subprocess.CompletedProcess[str]:
    command = [
        *(browser, "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        *("--disable-dev-shm-usage", "--enable-logging=stderr"),
        f"--user-data-dir={folder / 'profile'}",
        f"--proxy-server=http://127.0.0.1:{proxy.server_address[1]}",
        *options,
        page.as_uri(),
    ]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=True)


#: Shows the page, as it is, in a frame as wide as a phone, and writes down what became of it.
FRAME = """<!DOCTYPE html><meta charset="utf-8"><pre id="found"></pre>
<iframe id="frame" style="width: 390px; height: 800px"></iframe><script>
const frame = document.getElementById("frame");
frame.onload = () => {
  const page = frame.contentDocument;
  document.getElementById("found").textContent = JSON.stringify({
    title: page.title,
    images: [...page.images].map(i => [i.complete, i.naturalWidth]),
    tables: page.querySelectorAll("table").length,
    width: page.documentElement.scrollWidth,
  });
  frame.remove();
};
frame.srcdoc = PAGE;
</script>"""


@pytest.mark.slow
@pytest.mark.browser
def test_in_a_browser(browser: str, proxy: Proxy, written: Path, tmp_path: Path) -> None:
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.replace("PAGE", json.dumps(written.read_text()).replace("</", "<\\/")))
    done = open_page(browser, proxy, frame, tmp_path, "--dump-dom", "--virtual-time-budget=20000")
    found = json.loads(re.search(r'<pre id="found">(.*?)</pre>', done.stdout, re.S)[1])
    assert found["title"] == "survey-gampen: galaxies.parquet"
    assert len(found["images"]) == 28
    assert all(complete and width > 100 for complete, width in found["images"])
    assert found["tables"] >= 3
    assert found["width"] <= 390  # a phone need not scroll sideways
    assert "CONSOLE" not in done.stderr  # nothing refused, nothing amiss

    shot = tmp_path / "page.png"
    open_page(browser, proxy, written, tmp_path, f"--screenshot={shot}", "--window-size=1150,2400")
    picture = imread(shot)[..., :3]
    assert picture.shape[:2] == (2400, 1150)
    blue = np.array([0xB9, 0xD6, 0xEA]) / 255  # of histograms and published partitions
    assert (np.abs(picture - blue).max(-1) < 0.02).sum() > 5000
    assert not [line for line in proxy.asked if "localhost" not in line and _ours(line)]


def _ours(line: str) -> bool:
    """Whether a request may come from the page; browsers call their makers on their own."""
    return not re.search(r"google|gstatic|chromium|gvt1|mozilla", line)


@pytest.mark.slow
@pytest.mark.browser
def test_a_request_would_be_seen(browser: str, proxy: Proxy, tmp_path: Path) -> None:
    page = tmp_path / "calls.html"
    page.write_text('<img src="http://elsewhere.invalid/picture.png">')
    open_page(browser, proxy, page, tmp_path, "--dump-dom")
    assert any("elsewhere.invalid" in line and _ours(line) for line in proxy.asked)
