"""An object store keeps the promises of a folder: whole, once, one client, the same bits."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import threading
import uuid
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import zarr
from smallrun import Sky, call, command, environment, leaves, rows, verb, wait_for

from survey_gampen import commit, storage
from survey_gampen.cli import main
from survey_gampen.errors import InputError, Interrupted, OutsideFault
from survey_gampen.outside import outside_fault
from survey_gampen.posterior.samples import read_samples
from survey_gampen.run.claim import Claim, holder_of
from survey_gampen.run.claimfile import myself
from survey_gampen.run.folder import folder
from survey_gampen.run.layout import RunDir
from survey_gampen.storage import put


@pytest.fixture
def place(bucket: str) -> Path:
    """A place of its own for each test."""
    return storage.at(f"{bucket}/{uuid.uuid4().hex}")


def write_text(text: str) -> commit.Writer:
    return lambda path: path.write_text(text) and None


def test_of_many_publishers_one_wins(place: Path, tmp_path: Path) -> None:
    won = []

    def publish(letter: str) -> None:
        if commit.publish(place / "leaf", write_text(letter * 9), lambda path: None, tmp_path):
            won.append(letter)

    threads = [threading.Thread(target=publish, args=(letter,)) for letter in "abcdefgh"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert (place / "leaf").read_text() == won[0] * 9
    assert not list(tmp_path.iterdir())


def test_who_did_not_hear_that_it_won_finds_out(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = storage.filesystem(place)
    put, asked = there.pipe_file, []

    def answer_lost(*args: object, **options: object) -> None:
        asked.append(args)
        put(*args, **options)
        put(*args, **options)  # as the library asks again

    monkeypatch.setattr(there, "pipe_file", answer_lost)
    assert storage.create(place / "claim", b"mine")
    assert not storage.create(place / "claim", b"another's")
    assert len(asked) == 2
    assert (place / "claim").read_bytes() == b"mine"


def answered(status: int) -> OSError:
    """As s3fs makes it of an answer without a word that it knows."""
    error = OSError(errno.EINVAL, "At least one of the pre-conditions did not hold")
    cause = RuntimeError()
    cause.response = {"ResponseMetadata": {"HTTPStatusCode": status}}  # type: ignore[attr-defined]
    error.__cause__ = cause
    return error


def test_a_store_that_does_not_say_which_condition(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = storage.filesystem(place)
    put = there.pipe_file

    def refuse(*args: object, **options: object) -> None:
        try:
            put(*args, **options)
            return
        except FileExistsError:
            pass
        raise answered(412)

    monkeypatch.setattr(there, "pipe_file", refuse)
    storage.check_store(place)
    assert storage.create(place / "claim", b"mine")
    assert not storage.create(place / "claim", b"another's")


def test_of_two_requests_that_meet_one_is_made_again(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    there, answers = storage.filesystem(place), [answered(409), answered(409)]
    put = there.pipe_file

    def meet(*args: object, **options: object) -> None:
        if answers:
            raise answers.pop()
        put(*args, **options)

    monkeypatch.setattr(there, "pipe_file", meet)
    monkeypatch.setattr(storage, "_MEETING_SECONDS", (0.0, 0.0))
    assert storage.create(place / "claim", b"mine")
    answers += [answered(409)] * 3
    with pytest.raises(OSError, match="pre-conditions"):
        storage.create(place / "another", b"mine")


def test_what_does_not_read_back_is_not_published(place: Path, tmp_path: Path) -> None:
    def check(path: Path) -> None:
        raise ValueError("other bytes")

    with pytest.raises(OutsideFault, match="does not read back"):
        commit.publish(place / "leaf", write_text("x"), check, tmp_path)
    assert not (place / "leaf").exists()


def test_a_group_says_that_it_is_whole_when_it_is(
    place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(folder: Path) -> None:
        group = zarr.open_group(folder, mode="w")
        group.create_array("image", data=np.arange(6.0))
        group.attrs["complete"] = True

    def stop(source: Path, final: Path) -> None:
        raise OSError("killed")

    final = place / "group.zarr"
    with monkeypatch.context() as patch:
        patch.setattr(storage, "put", stop)
        with pytest.raises(OSError, match="killed"):
            commit.publish_dir(final, write, tmp_path)
    assert final.exists()
    with pytest.raises(FileNotFoundError):
        zarr.open_group(storage.zarr_store(final), mode="r")
    storage.remove_tree(final)
    assert not final.exists()
    assert commit.publish_dir(final, write, tmp_path)
    assert not commit.publish_dir(final, write, tmp_path)
    group = zarr.open_group(storage.zarr_store(final), mode="r")
    assert group.attrs["complete"]
    assert group["image"][:].tolist() == [0, 1, 2, 3, 4, 5]


def test_one_client_at_a_time(place: Path) -> None:
    run = RunDir(place)
    for number in range(1, 4):
        with Claim(run) as claim:
            assert claim.token.startswith(f"{number:06d}-")
            holder = holder_of(run)
            assert holder is not None
            assert holder[0].pid == os.getpid()
            with pytest.raises(InputError, match=f"in use by pid {os.getpid()}"):
                Claim(run).__enter__()
    assert holder_of(run) is None
    assert len(storage.names_in(run.claims)) == 2


def test_where_the_folder_was_removed_numbers_begin_again(place: Path) -> None:
    run = RunDir(place)
    for _ in range(2):  # the second closes what the first had on this machine
        with Claim(run):
            pass
    storage.remove_tree(place)
    with Claim(run) as again:
        assert run.staging(again.token).is_dir()


def test_a_store_that_goes_away_ends_no_claim(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Gone(Exception):
        """As those of botocore, no OSError."""

    def gone(*_: object, **__: object) -> None:
        raise Gone

    with Claim(RunDir(place)) as claim:
        corner = RunDir(place).staging(claim.token)
        monkeypatch.setattr(type(place), "iterdir", gone)
        monkeypatch.setattr(type(place), "is_dir", gone)
        assert claim.is_held()
    assert not corner.exists()


def test_a_client_that_is_silent_is_followed_and_notices(place: Path) -> None:
    run = RunDir(place)
    elsewhere = replace(myself(), host="another")
    storage.create(run.claims / "000001.json", json.dumps(asdict(elsewhere)).encode())
    with pytest.raises(InputError, match="another"):
        Claim(run).__enter__()
    with Claim(run, beat=0.05, stale=-1.0) as late:
        assert late.token.startswith("000002-")
        storage.create(run.claims / "000003.json", json.dumps(asdict(elsewhere)).encode())
        assert late.lost.wait(20)
        with pytest.raises(Interrupted, match="taken over"):
            late.check()


def test_a_store_without_the_condition_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(storage, "create", lambda final, data: True)
    with pytest.raises(InputError, match="If-None-Match"):
        storage.check_store(place)


@pytest.mark.parametrize(
    ("address", "words"),
    [
        ("gs://bucket/run", "s3://"),
        ("s3://key:secret@bucket/run", "environment"),
        ("s3://", "names no bucket"),
        ("s3:///run", "names no bucket"),
    ],
)
def test_addresses_that_are_refused(address: str, words: str) -> None:
    with pytest.raises(InputError, match=words) as refused:
        storage.at(address)
    assert "secret" not in str(refused.value)


def test_a_bucket_that_is_not_there(sky: Sky, bucket: str) -> None:
    done = call(sky.command(f"{bucket}-of-nobody/run"))
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "bucket" in done.stderr


def test_the_probe_of_a_client_that_was_killed_is_no_other_thing(place: Path) -> None:
    storage.create(place / f"{storage.PROBE}0", b"")
    with folder(place) as run:
        assert run.root == place
    storage.create(place / "notes.txt", b"")
    with pytest.raises(InputError, match="other things"), folder(place):
        pass


@pytest.mark.parametrize(
    "words", [["status"], ["resume"], ["compact"], ["report"], ["run", "x.csv", "--images", "."]]
)
def test_keys_that_are_missing_are_told_in_one_line(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    s3fs = pytest.importorskip("s3fs")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("object_id,ra,dec\n1,2,3\n")
    out = ["s3://bucket/run"] if len(words) == 1 else ["--out", "s3://bucket/run"]
    s3fs.S3FileSystem.clear_instance_cache()  # those of before have keys
    try:
        assert main([*words, *out]) == 2
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert "no keys for the object store" in told[0]


@pytest.mark.parametrize(
    ("variables", "said"),
    [
        ({"AWS_ENDPOINT_URL": "garbage"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "https://me:endpoint-secret@"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://[::1"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "ftp://example.org"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://me:endpoint-secret@127.0.0.1:987654"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL": "http://me:endpoint-secret@127.0.0.1:9"}, "AWS_ENDPOINT_URL"),
        ({"AWS_ENDPOINT_URL_S3": "http://me:endpoint-secret@127.0.0.1:9"}, "AWS_ENDPOINT_URL_S3"),
        ({"AWS_ENDPOINT_URL": "", "AWS_DEFAULT_REGION": "no region!"}, "AWS_REGION"),
        ({"AWS_RETRY_MODE": "sometimes"}, "AWS_"),
        ({"AWS_MAX_ATTEMPTS": "many"}, "AWS_"),
        ({"AWS_REQUEST_CHECKSUM_CALCULATION": "maybe"}, "AWS_"),
        ({"AWS_CONFIG_FILE": "/proc/self/status"}, "AWS_"),
        ({"AWS_PROFILE": "nobody"}, "AWS_PROFILE"),
        ({"AWS_ACCESS_KEY_ID": "only-half", "AWS_SECRET_ACCESS_KEY": ""}, "AWS_"),
    ],
)
@pytest.mark.parametrize("what", ["output", "catalogue", "images"])
def test_settings_of_stores_that_make_no_sense(
    variables: dict[str, str],
    said: str,
    what: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
) -> None:
    s3fs = pytest.importorskip("s3fs")
    if what == "images" and "AWS_MAX_ATTEMPTS" in variables:
        pytest.skip("images are asked for with a patience of their own")
    usual = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "testing",
        "AWS_SECRET_ACCESS_KEY": "testing-secret",
        "AWS_EC2_METADATA_DISABLED": "true",
    }
    for name, value in {**usual, **variables}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "x.csv").write_text("object_id,ra,dec\n1,2,3\n")
    words = {
        "output": ["status", "s3://bucket/run"],
        "catalogue": ["run", "s3://bucket/x.parquet", "--images", ".", "--out", "run"],
        "images": ["run", "x.csv", "--images", "s3://bucket/tiles", "--out", "run"],
    }
    s3fs.S3FileSystem.clear_instance_cache()
    try:
        assert main(words[what]) == 2
    finally:
        s3fs.S3FileSystem.clear_instance_cache()
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 1
    assert said in told[0]
    assert "secret" not in told[0]


def test_what_is_on_its_way_is_for_its_owner_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    root = Path("anywhere")
    before = os.umask(0)
    try:
        folder = storage.scratch(root).parent
    finally:
        os.umask(before)
    assert folder == tmp_path / f"survey-gampen-{os.getuid()}"
    assert folder.stat().st_mode & 0o777 == 0o700
    folder.chmod(0o755)  # as an earlier version made it
    storage.scratch(root)
    assert folder.stat().st_mode & 0o777 == 0o700
    with monkeypatch.context() as patch:
        patch.setattr(os, "getuid", lambda: os.geteuid() + 1)
        (tmp_path / f"survey-gampen-{os.getuid()}").mkdir()
        with pytest.raises(InputError, match="somebody else's, or a link: set TMPDIR"):
            storage.scratch(root)
    folder.rename(tmp_path / "mine")
    folder.symlink_to(tmp_path / "mine")
    with pytest.raises(InputError, match="somebody else's, or a link: set TMPDIR"):
        storage.scratch(root)
    folder.unlink()
    folder.write_text("")
    with pytest.raises(InputError, match="somebody else's, or a link"):
        storage.scratch(root)


def test_keys_that_expire_are_nobodys_fault() -> None:
    error = PermissionError("The provided token has expired.")
    error.__cause__ = RuntimeError()
    error.__cause__.response = {"Error": {"Code": "ExpiredToken"}}  # type: ignore[attr-defined]
    assert "get new keys" in str(outside_fault(error))


@pytest.mark.slow
def test_a_run_killed_twice_equals_the_local_one(
    sky: Sky, calm: Path, place: Path, tmp_path: Path
) -> None:
    """Catalogue, images and output in the store, and the workers know of nothing else."""
    put(sky.catalog, place / "in" / sky.catalog.name)
    for tile in sky.images.iterdir():
        put(tile, place / "in" / "images" / tile.name)
    place, given = place / "run", place / "in"
    words = command(
        str(given / sky.catalog.name),
        str(given / "images"),
        sky.model,
        str(place),
        *("--partition-rows", "4", "--keep-samples"),
    )
    dataset = place / "posteriors" / "dataset"

    def published() -> int:
        return len(list(dataset.glob("Norder=*/Dir=*/Npix=*.parquet")))

    for least in (1, 4):
        client = subprocess.Popen(
            words, env=environment(), start_new_session=True, stdout=subprocess.DEVNULL
        )
        wait_for(lambda least=least: published() >= least, client)
        assert client.poll() is None, "the run was over before it was killed"
        os.killpg(client.pid, signal.SIGKILL)
        client.wait()
    done = verb("resume", str(place))
    assert done.returncode == 0, done.stderr
    assert rows(place).equals(rows(calm))
    assert leaves(place).keys() == leaves(calm).keys()
    for group in (calm / "samples").iterdir():
        here, there = read_samples(group), read_samples(place / "samples" / group.name)
        assert here[0].tolist() == there[0].tolist()
        np.testing.assert_array_equal(here[1], there[1])
    told = json.loads(verb("status", str(place), "--json").stdout)
    assert told["state"] == "complete"
    assert verb("compact", str(place)).returncode == 0
    assert rows(place).equals(rows(calm))
    assert verb("report", str(place), "--out", str(tmp_path / "page.html")).returncode == 0


@pytest.mark.slow
def test_a_store_that_is_gone_is_nobodys_fault(sky: Sky) -> None:
    nobody = {**environment(), "AWS_ENDPOINT_URL": "http://127.0.0.1:9"}
    keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing-secret"}
    words = [sys.executable, "-m", "survey_gampen.cli", "status", "s3://survey/run"]
    done = subprocess.run(words, env=nobody | keys, capture_output=True, text=True, timeout=300)
    assert done.returncode == 75, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert "testing-secret" not in done.stderr
