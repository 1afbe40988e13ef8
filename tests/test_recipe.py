"""Training recipes: a slip of the pen is named, never ignored."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from survey_gampen.errors import InputError
from survey_gampen.model.network import Gampen
from survey_gampen.training import recipe
from survey_gampen.training.recipe import load_recipe, one_cycle, site_rates
from tests.networks import tiny


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("epochs =", "epoch =", r"unknown key 'epoch'; did you mean 'epochs'\?"),
        ("clip =", "clipp =", r"\[optimiser\]: unknown key 'clipp'; did you mean 'clip'\?"),
        ("seed = 0", "", "lacks seed; copy the shipped file's line"),
        ("epochs = ", 'epochs = "9" # ', "epochs must be like [0-9]+, is '9'"),
        ("dropout_rate = ", "dropout_rate = 1.5 # ", "a dropout rate is 0 or more and below 1"),
        ("[1.0, 1.0,", "[1.0,", r"dropout_layers must be like \[1.0, 1.0"),
        ("[1.0, 1.0,", "[1.0, true,", r"dropout_layers must be like \[1.0, 1.0"),
        ("[1.0, 1.0,", "[1.0, 20000.0,", "a dropout rate is 0 or more and below 1, not 2"),
        ("[1.0, 1.0,", "[1.0, -1.0,", "a dropout rate is 0 or more and below 1, not -0.0001"),
        ("radii = 5.0", "", r"\[crop\]: lacks radii"),
        ('kind = "adamw"', 'kind = "adam"', "kind of a recipe is adamw or sgd, not 'adam'"),
        ("shift = 1", "shift = -1", "shift of a recipe is 0 to 16, not -1"),
        ("batch = 64", "batch = 0", "batch of a recipe is 1 or more, not 0"),
        ("validation = 512", "validation = 0", "validation of a recipe is 1 or more, not 0"),
        ("5e-4", "-1.0", "learning_rate of a recipe is 1e-12 to 10, not -1"),
        ("5e-4", "nan", "learning_rate of a recipe is 1e-12 to 10, not nan"),
        ("clip = 1.0", "clip = inf", "clip of a recipe is 1e-12 or more, not inf"),
        ("average = 0.999", "average = 2.0", "average of a recipe is 0 to 0.99999, not 2"),
        ("guide =", "guides =", r"\[crop\]: unknown key 'guides'; did you mean 'guide'\?"),
    ],
)
def test_keys_are_those_of_the_shipped_recipe(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    shipped = (Path(recipe.__file__).parent / "recipes" / "survey.toml").read_text()
    own = tmp_path / "own.toml"
    own.write_text(shipped)
    assert load_recipe(str(own)) == load_recipe("survey")
    own.write_text(shipped.replace(old, new))
    with pytest.raises(InputError, match=said):
        load_recipe(str(own))


def test_recipes() -> None:
    changed = load_recipe("survey", epochs=3, learning_rate=1e-5, guide=0.5, seed=None)
    assert (changed["epochs"], changed["optimiser"]["learning_rate"]) == (3, 1e-5)
    assert changed["crop"]["guide"] == 0.5
    assert changed["seed"] == load_recipe("survey")["seed"]
    with pytest.raises(InputError, match="recipe 'survey' has no key 'epoch'"):
        load_recipe("survey", epoch=3)
    with pytest.raises(InputError, match="no recipe 'surwey': .*survey"):
        load_recipe("surwey")


def test_layers_may_have_dropout_rates_of_their_own() -> None:
    factors = [0.0, 0.5, 1.0, 1.0, 1.0, 2.0, 4.0]
    changed = load_recipe("survey", dropout_rate=0.1, dropout_layers=factors)
    rates = [0.0, 0.05, 0.1, 0.1, 0.1, 0.2, 0.4]
    assert Gampen(tiny(), site_rates(changed, tiny())).rates == pytest.approx(rates)
    everywhere = tiny(dropout="everywhere")
    network = Gampen(everywhere, site_rates(changed, everywhere))
    assert network.rates == pytest.approx([*rates, 0.1, 0.1, 0.1, 0.1, 0.1])


def test_the_learning_rate_rises_and_falls_to_zero() -> None:
    rates = [one_cycle(p, 0.15) for p in np.linspace(0, 1, 201)]
    assert rates[0] == pytest.approx(0.04)
    assert max(rates) == rates[30] == pytest.approx(1)
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert np.all(np.diff(rates[:31]) > 0)
    assert np.all(np.diff(rates[30:]) < 0)
