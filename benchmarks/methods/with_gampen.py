"""This package: Monte-Carlo dropout of a shipped network, a group of galaxies at once."""

from __future__ import annotations

import numpy as np

from methods.problem import QUANTITIES, Answer, Problem, answered
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.posterior.engine import Engine
from survey_gampen.posterior.sizing import resolve_engine
from survey_gampen.posterior.summary import summarise

NAME = "survey-gampen"


def engine(model: str, passes: int, group: int, threads: int) -> Engine:
    """As a run of the package resolves it."""
    checkpoint = load_checkpoint(model)
    settings = resolve_engine(checkpoint, group, device="cpu", threads=threads)
    return Engine(checkpoint, passes=passes, seed=0, **settings.to_dict())


def fit(ready: Engine, problems: list[Problem], first: int) -> list[Answer | None]:
    """Modes and 68 % intervals of galaxies numbered from `first`."""
    images = np.stack([p.image for p in problems]).astype(np.float32)
    keys = np.arange(first, first + len(problems), dtype=np.uint64)
    columns = summarise(ready.draws(images, keys))
    ends = [
        np.stack([columns[f"{q}_{end}"] for q in QUANTITIES], axis=1)
        for end in ("mode", "ci68_lo", "ci68_hi")
    ]
    found = (answered(*row) for row in zip(*ends, strict=True))
    return [answer if np.isfinite(answer["bt"][0]) else None for answer in found]
