"""AstroPhot (Stone et al. 2023, MNRAS 525, 6377): bulge and disk by Levenberg-Marquardt, with the
covariance of the best fit.

Twice: with the Sersic indices held at 4 and 1, as is the custom (Simard et al. 2011, ApJS 196, 11),
and from there with both free, as the galaxies are simulated.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
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

NAMES = ("AstroPhot n = 4, 1", "AstroPhot free n")
#: Of derivatives, as a share of a parameter.
STEP = 0.02
#: Sersic indices of disk and bulge where they are held.
INDICES = np.array([1.0, 4.0])

ap.config.set_logging_output(stdout=False)


def fit(problem: Problem) -> Iterator[tuple[str, Answer]]:
    """Both fits, each as soon as it is there."""
    cut = problem.cropped()
    target = ap.TargetImage(
        data=cut.image,
        pixelscale=1.0,
        variance=cut.sigma**2,
        mask=cut.neighbours,
        psf=ap.PSFImage(data=cut.bare_psf),
    )
    galaxy = started(target, float(cut.image[cut.own].sum()))
    for name in NAMES:
        found = ap.fit.LM(galaxy, verbose=0).fit()
        if "fail" not in found.message:
            yield name, answer(galaxy, found, problem.scale)
        for model in galaxy.models:
            model.n.to_dynamic()


def answer(galaxy: Any, found: Any, scale: float) -> Answer:
    """What a best fit and its covariance make of B/T, R_e and flux."""
    best = galaxy.get_values().detach().numpy()
    covariance = found.covariance_matrix.detach().numpy()
    # Linear, as errors of a best fit are propagated; steps far above what R_e is rounded to.
    steps = np.diag(STEP * best)
    value = measured(best[None], scale)[:, 0]
    higher, lower = (measured(best + sign * steps, scale) for sign in (1, -1))
    slope = (higher - lower) / (2 * STEP * best)
    error = np.sqrt(np.einsum("ki,ij,kj->k", slope, covariance, slope))
    return answered(value, value - error, value + error)


def started(target: Any, flux: float) -> Any:
    """Disk and bulge with half of the light each, around the profile that its initialiser finds."""
    kind = {"model_type": "sersic galaxy model", "target": target}
    one = ap.Model(name="one", **kind)
    one.initialize()
    shape = {p: getattr(one, p).value.detach().numpy() for p in ("q", "PA", "center")}
    radius = np.clip(one.Re.value.item(), 1, target.data.shape[0] / 6) * np.array([1.3, 0.5])
    brightness = max(flux, 1.0) / 2 / sersic_flux(INDICES, radius * np.sqrt(shape["q"]), 1.0)
    disk, bulge = (
        ap.Model(name=name, n=n, Re=r, Ie=i, **shape, **kind)
        for name, n, r, i in zip(("disk", "bulge"), INDICES, radius, brightness, strict=True)
    )
    bulge.center = disk.center
    for model in (disk, bulge):
        model.n.to_static()
    return ap.Model(model_type="group model", name="galaxy", models=[disk, bulge], target=target)


def measured(states: Array, scale: float) -> Array:
    """B/T, R_e [arcsec] and flux [nJy], (3, n), of states (n, parameters)."""
    # Axis ratio, angle, index if it is free, radius, brightness; the centre between the two.
    n = states.shape[1] // 2 - 1
    q, _, *index, radius, brightness = np.stack([states[:, :n].T, states[:, -n:].T], axis=1)
    sersic_n = index[0] if index else np.broadcast_to(INDICES[:, None], q.shape)
    flux = sersic_flux(sersic_n, radius * np.sqrt(q), brightness)
    return of_components(flux, radius, q, sersic_n, scale)
