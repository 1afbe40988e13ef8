"""Catalogues that lie elsewhere: the same rows, few bytes, and who must act when it fails."""

from __future__ import annotations

import builtins
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from astropy.table import Table
from catalogservers import WebServer
from skies import patch_of_sky, write
from smallrun import Sky, call, leaves

from survey_gampen import stores
from survey_gampen.catalog import Catalog, open_catalog, read_rows, sort_catalog
from survey_gampen.catalogmetadata import METADATA_KEY
from survey_gampen.config import resolve
from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.net.waiting import Patience

BUCKET = "catalogues"  # the servers of a process share their buckets


def rows_of(catalog: Catalog, batch: int = 1000) -> pa.Table:
    return pa.Table.from_batches(catalog.batches(batch), schema=catalog.schema)


def one_line(caught: pytest.ExceptionInfo[Exception]) -> str:
    text = str(caught.value)
    assert "\n" not in text
    return text


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """A folder of catalogues of each kind."""
    folder = tmp_path / "served"
    whole = patch_of_sky(900)
    write(folder / "one.parquet", whole)
    for part in range(3):
        piece = whole.slice(300 * part, 300)
        write(folder / "parts" / f"{part}.parquet", piece)
        write(folder / f"hats/dataset/Norder=1/Dir=0/Npix={part + 20}.parquet", piece)
    (folder / "hats" / "hats.properties").write_text("dataproduct_type=object\n")
    (folder / "hats" / "partition_info.csv").write_text("Norder,Npix\n1,22\n1,20\n1,21\n")
    (folder / "collection.properties").write_text("hats_primary_table_url=hats\n")
    Table({"object_id": [2**63 - 1, 5], "ra": [1.0, 2.0], "dec": [3.0, 4.0]}).write(
        folder / "table.fits"
    )
    return folder


@pytest.fixture
def web(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[WebServer]:
    monkeypatch.setattr(stores, "PATIENCE", Patience(0.5, 0.01, 0.05))
    with WebServer(files) as server:
        yield server


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def bucket(endpoint: str, files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The same files in a bucket."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    store = s3fs.S3FileSystem(skip_instance_cache=True)
    store.mkdir(BUCKET)
    store.put(str(files) + "/", f"{BUCKET}/in", recursive=True)
    yield f"s3://{BUCKET}/in"
    store.rm(BUCKET, recursive=True)


ROOTS = pytest.mark.parametrize("root", ["web", "bucket"])


@pytest.fixture
def root_url(request: pytest.FixtureRequest) -> Callable[[str], str]:
    def url(name: str) -> str:
        root = request.getfixturevalue(name)
        return root.url if isinstance(root, WebServer) else root

    return url


@ROOTS
@pytest.mark.parametrize("name", ["one.parquet", "hats", "hats/", "", "table.fits"])
def test_rows_and_identity_are_those_of_the_same_files_here(
    root: str, root_url: Callable[[str], str], files: Path, name: str
) -> None:
    there = open_catalog(f"{root_url(root)}/{name}")
    here = open_catalog(files / name)
    assert there.num_rows == here.num_rows >= 2
    assert rows_of(there).equals(rows_of(here))
    assert there.identity() == here.identity()


def test_a_folder_of_a_bucket(bucket: str, files: Path) -> None:
    there, here = open_catalog(f"{bucket}/parts"), open_catalog(files / "parts")
    assert rows_of(there).equals(rows_of(here))
    assert there.identity() == here.identity()


def test_the_order_of_hats_is_that_of_the_sky(web: WebServer, files: Path) -> None:
    """Whatever the order of partition_info.csv; and a leaf that it does not name is not there."""
    expected = pq.read_table(files / "one.parquet")["object_id"].to_pylist()
    assert rows_of(open_catalog(f"{web.url}/hats"))["object_id"].to_pylist() == expected
    (files / "hats" / "partition_info.csv").write_text("Norder,Npix\n1,22\n1,20\n")
    found = rows_of(open_catalog(f"{web.url}/hats"))["object_id"].to_pylist()
    assert found == expected[:300] + expected[600:]


def test_hats_known_by_its_metadata_alone(web: WebServer, files: Path) -> None:
    """A web server has no lists: the names are in dataset/_metadata."""
    (files / "hats" / "partition_info.csv").unlink()
    footers = []
    for file in sorted((files / "hats" / "dataset").rglob("*.parquet")):
        footers.append(pq.read_metadata(file))
        footers[-1].set_file_path(file.relative_to(files / "hats" / "dataset").as_posix())
    schema = pq.read_schema(files / "one.parquet")
    pq.write_metadata(schema, files / "hats/dataset/_metadata", metadata_collector=footers)
    catalog = open_catalog(f"{web.url}/hats")
    assert rows_of(catalog).equals(rows_of(open_catalog(files / "hats")))


@ROOTS
def test_only_the_columns_that_are_needed_are_read(
    root: str, root_url: Callable[[str], str], files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    table = patch_of_sky(50_000)
    for number in range(20):
        table = table.append_column(f"x{number}", pa.array(rng.normal(size=50_000)))
    path = write(files / "wide.parquet", table, row_group_size=10_000)
    url = f"{root_url(root)}/wide.parquet"
    if root == "bucket":
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).put_file(str(path), url)
    read: list[int] = []
    for kind in (stores.WebServer, stores.ObjectStore):
        monkeypatch.setattr(kind, "read", _counted(kind.read, read))
    catalog = open_catalog(url)
    assert rows_of(catalog).num_rows == 50_000
    assert sum(read) < 0.3 * path.stat().st_size
    assert max(read) < 200_000  # a column of a row group, or a footer


def _counted(read: Callable[..., bytes], lengths: list[int]) -> Callable[..., bytes]:
    def counting(self: object, url: str, start: int, length: int) -> bytes:
        lengths.append(length)
        return read(self, url, start, length)

    return counting


def test_a_large_catalogue_is_known_by_its_footers(
    web: WebServer, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("survey_gampen.catalog.source._HASHED_WHOLE", 100)
    here, there = open_catalog(files / "hats"), open_catalog(f"{web.url}/hats")
    before = web.sent
    assert there.identity() == here.identity()
    assert web.sent == before
    assert open_catalog(files / "parts").identity() == here.identity()
    assert open_catalog(files / "one.parquet").identity() != here.identity()


def test_sorted_from_elsewhere(bucket: str, files: Path, tmp_path: Path) -> None:
    for name, place in (("a", f"{bucket}/hats"), ("b", files / "hats")):
        sort_catalog(open_catalog(place), tmp_path / name, tmp_path / ".staging")
    assert read_rows(tmp_path / "a", 0, 5).equals(read_rows(tmp_path / "b", 0, 5))


@ROOTS
def test_what_is_not_there(root: str, root_url: Callable[[str], str]) -> None:
    url = f"{root_url(root)}/nothing.parquet"
    with pytest.raises(InputError, match="nothing.parquet does not exist") as caught:
        open_catalog(url)
    one_line(caught)


def test_a_bucket_that_is_not_there(bucket: str) -> None:
    with pytest.raises(InputError, match="s3://no-such/c.parquet does not exist.*name.* of bucket"):
        open_catalog("s3://no-such/c.parquet")


def test_a_leaf_that_is_not_there(web: WebServer, files: Path) -> None:
    (files / "hats/dataset/Norder=1/Dir=0/Npix=21.parquet").unlink()
    for place in (f"{web.url}/hats", files / "hats"):
        with pytest.raises(InputError, match="Npix=21.parquet (does not exist|is missing)"):
            open_catalog(place)


def test_a_folder_of_a_web_server_has_no_list(web: WebServer) -> None:
    with pytest.raises(InputError, match="no list of its files; give the address of a Parquet"):
        open_catalog(f"{web.url}/parts")


@pytest.mark.parametrize("status", [401, 403])
def test_what_may_not_be_read(web: WebServer, status: int) -> None:
    web.statuses["/one.parquet"] = [status] * 9
    with pytest.raises(InputError, match=rf"may not be read \(HTTP {status}\)") as caught:
        open_catalog(f"{web.url}/one.parquet")
    one_line(caught)
    assert len(web.requests) == 1  # nothing gets better by asking again


@pytest.mark.parametrize("where", ["netrc", "environment"])
def test_a_password_where_it_is_asked_for(
    where: str, web: WebServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    web.login = "me:hunter2"
    monkeypatch.setenv("HOME", str(tmp_path))
    url = f"{web.url}/one.parquet"
    with pytest.raises(InputError, match="may not be read.*SURVEY_GAMPEN_CATALOG_USER") as caught:
        open_catalog(url)
    one_line(caught)
    if where == "netrc":
        (tmp_path / ".netrc").write_text("machine 127.0.0.1 login me password hunter2\n")
        (tmp_path / ".netrc").chmod(0o600)
    else:
        monkeypatch.setenv("SURVEY_GAMPEN_CATALOG_USER", "me")
        monkeypatch.setenv("SURVEY_GAMPEN_CATALOG_PASSWORD", "hunter2")
    assert rows_of(open_catalog(url)).num_rows == 900
    web.login = "me:another"
    with pytest.raises(InputError, match="may not be read") as caught:
        open_catalog(url)
    assert "hunter2" not in one_line(caught)


def test_a_password_goes_to_nobody_else(
    web: WebServer, files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not to where a server sends us on; and what is there may be signed, and is not shown."""
    monkeypatch.setenv("SURVEY_GAMPEN_CATALOG_USER", "me")
    monkeypatch.setenv("SURVEY_GAMPEN_CATALOG_PASSWORD", "hunter2")
    web.login = "me:hunter2"
    with WebServer(files) as other:
        web.moved["/own.parquet"] = f"{other.url}/one.parquet?X-Amz-Signature=hunter3"
        assert open_catalog(f"{web.url}/own.parquet").num_rows == 900
        assert web.told
        assert not other.told
        other.statuses["/one.parquet"] = [404] * 9
        with pytest.raises(InputError, match="own.parquet does not exist") as caught:
            open_catalog(f"{web.url}/own.parquet")
        assert "hunter" not in one_line(caught)


def test_wrong_keys(bucket: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(
        InputError, match=r"may not be read: name your keys by AWS_PROFILE"
    ) as caught:
        open_catalog(f"{bucket}/one.parquet")
    assert "hunter2" not in one_line(caught)


@pytest.mark.parametrize("statuses", [[503], [429, 500], [503, 502, 504]])
def test_trouble_that_passes(web: WebServer, statuses: list[int]) -> None:
    web.statuses["/one.parquet"] = statuses
    assert rows_of(open_catalog(f"{web.url}/one.parquet")).num_rows == 900


def test_trouble_that_stays(web: WebServer) -> None:
    web.statuses["/one.parquet"] = [503] * 99
    with pytest.raises(
        OutsideFault, match=r"one.parquet can't be read now: .* answers 503"
    ) as caught:
        open_catalog(f"{web.url}/one.parquet")
    one_line(caught)


def test_answers_that_break_off(web: WebServer, files: Path, tmp_path: Path) -> None:
    """Once is asked again; always is a fault that leaves nothing behind."""
    expected = rows_of(open_catalog(files / "one.parquet"))
    web.cut["/one.parquet"] = 2
    catalog = open_catalog(f"{web.url}/one.parquet")
    web.cut["/one.parquet"] = 2
    assert rows_of(catalog).equals(expected)
    web.cut["/one.parquet"] = 99
    out = tmp_path / "out"
    with pytest.raises(OutsideFault, match="can't be read now|bytes came instead of"):
        sort_catalog(catalog, out / "catalog", out / ".staging")
    assert not out.exists()


def test_a_fault_inside_of_arrow_is_still_ours(
    web: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A large file is read by Arrow through our ranges: the error comes through it."""
    monkeypatch.setattr("survey_gampen.catalog.files._SMALL", 0)
    catalog = open_catalog(f"{web.url}/one.parquet")
    assert rows_of(catalog).num_rows == 900
    web.statuses["/one.parquet"] = [503] * 99
    with pytest.raises(OutsideFault, match="answers 503"):
        rows_of(catalog)
    web.statuses["/one.parquet"] = [403] * 99
    with pytest.raises(InputError, match="HTTP 403"):
        rows_of(catalog)


def test_nobody_answers(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "PATIENCE", Patience(0.1, 0.01, 0.05))
    with WebServer(files) as server:
        url = server.url
    with pytest.raises(
        OutsideFault, match=r"127.0.0.1.*no answer \(Connection refused\)"
    ) as caught:
        open_catalog(f"{url}/one.parquet")
    one_line(caught)


def test_a_server_without_ranges(web: WebServer, files: Path) -> None:
    """Small files come as a whole; of a large one nothing is read that was not asked for."""
    web.ranges = False
    assert rows_of(open_catalog(f"{web.url}/one.parquet")).num_rows == 900
    write(files / "large.parquet", patch_of_sky(80_000))
    with pytest.raises(InputError, match="gives no parts of files; download it"):
        open_catalog(f"{web.url}/large.parquet")


def test_a_query_is_no_part_of_the_name(web: WebServer) -> None:
    for name in ("table.fits?download=1", "one.parquet?download=1"):
        assert open_catalog(f"{web.url}/{name}").num_rows in (2, 900)


def test_a_table_that_is_too_large(web: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("survey_gampen.catalog.tables.LARGEST_BYTES", 1000)
    with pytest.raises(InputError, match="too large for this kind of file; convert it to Parquet"):
        open_catalog(f"{web.url}/table.fits")


def test_an_unknown_kind_of_address() -> None:
    with pytest.raises(InputError, match="quux:// is unknown; give https:// or s3://"):
        open_catalog("quux://x/c.parquet")


def test_without_the_extra() -> None:
    """One line that says what to install, from the command itself."""
    code = "import sys; sys.modules['s3fs'] = None; from survey_gampen.cli import main\n"
    code += "sys.exit(main(['run', 's3://b/c.parquet', '--images', 'tiles']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert 'pip install "survey-gampen[remote]"' in done.stderr


def test_settings_of_a_catalogue_elsewhere(
    web: WebServer, files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OUT is here; what the catalogue says about images is meant beside the catalogue."""
    monkeypatch.chdir(tmp_path)
    text = b'images = "tiles"\nband = "i"\nout = "theirs"\n'
    table = patch_of_sky(9).replace_schema_metadata({METADATA_KEY: text})
    write(files / "own.parquet", table)
    settings = resolve({"catalog": f"{web.url}/own.parquet"})
    assert settings.catalog == f"{web.url}/own.parquet"
    assert (settings.images, settings.band) == (f"{web.url}/tiles", "i")
    assert settings.out == str(tmp_path / "theirs")
    settings = resolve({"catalog": f"{web.url}/hats/", "images": "tiles"})
    assert settings.out == str(tmp_path / "hats.gampen")
    assert settings.images == str(tmp_path / "tiles")


@pytest.mark.slow
def test_a_run_of_a_catalogue_elsewhere_is_the_same_run(
    web: WebServer, sky: Sky, calm: Path, tmp_path: Path
) -> None:
    """Published bytes and fingerprint are equal; and one goes on where the other stopped."""
    shutil.copy(sky.catalog, web.folder / "galaxies.parquet")
    url = f"{web.url}/galaxies.parquet"
    words = [url if word == str(sky.catalog) else word for word in sky.command(tmp_path / "run")]
    done = call(words)
    assert done.returncode == 0, done.stderr
    assert leaves(tmp_path / "run") == leaves(calm)
    assert url in (tmp_path / "run" / "run.toml").read_text()
    done = call(sky.command(tmp_path / "run"))
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "given",
    [
        {"catalog": "https://me:hunter2@127.0.0.1:1/c.parquet"},
        {"catalog": "https://127.0.0.1:1/c.parquet?X-Amz-Signature=hunter2"},
        {"catalog": "c.parquet", "images": "s3://me:hunter2@bucket/tiles"},
    ],
)
def test_secrets_are_refused_before_anything_is_written(
    given: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "c.parquet", patch_of_sky(3))
    monkeypatch.setattr(builtins, "print", None)
    with pytest.raises(InputError, match="take it out of the address") as caught:
        resolve({"images": "tiles", **given})
    assert "hunter2" not in one_line(caught)
    assert [path.name for path in tmp_path.iterdir()] == ["c.parquet"]


def test_no_secret_in_any_message(web: WebServer, caplog: pytest.LogCaptureFixture) -> None:
    """Whoever opens a catalogue by a signed address gets errors without its signature."""
    url = f"{web.url}/one.parquet?token=hunter2"
    web.statuses["/one.parquet"] = [404]
    with pytest.raises(InputError) as missing:
        open_catalog(url)
    web.statuses["/one.parquet"] = [503] * 99
    with pytest.raises(OutsideFault) as down:
        open_catalog(url)
    web.statuses.clear()
    catalog = open_catalog(url)
    for text in (str(missing.value), str(down.value), repr(catalog), caplog.text):
        assert "hunter2" not in text
    assert missing.value.__cause__ is None
