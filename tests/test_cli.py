"""The command line: what each verb passes on, and what is said when something is wrong."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from survey_gampen import errors
from survey_gampen.cli import main
from survey_gampen.config import Settings


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple]:
    """What reaches the runner, which is not started."""
    seen: list[tuple] = []

    def record(*args: object) -> int:
        seen.append(args)
        return 3

    for name, functions in {
        "run.runner": ("run", "resume", "compact"),
        "run.status": ("print_status",),
        "report.demo": ("main",),
        "report.verb": ("main",),
    }.items():
        fake = SimpleNamespace(**dict.fromkeys(functions, record))
        monkeypatch.setitem(sys.modules, f"survey_gampen.{name}", fake)
    return seen


def test_run_passes_every_option_on(
    tmp_path: Path, make_catalog: Callable[..., Path], calls: list[tuple]
) -> None:
    catalog = make_catalog()
    options = (
        "--survey generic --band r --model own.safetensors --cluster local --passes 20 --seed 4 "
        "--precision fp32 --partition-rows 50 --limit 9 --keep-samples --drop-cutouts "
        "--lossy 0.1 --columns z,mag --plan-only"
    ).split()
    out, images = str(tmp_path / "o"), str(tmp_path / "tiles")
    places = ["--out", out, "--images", images, "--select", "z < 1"]
    assert main(["run", str(catalog), *places, *options]) == 3
    assert calls == [
        (
            Settings(
                catalog=str(catalog),
                images=images,
                out=out,
                survey="generic",
                band="r",
                model=str(Path.cwd() / "own.safetensors"),
                cluster="local",
                passes=20,
                seed=4,
                precision="fp32",
                partition_rows=50,
                limit=9,
                select="z < 1",
                columns=("z", "mag"),
                keep_samples=True,
                keep_cutouts=False,
                lossy=0.1,
                plan_only=True,
            ),
        )
    ]


def test_a_flag_not_given_leaves_the_word_to_the_file(
    make_catalog: Callable[..., Path], calls: list[tuple], tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text('images = "t"\nkeep-samples = true\nkeep-cutouts = true\n')
    run = ["run", str(make_catalog()), "--config", str(config)]
    main(run)
    main([*run, "--no-keep-samples", "--drop-cutouts"])
    kept = [(settings.keep_samples, settings.keep_cutouts) for (settings,) in calls]
    assert kept == [(True, True), (False, False)]


def test_other_verbs(calls: list[tuple]) -> None:
    assert main(["resume", "o", "--cluster", "local", "--redo", "EDGE"]) == 3
    main(["resume", "o"])
    main(["status", "o", "--json"])
    main(["compact", "o"])
    main(["demo", "--out", "d"])
    main(["report", "o", "--out", "p.html"])
    o = "o"
    assert calls == [
        (o, "local", "EDGE"),
        (o, None, None),
        (o, True),
        (o,),
        (Path("d"),),
        (o, Path("p.html")),
    ]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.InputError("a column\nis missing"), 2),
        (errors.UnreadableFile("broken"), 3),
        (errors.OutsideFault("disk full"), 75),
        (errors.Interrupted("stopped"), 75),
    ],
)
def test_errors_are_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: Exception, code: int
) -> None:
    def fail(*_: object) -> int:
        raise error

    fake = SimpleNamespace(print_status=fail)
    monkeypatch.setitem(sys.modules, "survey_gampen.run.status", fake)
    assert main(["status", "o"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert re.fullmatch(r"survey-gampen: error: [^\n]+\n", err)
    assert " ".join(str(error).split()) in err


@pytest.mark.parametrize(
    ("error", "code", "said"),
    [
        (PermissionError(13, "Permission denied", "/private"), 2, "/private: Permission denied"),
        (NotADirectoryError(20, "Not a directory", "a/b"), 2, "a/b: Not a directory; give another"),
        (OSError(28, "No space left on device", "/full"), 75, "/full: No space left on device"),
    ],
)
def test_what_the_system_refuses_is_one_line_too(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: OSError,
    code: int,
    said: str,
) -> None:
    def fail(*_: object) -> int:
        raise error

    monkeypatch.setitem(sys.modules, "survey_gampen.run.status", SimpleNamespace(print_status=fail))
    assert main(["status", "o"]) == code
    assert said in capsys.readouterr().err


def test_an_interrupt_says_how_to_go_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(*_: object) -> int:
        raise KeyboardInterrupt

    fake = SimpleNamespace(print_status=interrupted)
    monkeypatch.setitem(sys.modules, "survey_gampen.run.status", fake)
    assert main(["status", "o"]) == 75
    assert "the same command goes on" in capsys.readouterr().err


def test_an_input_error_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["run", "none.parquet", "--images", "tiles"]) == 2
    assert "none.parquet: no such catalogue" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [[], ["ran"], ["run"], ["evaluate", "m", "d", "--out", "o", "--passes", "0"],
     ["simulate", "p", "--n", "-1", "--out", "o"], ["run", "c", "--pases", "3"],
     ["run", "c", "--passes", "many"], ["status", "x", "a\nb"],
     ["run", "c", "--keep-cutouts", "--drop-cutouts"]],
)  # fmt: skip
def test_usage_errors_exit_2(wrong: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(wrong)
    assert caught.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("survey-gampen: error: ")
    assert line.endswith(" --help")


def test_help_loads_nothing_heavy() -> None:
    code = (
        "import sys; from survey_gampen.cli import main\n"
        "try: main(['run', '--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'numpy', 'pyarrow', 'astropy', 'dask', 'distributed', 'zarr'}\n"
        "sys.exit(' '.join(heavy & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--partition-rows" in done.stdout


def test_every_verb_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    runs = "run resume status compact report inspect join"
    for verb in f"{runs} simulate train evaluate demo".split():
        with pytest.raises(SystemExit) as caught:
            main([verb, "--help"])
        assert caught.value.code == 0
        assert f"survey-gampen {verb}" in capsys.readouterr().out
