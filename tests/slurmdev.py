"""A real Slurm on this machine, for tests marked `slurm`."""

from __future__ import annotations

import os
import subprocess
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import psutil
from smallrun import environment, leaves

ROOT = Path(__file__).resolve().parent.parent
HOME = Path("/tmp/gampen-slurm-test")
NODES = 3


class Slurm:
    """The cluster of `cluster/slurm/up`, and what a user sees of it."""

    def __init__(self) -> None:
        self.settings = {
            "GAMPEN_SLURM": str(HOME),
            "GAMPEN_NODES": str(NODES),
            "GAMPEN_GPUS": "2",
            "GAMPEN_PORT": "28817",
        }
        self.up()
        os.environ["SLURM_CONF"] = str(HOME / "etc" / "slurm.conf")
        os.environ["PATH"] += ":/usr/sbin:/sbin"

    def up(self) -> None:
        """Start what is not running."""
        self._script("up")

    def down(self) -> None:
        """End it."""
        self._script("down")

    def _script(self, name: str) -> None:
        script = ROOT / "cluster" / "slurm" / name
        environment = {**os.environ, **self.settings}
        done = subprocess.run(
            [script], env=environment, capture_output=True, text=True, timeout=600, check=False
        )
        assert done.returncode == 0, done.stderr

    def profile(self, folder: Path, **keys: object) -> tuple[Path, str]:
        """A profile of small jobs, and the name that only they have."""
        name = f"test-{uuid.uuid4().hex[:8]}"
        settings = {
            "kind": "slurm",
            "name": name,
            "workers": 3,
            "threads": 1,
            "memory": "1 GiB",
            "walltime": '"00:20:00"',
            "interface": "lo",
            "dashboard_port": 0,
            "patience": 10,
        }
        lines = (f"{key}: {value}\n" for key, value in (settings | keys).items())
        path = folder / f"{name}.yaml"
        path.write_text("".join(lines))
        return path, name

    def jobs(self, name: str, *states: str) -> list[str]:
        """Ids of the jobs of a name that wait or run."""
        words = ["squeue", "-h", "-n", name, "-o", "%A", "-S", "i"]
        if states:
            words += ["-t", ",".join(states)]
        return self.ask(*words).split()

    def ask(self, *words: str) -> str:
        """Output of a command of Slurm, once it answers."""
        for _ in range(30):
            done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
            if done.returncode == 0:
                return done.stdout
            time.sleep(1)
        raise AssertionError(done.stderr)

    def processes(self, job: str) -> list[psutil.Process]:
        """Processes of a job in which tasks are done."""
        found = []
        for process in psutil.process_iter():
            try:
                mine = process.environ().get("SLURM_JOB_ID") == job
                if mine and "spawn_main" in " ".join(process.cmdline()):
                    found.append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue
        return found


class Client:
    """A run on Slurm, in a process of its own."""

    def __init__(self, slurm: Slurm, words: list[str], out: Path, name: str) -> None:
        self.slurm, self.out, self.name = slurm, out, name
        self.process = subprocess.Popen(
            words, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def published(self, more: int) -> None:
        """Wait until so many partitions more are published."""
        before = len(leaves(self.out))
        until(lambda: len(leaves(self.out)) >= before + more or self.process.poll() is not None)
        assert self.process.poll() is None, self.process.communicate()[0]


def until(condition: Callable[[], object], seconds: float = 600) -> None:
    """Wait for something to come true."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "nothing happened"
        time.sleep(0.2)
