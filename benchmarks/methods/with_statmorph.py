"""statmorph (Rodriguez-Gomez et al. 2019, MNRAS 483, 4140): apertures, and its one-Sersic fit.

B/T is not among what it measures; it gives no uncertainties.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import statmorph

from methods.problem import Answer, Problem, answered, sersic_flux
from survey_gampen.simulation.population import half_light_radius

NAMES = ("statmorph", "statmorph Sersic")


def fit(problem: Problem) -> Iterator[tuple[str, Answer]]:
    """Both from the same call, whose time both have."""
    if not problem.label:
        return
    found = statmorph.SourceMorphology(
        *(problem.image, problem.segments, problem.label),
        mask=problem.neighbours,
        weightmap=problem.sigma,
        psf=problem.psf,
    )
    # Flag 2 is "bad"; its authors use no galaxy below this signal-to-noise a pixel.
    if found.flag >= 2 or found.sn_per_pixel < 2.5:
        return
    yield NAMES[0], answered((np.nan, found.rhalf_circ * problem.scale, found.flux_circ))
    if found.flag_sersic < 2:
        q, n = 1 - found.sersic_ellip, found.sersic_n
        circular = found.sersic_rhalf * np.sqrt(q)
        (r_e,) = half_light_radius([[n]], [[circular * problem.scale]], [[q]], np.zeros(1))
        yield NAMES[1], answered((np.nan, r_e, sersic_flux(n, circular, found.sersic_amplitude)))
