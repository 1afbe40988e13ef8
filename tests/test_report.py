"""Pictures come out, and show what they should."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from survey_gampen.model.targets import PARAMETERS
from survey_gampen.report.figures import (
    calibration_figure,
    coverage_figure,
    residual_figure,
    truth_figure,
)
from survey_gampen.report.gallery import Portrait, gallery
from tests.networks import make_images


def portrait(k: int, truth: bool = True) -> Portrait:
    rng = np.random.default_rng(k)
    draws = rng.normal([0.4, 1.2, 9000], [0.1, 0.1, 300], (500, 3)).astype(np.float32)
    return Portrait(
        name=f"{k}: mag {20 + k}",
        image=make_images(1, 119, seed=k)[0],
        crop=(0.5, 1.0, -0.5),
        draws=draws,
        truth=(0.45, 1.25, 9100.0) if truth else None,
    )


def is_picture(path: Path, width: int, height: int) -> np.ndarray:
    picture = imread(path)
    assert picture.shape[:2] == (height, width)
    assert np.ptp(picture[..., :3]) > 0.9  # black on white
    return picture


def red(picture: np.ndarray) -> int:
    """Pixels of the colour of the crop's frame."""
    frame = np.array([0xC4, 0x4E, 0x52]) / 255
    return int((np.abs(picture[..., :3] - frame).max(-1) < 0.1).sum())


def test_gallery(tmp_path: Path) -> None:
    gallery([portrait(0), portrait(1, truth=False), portrait(2)], tmp_path / "three.png")
    picture = is_picture(tmp_path / "three.png", 1210, round(2.3 * 3 * 110))
    assert red(picture) > 300
    gallery([portrait(0)], tmp_path / "one.png")
    assert 100 < red(is_picture(tmp_path / "one.png", 1210, 253)) < red(picture)


def test_gallery_of_odd_posteriors(tmp_path: Path) -> None:
    """All draws on one value, a blank cutout, a crop beyond the frame: drawn all the same."""
    odd = Portrait(
        name="odd",
        image=np.zeros((119, 119), np.float32),
        crop=(1.4, 4.0, 0.0),
        draws=np.full((20, 3), 1.0, np.float32),
    )
    gallery([odd], tmp_path / "odd.png")
    is_picture(tmp_path / "odd.png", 1210, 253)


@pytest.fixture
def measured() -> tuple[dict, dict, dict, np.ndarray]:
    rng = np.random.default_rng(0)
    magnitude = rng.uniform(15, 23, 400)
    truth = {"bt": rng.uniform(0, 1, 400), "r_e": rng.uniform(0.1, 5, 400)}
    truth["flux"] = 10 ** (0.4 * (31.4 - magnitude))
    spread = {"bt": 0.1, "r_e": 0.1, "flux": 0.05 * truth["flux"]}
    columns = {f"{p}_mode": truth[p] + spread[p] * rng.normal(size=400) for p in PARAMETERS}
    ranks = {p: rng.uniform(size=400) for p in PARAMETERS}
    return columns, truth, ranks, magnitude


def test_figures_of_an_evaluation(
    tmp_path: Path, measured: tuple[dict, dict, dict, np.ndarray]
) -> None:
    columns, truth, ranks, magnitude = measured
    residual_figure(columns, truth, magnitude, tmp_path / "residuals.png")
    is_picture(tmp_path / "residuals.png", 1320, 715)
    coverage_figure(*held(), ranks, magnitude, tmp_path / "coverage.png")
    is_picture(tmp_path / "coverage.png", 990, 473)
    truth_figure(columns, truth, magnitude, tmp_path / "truth.png")
    is_picture(tmp_path / "truth.png", 1320, 1045)


def held() -> tuple[np.ndarray, tuple[float, ...]]:
    """Whether intervals hold 400 truths, and their levels."""
    levels = (0.1, 0.5, 0.9)
    return np.random.default_rng(1).uniform(size=(400, 3, 3)) < np.array(levels)[:, None], levels


def test_figure_of_a_calibration(tmp_path: Path) -> None:
    one = {"coverage": [0.1, 0.6], "ranks": [20, 30, 50]}
    found = [
        {"rate": rate, "levels": [0.1, 0.5], "n": 100} | dict.fromkeys(PARAMETERS, one)
        for rate in (0.001, 0.1)
    ]
    calibration_figure(found, 0.1, tmp_path / "calibration.png")
    is_picture(tmp_path / "calibration.png", 1210, 682)


def test_figures_without_a_bright_galaxy(
    tmp_path: Path, measured: tuple[dict, dict, dict, np.ndarray]
) -> None:
    columns, truth, ranks, magnitude = measured
    faint = np.full_like(magnitude, 22.0)
    residual_figure(columns, truth, faint, tmp_path / "residuals.png")
    truth_figure(columns, truth, faint, tmp_path / "truth.png")
    coverage_figure(*held(), ranks, faint, tmp_path / "coverage.png")
    is_picture(tmp_path / "residuals.png", 1320, 715)
    is_picture(tmp_path / "coverage.png", 990, 473)
