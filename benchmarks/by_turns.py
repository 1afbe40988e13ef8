"""A run and its bare engine by turns.

On a machine that is shared the speed may change by a factor of two within minutes, so what is
measured before and after a run says little about it. Here all processes of the run are stopped
every now and then, for a batch of the engine in processes that wait beside it.
"""

from __future__ import annotations

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
from numpy.typing import NDArray

from survey_gampen.cluster.local import process_environment
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.settings import EngineSettings
from survey_gampen.posterior.summary import summarise


@dataclass(frozen=True)
class Bare:
    """What the engine alone computes.

    Attributes
    ----------
    model : str
    settings : EngineSettings
    passes : int
        Of each galaxy.
    images : Path
        One batch of cutouts [nJy], .npy.
    keys : ndarray
        Keys of their galaxies.
    """

    model: str
    settings: EngineSettings
    passes: int
    images: Path
    keys: NDArray[np.uint64]

    @contextmanager
    def beside(self, processes: int) -> Iterator[Callable[[], float]]:
        """Have so many processes; what it yields has each compute a batch, and returns how many
        galaxies a second all did."""
        context = multiprocessing.get_context("spawn")
        asked, said = [context.Queue() for _ in range(processes)], context.Queue()
        children = [context.Process(target=self.compute, args=(each, said)) for each in asked]
        # As workers have it: their memory, too, is not given back after each batch.
        environment = process_environment(self.settings.threads, 0)
        with mock.patch.dict(os.environ, {k: str(v) for k, v in environment.items()}):
            for child in children:
                child.start()

        def answers() -> float:
            return float(sum(said.get(timeout=600) for _ in children))

        def batch() -> float:
            for each in asked:
                each.put(True)
            return answers()

        answers()  # all are ready
        try:
            yield batch
        finally:
            for each in asked:
                each.put(False)
            for child in children:
                child.join()

    def engine(self) -> Engine:
        """The engine."""
        return Engine(
            load_checkpoint(self.model), passes=self.passes, seed=0, **self.settings.to_dict()
        )

    def compute(self, asked: Any, said: Any) -> None:
        """In a process: a full batch that loads kernels, then one whenever it is asked for."""
        engine, images = self.engine(), np.load(self.images)
        summarise(engine.draws(images, self.keys))
        said.put(0.0)
        while asked.get():
            begun = time.perf_counter()
            summarise(engine.draws(images, self.keys))
            said.put(len(images) / (time.perf_counter() - begun))


@dataclass
class Run:
    """How the run went.

    Attributes
    ----------
    started, seconds : float
        When [s since 1970], and how long it took without its pauses [s].
    pauses : list of (float, float)
        When each of these began and ended [s since 1970].
    alone : list of float
        What the engines did in each [galaxies/s].
    """

    started: float
    seconds: float = 0.0
    pauses: list[tuple[float, float]] = field(default_factory=list)
    alone: list[float] = field(default_factory=list)

    def between(self, begin: float, end: float) -> float:
        """Seconds from `begin` to `end` [s since 1970] in which it was not stopped."""
        stopped = (min(end, b) - max(begin, a) for a, b in self.pauses)
        return end - begin - sum(max(0.0, each) for each in stopped)

    @property
    def alone_rate(self) -> float:
        """Galaxies a second of the engines, of equal batches."""
        return len(self.alone) / sum(1 / rate for rate in self.alone)


def run_by_turns(words: list[str], log: Path, every: float, batch: Callable[[], float]) -> Run:
    """Run a command, and stop all its processes for a `batch` of the engines every now and then.

    Parameters
    ----------
    words : list of str
    log : Path
        Its log of attempts: turns begin when a partition's inference does.
    every : float
        How long it runs at a time [s].
    batch : callable
        From :meth:`Bare.beside`.
    """
    found, until = Run(time.time()), math.inf
    with tempfile.TemporaryFile("w+") as told:
        process = subprocess.Popen(words, stdout=told, stderr=told, start_new_session=True)
        try:
            while process.poll() is None:
                time.sleep(0.2)
                if math.isinf(until) and log.exists() and " infer " in log.read_text():
                    until = time.perf_counter() + every
                if time.perf_counter() > until:
                    stopped = time.time()
                    os.killpg(process.pid, signal.SIGSTOP)
                    found.alone.append(batch())
                    os.killpg(process.pid, signal.SIGCONT)
                    until = time.perf_counter() + every
                    found.pauses.append((stopped, time.time()))
        finally:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
        told.seek(0)
        if process.returncode:
            sys.exit(f"the run failed:\n{told.read()}")
    found.seconds = found.between(found.started, time.time())
    if not found.alone:
        sys.exit(f"the run was over within {every:g} s: give a larger --n or --passes")
    return found
