"""How much memory a process took at most."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

# Not ru_maxrss, which a process inherits from the one that started it.
_TELL = """
import re, pathlib
status = pathlib.Path("/proc/self/status").read_text()
print(int(re.search(r"VmHWM:\\s*(\\d+) kB", status)[1]) / 1024)
"""


def peak_memory(code: str, *arguments: str | Path) -> float:
    """Peak resident memory [MiB] of a process that runs `code`; skips where nobody tells it."""
    if not Path("/proc/self/status").exists():
        pytest.skip("the peak memory of a process is read from Linux' /proc")
    command = [sys.executable, "-c", code + _TELL, *map(str, arguments)]
    return float(subprocess.run(command, capture_output=True, check=True).stdout)
