"""Fine-tuning on labelled galaxies: the right labels, the same split, what is frozen stays."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from smallrun import N, Sky, rows

from survey_gampen.errors import InputError
from survey_gampen.images.status import NULL_BITS
from survey_gampen.model.checkpoint import load_checkpoint
from survey_gampen.training import labelled, train
from survey_gampen.training.labelled import LabelledSet, read_labels
from survey_gampen.training.loop import Training
from survey_gampen.training.recipe import load_recipe


def write_labels(path: Path, names: list[int], **more: Any) -> Path:
    """Labels that tell which galaxy they belong to."""
    names_array = np.array(names)
    columns = {
        "object_id": names_array,
        "bt": (names_array % 10) / 10,
        "r_e": 0.5 + names_array / 50,
        "flux": 100.0 * names_array,
    }
    pq.write_table(pa.table(columns | more), path)
    return path


@pytest.fixture
def names(calm: Path) -> list[int]:
    return rows(calm)["object_id"].to_pylist()


@pytest.fixture
def labels(tmp_path: Path, names: list[int]) -> Path:
    return write_labels(tmp_path / "labels.parquet", names)


@pytest.fixture
def data(calm: Path, labels: Path) -> LabelledSet:
    return LabelledSet(calm, labels)


def test_images_and_labels_belong_together(calm: Path, data: LabelledSet) -> None:
    table = rows(calm)
    usable = (table["status"].to_numpy() & int(NULL_BITS)) == 0
    assert sorted(data.object_id) == sorted(table["object_id"].to_numpy()[usable])
    assert data.unusable == N - usable.sum() > 0
    assert np.array_equal(data.labels[:, 2], 100.0 * data.object_id)
    assert len(data) == len(data.images)


def test_the_split_follows_from_the_name(calm: Path, tmp_path: Path, names: list[int]) -> None:
    whole = LabelledSet(calm, write_labels(tmp_path / "all.parquet", names))
    half = LabelledSet(calm, write_labels(tmp_path / "half.parquet", names[::-2]))
    parts = [whole.object_id[r] for r in (*whole.split(99), whole.test_rows())]
    assert sorted(np.concatenate(parts)) == sorted(whole.object_id)
    for mine, all_of_it in zip((*half.split(99), half.test_rows()), parts, strict=True):
        assert set(half.object_id[mine]) == set(half.object_id) & set(all_of_it)


def test_shares_are_those_that_are_promised() -> None:
    share = np.array([labelled._share(i) for i in range(20_000)])
    assert (share < labelled.TRAIN).mean() == pytest.approx(0.3, abs=0.01)
    assert (share >= labelled.TRAIN + labelled.VALIDATION).mean() == pytest.approx(0.6, abs=0.01)


def test_a_cutout_is_turned_and_moved_and_nothing_else(data: LabelledSet) -> None:
    which = np.full(64, 3)
    batch = data.mix(which, np.random.default_rng(0), shift=2)
    flat = data.images[3]
    assert len({image.numpy().tobytes() for image in batch.image}) > 32
    for image in batch.image:
        assert image.shape == flat.shape
        assert torch.isin(image, flat).all()
        assert image.sum() == pytest.approx(flat.sum().item(), rel=0.1)
    halves = [
        data.mix(which, np.random.default_rng(0), half, 2) for half in (slice(0, 32), slice(32, 64))
    ]
    assert torch.equal(torch.cat([h.image for h in halves]), batch.image)
    still = data.mix(which, np.random.default_rng(0)).image
    assert len({image.numpy().tobytes() for image in still}) == 8


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"drop": "flux"}, "lack flux; there are object_id, bt, r_e"),
        ({"bt": 1.5}, "bt must be in 0 to 1"),
        ({"r_e": np.nan}, "7 first"),
        ({"weight": -1.0}, "weight not below 0"),
    ],
)
def test_labels_that_are_none(tmp_path: Path, change: dict[str, Any], said: str) -> None:
    path = write_labels(tmp_path / "labels.parquet", [7, 8, 9])
    table = pq.read_table(path)
    for key, value in change.items():
        if key == "drop":
            table = table.drop([value])
            continue
        column = pa.array(np.full(3, value))
        place = table.column_names.index(key) if key in table.column_names else None
        table = (
            table.append_column(key, column)
            if place is None
            else table.set_column(place, key, column)
        )
    pq.write_table(table, path)
    with pytest.raises(InputError, match=said):
        read_labels(path)


def test_labels_of_other_galaxies(calm: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no galaxy of .* has a usable cutout"):
        LabelledSet(calm, write_labels(tmp_path / "labels.parquet", [100_001, 100_002]))
    with pytest.raises(InputError, match="name some object_id twice"):
        read_labels(write_labels(tmp_path / "twice.parquet", [7, 8, 7]))
    with pytest.raises(InputError, match="there is no such file"):
        read_labels(tmp_path / "none.parquet")


@pytest.fixture
def tune(sky: Sky, data: LabelledSet, tmp_path: Path) -> Callable[..., Training]:
    def tune(**changes: Any) -> Training:
        small = {"validation": 2, "batch": 4, "epochs": 1, "passes": 2, "dropout_rate": 0.0}
        recipe = load_recipe("survey", learning_rate=1e-3, guide=0.0, **small | changes)
        training = Training(recipe, data, tmp_path / "out", str(sky.model))
        training.to_the_last_epoch()
        return training

    return tune


@pytest.mark.parametrize(
    ("freeze", "still"),
    [("nothing", ()), ("crop", ("localisation.",)), ("features", ("localisation.", "conv1."))],
)
def test_what_is_frozen_stays(
    tune: Callable[..., Training], sky: Sky, freeze: str, still: tuple[str, ...]
) -> None:
    before = load_checkpoint(str(sky.model)).network.state_dict()
    for name, tensor in tune(freeze=freeze).network.state_dict().items():
        frozen = name.startswith(still) if still else False
        if freeze == "features" and name.startswith("blocks.") and tensor.dim() == 4:
            frozen = True
        if frozen:
            assert torch.equal(tensor, before[name]), name
        elif name.endswith("weight") and "localisation" not in name:
            assert not torch.equal(tensor, before[name]), name


def test_the_scale_is_kept_or_fitted(tune: Callable[..., Training], sky: Sky) -> None:
    kept = load_checkpoint(str(sky.model)).targets
    assert tune(epochs=0).targets == kept
    refitted = tune(epochs=0, rescale=True).targets
    assert refitted != kept
    assert refitted.mean[2] > kept.mean[2] - 5


def test_weights_count(data: LabelledSet, tune: Callable[..., Training]) -> None:
    training = tune(epochs=0)
    each = torch.tensor([1.0, 2.0, 3.0])
    batch = data.mix(np.arange(3), np.random.default_rng(0))
    assert training._weighted(each, batch).item() == 2.0
    data.weight[:] = [0.0] * len(data)
    data.weight[1] = 3.0
    batch = data.mix(np.arange(3), np.random.default_rng(0))
    assert training._weighted(each, batch).item() == 2.0
    data.weight[1] = 1.5
    assert training._weighted(each, data.mix(np.arange(3), np.random.default_rng(0))).item() == 1.0


def test_the_verb_fine_tunes(calm: Path, sky: Sky, labels: Path, tmp_path: Path) -> None:
    changes = {"epochs": 1, "validation": 2, "batch": 4, "passes": 2, "guide": 0.0}
    out = tmp_path / "out"
    assert train.main("survey", calm, out, labels=labels, init=str(sky.model), **changes) == 0
    with pytest.raises(InputError, match="always kept in memory: leave out --memory stream"):
        train.main("survey", calm, out, labels=labels, memory="stream")
    model = load_checkpoint(str(out / "model.safetensors"))
    assert model.meta["trained_on"]["population"] == "galaxies"
    assert model.meta["provenance"]["started_from"] == "random, for tests"
