"""A command under watch: where a secret of its turns up that must turn up nowhere."""

from __future__ import annotations

import base64
import contextlib
import os
import subprocess
import threading
from pathlib import Path
from urllib.parse import quote

import psutil
from smallrun import environment


def forms(secret: str, user: str = "") -> list[bytes]:
    """All spellings that a secret may be written in."""
    pair = f"{user}:{secret}".encode()
    spelled = [secret.encode(), base64.b64encode(pair), base64.b64encode(secret.encode())]
    spelled += [quote(secret).encode(), repr(secret)[1:-1].encode("ascii", "backslashreplace")]
    return [each.rstrip(b"=") for each in spelled]


def found_in(folder: Path, words: list[bytes]) -> list[Path]:
    """Files that hold one of some words, in their content or in their name."""
    found = []
    for root, folders, files in os.walk(folder):
        for path in (Path(root, name) for name in (*folders, *files)):
            content = b""
            with contextlib.suppress(OSError):  # a run at work makes and removes them
                content = path.read_bytes() if path.is_file() else b""
            if any(word in content or word in str(path).encode() for word in words):
                found.append(path)
    return found


class Watched:
    """A command run to its end.

    Home and temporary files are in its working folder too, so that nothing of its is elsewhere.

    Parameters
    ----------
    words : list of str
        The command.
    more : dict of str to str
        Of its environment.
    cwd : Path
        Working folder.
    hidden : list of bytes
        Must turn up nowhere.

    Attributes
    ----------
    out, err : str
        What it said.
    code : int
        Its exit code.
    called : set of bytes
        Command lines of the processes that there were.
    leaks : list of str
        Where one of the hidden words was: in what was said, in command lines of any process, in
        files of the folder, while it ran and afterwards.
    """

    def __init__(
        self, words: list[str], more: dict[str, str], cwd: Path, hidden: list[bytes]
    ) -> None:
        self.called: set[bytes] = set()
        self._files: set[Path] = set()
        self._cwd, self._hidden = cwd, hidden
        own = {"HOME": cwd / "home", "TMPDIR": cwd / "temporary"}
        for folder in own.values():
            folder.mkdir(exist_ok=True)
        process = subprocess.Popen(
            words,
            env={**environment(), **{key: str(path) for key, path in own.items()}, **more},
            cwd=cwd,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        ended = threading.Event()
        thread = threading.Thread(target=self._look, args=(ended,))
        thread.start()
        try:
            self.out, self.err = process.communicate(timeout=400)
        finally:
            process.kill()
            ended.set()
            thread.join()
        self.code = process.returncode

    def _look(self, ended: threading.Event) -> None:
        while not ended.wait(0.1):
            for pid in psutil.pids():
                with contextlib.suppress(OSError):
                    self.called.add(Path(f"/proc/{pid}/cmdline").read_bytes())
            self._files.update(found_in(self._cwd, self._hidden))

    @property
    def leaks(self) -> list[str]:
        said = {"stdout": self.out.encode(), "stderr": self.err.encode()}
        said |= {f"command line {number}": line for number, line in enumerate(self.called)}
        places = [
            place for place, text in said.items() if any(word in text for word in self._hidden)
        ]
        files = self._files | set(found_in(self._cwd, self._hidden))
        return [*places, *map(str, sorted(files))]
