"""statmorph (Rodriguez-Gomez et al. 2019, MNRAS 483, 4140): apertures, and its one-Sersic fit.

B/T is not among what it measures; it gives no uncertainties.
"""

from __future__ import annotations

import warnings

import numpy as np
import statmorph
from methods.problem import Answer, Problem, answered, sersic_flux

from survey_gampen.simulation.population import half_light_radius

NAMES = ("statmorph", "statmorph Sersic")


def fit(problem: Problem) -> dict[str, Answer]:
    """Both from the same call, whose time both have."""
    if not problem.label:
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its flags say the same
        found = statmorph.SourceMorphology(
            *(problem.image, problem.segments, problem.label),
            mask=problem.neighbours,
            weightmap=problem.sigma,
            psf=problem.psf,
        )
    answers = {}
    if found.flag < 2:  # 2 is "bad"
        answers[NAMES[0]] = answered((np.nan, found.rhalf_circ * problem.scale, found.flux_circ))
    if found.flag < 2 and found.flag_sersic < 2:
        q, n = 1 - found.sersic_ellip, found.sersic_n
        circular = found.sersic_rhalf * np.sqrt(q)
        (r_e,) = half_light_radius([[n]], [[circular * problem.scale]], [[q]], np.zeros(1))
        flux = sersic_flux(n, circular, found.sersic_amplitude)
        answers[NAMES[1]] = answered((np.nan, r_e, flux))
    return answers
