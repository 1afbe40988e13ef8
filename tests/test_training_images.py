"""Training images are fair draws of the population, in memory or from the disk."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from survey_gampen.errors import InputError, OutsideFault
from survey_gampen.simulation import simulate
from survey_gampen.simulation.population import Population
from survey_gampen.training import data as data_module
from survey_gampen.training import memory
from survey_gampen.training import parts as parts_module
from survey_gampen.training.data import moved, turned
from survey_gampen.training.parts import PartsSet
from tests.smallsim import SIZE, N, inline

ADU = Population.load("hsc-wide").unit  # in nJy

pytest.importorskip("galsim", exc_type=ImportError)


class FixedLight(Population):
    """A population whose galaxies have the magnitudes and B/T they were drawn with."""

    def __init__(self, parts: PartsSet, rows: np.ndarray) -> None:
        super().__init__(parts.population.table)
        galaxies = [parts.population.draw(0, int(i)) for i in rows]
        object.__setattr__(self, "galaxies", galaxies)  # the class is frozen

    def light(self, rng: np.random.Generator, n: int) -> tuple[np.ndarray, np.ndarray]:
        assert n == len(self.galaxies)
        return np.array([g.magnitude for g in self.galaxies]), np.array(
            [g.bt for g in self.galaxies]
        )


def test_mixing_parts_is_rendering_the_galaxy(
    parts: PartsSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Same light, no turn, no noise: the parts give what GalSim gives in one piece."""
    from survey_gampen.simulation.render import Renderer

    rows = np.arange(12)
    fixed = FixedLight(parts, rows)
    monkeypatch.setattr(parts, "population", fixed)
    monkeypatch.setattr(parts_module, "turned", lambda images, turns, flips: images)
    monkeypatch.setattr(parts_module, "_normals", lambda shape, *_: torch.zeros(shape))
    batch = parts.mix(rows, np.random.default_rng(0))
    renderer = Renderer(parts.population)
    for image, truth, galaxy in zip(batch.image.numpy(), batch.truth, fixed.galaxies, strict=True):
        bt, r_e, flux = truth
        assert bt == galaxy.bt
        assert r_e == pytest.approx(galaxy.r_e, rel=1e-6)
        assert flux == pytest.approx(galaxy.flux * ADU, rel=1e-9)
        exact = renderer.image(galaxy) * ADU
        level, sky = renderer.sky_level * ADU, 0.05 * ADU
        sigma = sky * np.sqrt(1 + np.maximum(exact, 0) / level)
        assert (np.abs(image - exact) / sigma).mean() < 0.05
        assert image.sum() == pytest.approx(exact.sum(), rel=5e-3)


def test_noise_is_that_of_the_population(parts: PartsSet, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = np.arange(32)
    with monkeypatch.context() as quiet:
        quiet.setattr(parts_module, "_normals", lambda shape, *_: torch.zeros(shape))
        light = parts.mix(rows, np.random.default_rng(5)).image / ADU
    noisy = parts.mix(rows, np.random.default_rng(5)).image / ADU
    level = parts.population["noise"]["sky_level"]
    pull = (noisy - light) / (1 + light.clamp(min=0) / level).sqrt()
    sigma = pull.flatten(1).std(1)
    assert torch.all((sigma > 0.029) & (sigma < 0.082))
    assert sigma.max() - sigma.min() > 0.02
    assert (pull / sigma[:, None, None]).abs().mean().item() == pytest.approx(0.798, abs=0.003)


def test_a_very_bright_core_gives_no_nan(parts: PartsSet, monkeypatch: pytest.MonkeyPatch) -> None:
    ringing = parts.parts.planes.clone()
    ringing[:2, 0] = -1000.0
    monkeypatch.setattr(parts.parts, "planes", ringing)
    batch = parts.mix(np.zeros(8, np.int64), np.random.default_rng(0))
    assert torch.isfinite(batch.image).all()


def test_no_two_epochs_are_alike_and_each_comes_again(parts: PartsSet) -> None:
    def epoch(number: int) -> list[data_module.Batch]:
        return list(parts.epoch(np.arange(N), 16, seed=3, epoch=number))

    first, again, other = epoch(0), epoch(0), epoch(1)
    assert len(first) == N // 16
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.image, b.image)
        assert np.array_equal(a.truth, b.truth)
    assert not any(np.array_equal(a.truth, b.truth) for a, b in zip(first, other, strict=True))


def test_images_mixed_ahead_come_in_order(parts: PartsSet) -> None:
    plain = list(parts.epoch(np.arange(N), 8, seed=3, epoch=0))
    rng = [np.random.Generator(np.random.Philox(key=[3, k + 1])) for k in range(len(plain))]
    order = np.random.Generator(np.random.Philox(key=[3, 0])).permutation(np.arange(N))
    ahead = data_module._ahead(lambda k: parts.mix(order[8 * k : 8 * k + 8], rng[k]), range(9))
    for a, b in zip(plain, ahead, strict=True):
        assert torch.equal(a.image, b.image)


def test_the_light_is_drawn_anew_and_fairly(parts: PartsSet) -> None:
    truth = parts.truth(np.arange(2000) % N, np.random.default_rng(0))
    bt, _, flux = truth.T
    assert (bt == 0).mean() == pytest.approx(0.125, abs=0.03)
    assert (bt == 1).mean() == pytest.approx(0.125, abs=0.03)
    magnitude = 31.4 - 2.5 * np.log10(flux)
    assert magnitude.mean() == pytest.approx(18, abs=0.1)
    assert magnitude.min() > 16 - 1e-3
    assert magnitude.max() < 20 + 1e-3


def test_turns_are_the_eight_symmetries_of_the_square() -> None:
    image = torch.rand(1, 5, 5, generator=torch.Generator().manual_seed(0))
    turns, flips = (a.ravel() for a in np.meshgrid(np.arange(4), np.arange(2)))
    results = turned(image.repeat(8, 1, 1), turns, flips)
    assert len({tuple(t.flatten().tolist()) for t in results}) == 8
    for result, turn, flip in zip(results, turns, flips, strict=True):
        expected = np.rot90(image[0].numpy(), turn)
        assert np.array_equal(result.numpy(), expected[:, ::-1] if flip else expected)


@pytest.mark.parametrize("edge", ["constant", "reflect"])
def test_each_image_is_moved_by_its_own_pixels(edge: str) -> None:
    images = torch.rand(25, 7, 9, generator=torch.Generator().manual_seed(0))
    shifts = np.stack(np.meshgrid(np.arange(-2, 3), np.arange(-2, 3)), -1).reshape(-1, 2)
    mode: Any = edge
    for image, result, (y, x) in zip(
        images.numpy(), moved(images, shifts, edge), shifts, strict=True
    ):
        wide = np.pad(image, 2, mode=mode)
        assert np.array_equal(result.numpy(), wide[2 - y : 9 - y, 2 - x : 11 - x])
    assert moved(images, 0 * shifts, edge) is images


def test_a_shift_moves_the_light_and_changes_nothing_else(
    parts: PartsSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = np.arange(32)

    def mixed(shift: int, share: slice = slice(None)) -> data_module.Batch:
        return parts.mix(rows, np.random.default_rng(1), share, shift)

    # Two ranks see what one would: 16 images are one block of noise.
    halves = [mixed(2, slice(0, 16)).image, mixed(2, slice(16, 32)).image]
    assert torch.equal(torch.cat(halves), mixed(2).image)
    monkeypatch.setattr(parts_module, "_normals", lambda shape, *_: torch.zeros(shape))
    still, shifted = mixed(0), mixed(2)
    assert np.array_equal(still.truth, shifted.truth)
    found = set()
    for before, after in zip(still.image, shifted.image, strict=True):
        (there,) = [
            (y, x)
            for y in range(-2, 3)
            for x in range(-2, 3)
            if torch.equal(after[2:-2, 2:-2], before.roll((y, x), (0, 1))[2:-2, 2:-2])
        ]
        found.add(there)
    assert len(found) > 12


def test_images_from_the_disk_are_those_from_memory(parts_folder: Path, parts: PartsSet) -> None:
    streamed = PartsSet(parts_folder, memory="stream")
    assert (parts.streams, streamed.streams) == (False, True)
    order = {"batch": 32, "seed": 3, "epoch": 1, "shift": 1}
    for share in (slice(None), slice(16, 32)):
        both = [s.epoch(np.arange(N), share=share, **order) for s in (parts, streamed)]
        for a, b in zip(*both, strict=True):
            assert torch.equal(a.image, b.image)
            assert np.array_equal(a.truth, b.truth)


def test_only_the_rows_of_a_share_are_read(
    parts_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    streamed, taken = PartsSet(parts_folder, memory="stream"), []
    take = streamed.parts.take
    monkeypatch.setattr(streamed.parts, "take", lambda rows: taken.append(rows) or take(rows))
    streamed.mix(np.arange(10, 20), np.random.default_rng(0), slice(4, 6))
    assert [rows.tolist() for rows in taken] == [[14, 15]]


def test_what_fits_is_kept_in_memory(parts_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    size = 2 * 3 * N * SIZE**2
    assert not PartsSet(parts_folder, most=size).streams
    assert PartsSet(parts_folder, most=size - 1).streams
    told = PartsSet(parts_folder, most=0).place
    assert told.endswith("as they are wanted, for 0 GB of memory are to spare")
    assert PartsSet(parts_folder, memory="resident", most=0).place.endswith("in memory")
    with pytest.raises(InputError, match="memory is auto, resident or stream, not 'disk'"):
        PartsSet(parts_folder, memory="disk")

    class Free:
        available = 1000

    monkeypatch.setattr(memory.psutil, "virtual_memory", Free)
    assert memory.room() == 500
    assert memory.room(ranks=4) == 125
    assert memory.room(ranks=2, limit=300) == 150


@pytest.mark.parametrize("how", ["resident", "stream"])
def test_pixels_that_are_gone_are_no_dark_galaxies(
    parts_folder: Path, tmp_path: Path, how: str
) -> None:
    """Zarr gives zeros where a file is missing."""
    copy = tmp_path / "parts"
    shutil.copytree(parts_folder, copy)
    streamed = PartsSet(copy, memory="stream")
    for name in ("disk", "bulge"):
        shutil.rmtree(copy / name / "c")
    use: Callable[[], Any] = {
        "resident": lambda: PartsSet(copy),
        "stream": lambda: streamed.mix(np.arange(4), np.random.default_rng(0)),
    }[how]
    with pytest.raises(OutsideFault, match="lacks pixels of galaxies: bring its disk back"):
        use()


def test_only_parts_that_are_complete_are_trained_on(tmp_path: Path, parts_folder: Path) -> None:
    with pytest.raises(InputError, match="is no simulation of cutouts or parts"):
        PartsSet(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(simulate, "compute", inline)
        simulate.main(str(parts_folder.parent / "small.toml"), 2, tmp_path / "cutouts")
    with pytest.raises(InputError, match="simulate with --parts for training"):
        PartsSet(tmp_path / "cutouts")
