"""pysersic (Pasha & Miller 2023, JOSS 8, 5703): Sersic bulge and exponential disk, with its Laplace
approximation of the posterior, the fastest of its estimates.

The disks that are simulated have indices of 0.8 to 1.2: in bright galaxies the exponential one is
wrong by more than its intervals say.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import numpy as np
import tqdm
from jax.random import PRNGKey
from pysersic import FitSingle
from pysersic.priors import SourceProperties

from methods.problem import Answer, Problem, answered, of_components

NAMES = ("pysersic",)
#: What it compiles is good for images of one size: sides of few kinds [px].
SIZES = (81, 121, 161, 201, 239)
# Its progress bars tell nothing here, and whoever imported tqdm first has read the environment.
tqdm.trange = partial(tqdm.trange, disable=True)


def fit(problem: Problem) -> Iterator[tuple[str, Answer]]:
    """Under the package's own priors, but for the flux."""
    cut = problem.cropped(SIZES)
    mask = cut.neighbours
    guess = SourceProperties(cut.image, mask=~cut.own if cut.label else mask)
    # Its default width is Poisson's of the flux as if that were counts, and far too narrow.
    guess.set_flux_guess(guess.flux_guess, 0.5 * guess.flux_guess)
    prior = guess.generate_prior("sersic_exp")
    fitter = FitSingle(cut.image, cut.sigma, cut.psf, prior, mask=mask)
    found = fitter.estimate_posterior(PRNGKey(0), method="laplace", return_model=False)
    chains = {name: np.asarray(values) for name, values in found.get_chains().items()}
    share, flux = chains["f_1"], chains["flux"]
    draws = of_components(
        flux * np.stack([1 - share, share]),
        np.stack([chains["r_eff_2"], chains["r_eff_1"]]),
        1 - np.stack([chains["ellip_2"], chains["ellip_1"]]),
        np.stack([np.ones_like(flux), chains["n"]]),
        problem.scale,
    )
    low, middle, high = np.percentile(draws, [15.865, 50, 84.135], axis=1)
    yield NAMES[0], answered(middle, low, high)
