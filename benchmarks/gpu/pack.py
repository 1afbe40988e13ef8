"""Pack what a GPU machine without internet lacks into one archive.

That is all that the package and its extra ``sim`` need, as far as this environment's packages tell
what they need in turn, but for what the machine is taken to have, `THERE`; at the versions of
``requirements.lock``. Wheels are unpacked, tests and debug symbols left out (GalSim's wheel is
55 MB, most of it symbols), and all goes into ``OUT/site.tar.xz``. There:

    mkdir -p /tmp/site && tar xJf OUT/site.tar.xz -C /tmp/site
    export PYTHONPATH=/tmp/site:$PWD

    python benchmarks/gpu/pack.py --out OUT [--python 3.12] [--also pyarrow rich ...]
"""

from __future__ import annotations

import argparse
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement

ROOT = Path(__file__).resolve().parents[2]
#: What machines for deep learning have.
THERE = frozenset(
    """
    aiohappyeyeballs aiohttp aiosignal attrs certifi charset-normalizer click cloudpickle contourpy
    cycler fonttools frozenlist fsspec idna jinja2 kiwisolver llvmlite markdown-it-py markupsafe
    matplotlib mdurl msgpack multidict narwhals numba numpy packaging pandas pillow propcache
    protobuf psutil pyarrow pygments pyparsing python-dateutil pyyaml requests rich safetensors
    scipy setuptools six sortedcontainers toolz torch typing-extensions tzdata urllib3 wrapt xarray
    yarl zipp
    """.split()
)
#: What reproject asks for, for images that are no FITS files, and does not import for ours.
UNUSED = frozenset("dask-image imageio pims pyavm slicerator tifffile".split())
#: Folders of a package that nothing here opens.
NEEDLESS = ("tests", "share/roman", "share/sensors", "share/sed", "share/bandpass", "include")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(17, 36)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64"]


def locked_versions() -> dict[str, str]:
    """Version of each package in the lock file, by its name in small letters and dashes."""
    pairs = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.M)
    return {plain(name): version for name, version in pairs}


def needed(python: str) -> set[str]:
    """Names of all packages that this one and its extra ``sim`` need, and what these need."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    todo = [*project["dependencies"], *project["optional-dependencies"]["sim"]]
    found: dict[str, set[str]] = {}  # with the extras that were asked for
    while todo:
        requirement = Requirement(todo.pop())
        name, extras = plain(requirement.name), requirement.extras | {""}
        new = extras - found.get(name, set())
        found.setdefault(name, set()).update(new)
        if name == "torch" or not new:  # torch names CUDA's packages
            continue
        for line in metadata.requires(name) or ():
            marker = Requirement(line).marker
            where = [{"extra": extra, "python_version": python} for extra in new]
            if marker is None or any(marker.evaluate(one) for one in where):
                todo.append(line)
    return set(found)


def plain(name: str) -> str:
    """A package's name as all of its spellings have it."""
    return re.sub(r"[-_.]+", "-", name).lower()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, required=True, help="folder for site.tar.xz")
    parser.add_argument("--python", default="3.12", help="Python of the GPU machine")
    parser.add_argument("--also", nargs="*", default=[], help="packages it lacks besides")
    args = parser.parse_args()
    versions = locked_versions()
    names = (needed(args.python) - THERE - UNUSED) | {plain(name) for name in args.also}
    wanted = [f"{name}=={versions[name]}" for name in sorted(names)]
    with tempfile.TemporaryDirectory() as folder:
        wheels, site = Path(folder) / "wheels", Path(folder) / "site"
        download(wanted, args.python, wheels)
        for wheel in sorted(wheels.glob("*.whl")):
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(site)
        slim(site)
        args.out.mkdir(parents=True, exist_ok=True)
        packed = args.out / "site.tar.xz"
        with tarfile.open(packed, "w:xz", preset=6) as archive:
            for path in sorted(site.iterdir()):
                archive.add(path, path.name)
        unpacked = sum(p.stat().st_size for p in site.rglob("*") if p.is_file())
    size = packed.stat().st_size
    print(f"{packed}: {size / 2**20:.1f} MiB ({unpacked / 2**20:.0f} MiB unpacked)")
    return 0


def download(wanted: list[str], python: str, folder: Path) -> None:
    """Fetch wheels for the GPU machine with pip."""
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary=:all:", "--implementation", "cp", "--python-version", python]
    for platform in PLATFORMS:
        command += ["--platform", platform]
    subprocess.run([*command, "--dest", str(folder), *wanted], check=True)


def slim(site: Path) -> None:
    """Take out what nothing here opens."""
    for path in sorted(site.rglob("*")):
        inside = path.relative_to(site).as_posix()
        if inside == "astropy/tests":  # not tests of its own, but tools that it imports
            continue
        if path.is_dir() and any(inside.endswith("/" + name) for name in NEEDLESS):
            shutil.rmtree(path)
    libraries = [str(p) for p in site.rglob("*") if ".so" in p.suffixes and p.is_file()]
    subprocess.run(["strip", "--strip-debug", *libraries], check=True)


if __name__ == "__main__":
    sys.exit(main())
