"""AstroPhot (Stone et al. 2023, MNRAS 525, 6377): de Vaucouleurs bulge and exponential disk by
Levenberg-Marquardt, with the covariance of the best fit.

The index of the bulge is held at the customary 4, without which faint fits wander (Simard et al.
2011, ApJS 196, 11).
"""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np

# Its import writes a log into the current folder, unless somebody else has taken the log.
logging.getLogger().addHandler(logging.NullHandler())
import astrophot as ap  # noqa: E402
from methods.problem import (  # noqa: E402
    Answer,
    Array,
    Problem,
    answered,
    of_components,
    sersic_flux,
)

NAMES = ("AstroPhot bulge+disk",)
#: Of derivatives, as a share of a parameter.
STEP = 0.02
#: Sersic indices of disk and bulge.
INDICES = np.array([1.0, 4.0])
ap.config.set_logging_output(stdout=False)


def fit(problem: Problem) -> dict[str, Answer]:
    """The best fit, and what its covariance makes of B/T, R_e and flux."""
    cut = problem.cropped()
    target = ap.TargetImage(
        data=cut.image,
        pixelscale=1.0,
        variance=cut.sigma**2,
        mask=cut.neighbours,
        psf=ap.PSFImage(data=cut.bare_psf),
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = started(target, float(cut.image[cut.own].sum()))
        found = ap.fit.LM(model, verbose=0).fit()
    if "fail" in found.message:
        return {}
    best = model.get_values().detach().numpy()
    covariance = found.covariance_matrix.detach().numpy()
    # Linear, as errors of a best fit are propagated; steps far above what R_e is rounded to.
    steps = np.diag(STEP * best)
    value = measured(best[None], problem.scale)[:, 0]
    higher, lower = (measured(best + sign * steps, problem.scale) for sign in (1, -1))
    slope = (higher - lower) / (2 * STEP * best)
    error = np.sqrt(np.einsum("ki,ij,kj->k", slope, covariance, slope))
    return {NAMES[0]: answered(value, value - error, value + error)}


def started(target: Any, flux: float) -> Any:
    """Disk and bulge with half of the light each, around the profile that its initialiser finds."""
    one = ap.Model(model_type="sersic galaxy model", name="one", target=target)
    one.initialize()
    q, angle, centre = (getattr(one, p).value.detach().numpy() for p in ("q", "PA", "center"))
    radius = np.clip(one.Re.value.item(), 1, target.data.shape[0] / 6)
    models = []
    for name, index, factor in zip(("disk", "bulge"), INDICES, (1.3, 0.5), strict=True):
        light = sersic_flux(index, factor * radius * np.sqrt(q), 1.0)
        shape: dict[str, Any] = {"q": q, "PA": angle, "Re": factor * radius}
        shape["Ie"] = max(flux, 1.0) / 2 / light
        kind = "exponential galaxy model" if index == 1 else "sersic galaxy model"
        models.append(ap.Model(model_type=kind, name=name, target=target, center=centre, **shape))
    disk, bulge = models
    bulge.n = INDICES[1]
    bulge.n.to_static()
    bulge.center = disk.center
    return ap.Model(model_type="group model", name="galaxy", models=models, target=target)


def measured(states: Array, scale: float) -> Array:
    """B/T, R_e [arcsec] and flux [nJy], (3, n), of states (n, parameters)."""
    disk, bulge = states[:, :4].T, states[:, 6:].T  # q, angle, R_e, brightness; centre between them
    q, _, radius, brightness = np.stack([disk, bulge], axis=1)
    index = np.broadcast_to(INDICES[:, None], q.shape)
    flux = sersic_flux(index, radius * np.sqrt(q), brightness)
    return of_components(flux, radius, q, index, scale)
