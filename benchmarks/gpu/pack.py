"""Pack what a GPU machine without internet lacks into one archive.

The machine is taken to have Python with torch, numpy, scipy, matplotlib, pyarrow, rich, psutil,
PyYAML, fsspec, toolz, cloudpickle, click, packaging, safetensors and typing_extensions; all that
the training needs besides is in `PACKAGES`, at the versions of ``requirements.lock``. Wheels are
unpacked, tests and debug symbols left out (GalSim's wheel is 55 MB, most of it symbols), and all
goes into ``OUT/site.tar.xz``. There:

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
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "astropy",
    "astropy-iers-data",
    "dask",
    "donfig",
    "GalSim",
    "google-crc32c",
    "locket",
    "LSSTDESC.Coord",
    "numcodecs",
    "partd",
    "protobuf",
    "pyerfa",
    "tensorboardX",
    "tomli_w",
    "zarr",
)
#: Folders of a package that a training never opens.
NEEDLESS = ("tests", "share/roman", "share/sensors", "share/sed", "share/bandpass", "include")
PLATFORMS = [f"manylinux_2_{minor}_x86_64" for minor in range(17, 36)]
PLATFORMS += ["manylinux2014_x86_64", "manylinux1_x86_64"]


def locked_versions() -> dict[str, str]:
    """Version of each package in the lock file, by its name in small letters and dashes."""
    pairs = re.findall(r"^([\w.-]+)==([^\s;]+)", (ROOT / "requirements.lock").read_text(), re.M)
    return {plain(name): version for name, version in pairs}


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
    wanted = [f"{name}=={versions[plain(name)]}" for name in (*PACKAGES, *args.also)]
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
    """Take out what a training never opens."""
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
