"""Is there room for what the plan will write? Asked before the first partition."""

from __future__ import annotations

import getpass
import os
import shutil
import subprocess
from pathlib import Path

from survey_gampen import storage
from survey_gampen.errors import OutsideFault
from survey_gampen.run.layout import RunDir
from survey_gampen.run.progress import size
from survey_gampen.run.spec import RunSpec

#: From this much on, cutouts are dropped once their posteriors are published, unless the user
#: says that they stay. 440 000 galaxies of 239 pixels a side.
DROP_ABOVE = 100e9
#: A published row: 63 numbers, position, flags, and what was passed through.
ROW_BYTES = 500


def cutout_bytes(pixels: int, bands: int = 1) -> int:
    """Return the bytes of one float32 cutout; lossless compression of noise saves little."""
    return 4 * bands * pixels**2


def cutout_of(spec: RunSpec) -> int:
    """Return the bytes of one galaxy's cutout in a run, all bands together."""
    return cutout_bytes(spec.size, len(spec.settings.image_bands))


def needed(spec: RunSpec, rows: int, rows_to_cut: int, rows_at_once: int) -> float:
    """Return the bytes that the rest of a run will write.

    Parameters
    ----------
    spec : RunSpec
    rows : int
        Galaxies not yet published.
    rows_to_cut : int
        Those of them whose cutouts are not there.
    rows_at_once : int
        Galaxies in the works at one time: what lies on the disk where cutouts are dropped.
    """
    kept = rows_to_cut if spec.plan.keep_cutouts else min(rows_to_cut, rows_at_once)
    draws = 3 * 2 * spec.settings.passes if spec.settings.keep_samples else 0
    return float(kept * cutout_of(spec) + rows * (ROW_BYTES + draws))


def check_run(run: RunDir, spec: RunSpec, rows: int, rows_to_cut: int, rows_at_once: int) -> None:
    """Compare what the rest of a run will write with the room there is; see :func:`needed`.

    What an object store has left nobody can say: there it is the cutouts on their way to it, on
    this machine's disk.

    Raises
    ------
    OutsideFault
        Where it is not enough.
    """
    if storage.is_remote(run.root):
        run.staging_root.mkdir(parents=True, exist_ok=True)
        on_the_way = min(rows_to_cut, rows_at_once) * float(cutout_of(spec))
        check_space(run.staging_root, on_the_way, can_drop=False)
    else:
        wanted = needed(spec, rows, rows_to_cut, rows_at_once)
        check_space(run.root, wanted, can_drop=spec.plan.keep_cutouts)


def check_space(folder: Path, wanted: float, can_drop: bool) -> None:
    """Compare what will be written with what is free, quota included where it can be asked.

    Raises
    ------
    OutsideFault
        Where it is not enough; the run can go on when it is.
    """
    free = free_bytes(folder)
    if wanted > free:
        drop = " or add --drop-cutouts" if can_drop else ""
        raise OutsideFault(
            f"{folder}: about {size(wanted)} are still to be written and {size(free)} are free: "
            f"make room{drop}, then run the same command again"
        )


def free_bytes(folder: Path) -> float:
    """Return the bytes that this user may still write in a folder."""
    quota = _quota_left(folder)
    free = float(shutil.disk_usage(folder).free)
    return free if quota is None else min(free, quota)


def _quota_left(folder: Path) -> float | None:
    """Return what the user's quota leaves on the file system of `folder`, None if unknown."""
    program = shutil.which("quota")
    if program is None:
        return None
    options = ["--no-wrap", "--raw-grace", "--show-mntpoint", "--hide-device"]
    try:
        done = subprocess.run(
            [program, *options, "-u", getpass.getuser()],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    mount = _mount_of(folder)
    for line in done.stdout.splitlines():
        words = line.split()
        # mount point, blocks of 1 kiB used, soft limit, hard limit (0: none), grace, files ...
        if len(words) >= 4 and words[0] == mount and words[3].isdigit() and int(words[3]):
            return max(0.0, 1024.0 * (int(words[3]) - int(words[1].rstrip("*"))))
    return None


def _mount_of(folder: Path) -> str:
    path = folder.resolve()
    while not os.path.ismount(path):
        path = path.parent
    return str(path)
