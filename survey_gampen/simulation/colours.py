"""Galaxies in other bands than the population's: colours of their parts, and PSF and sky there.

A galaxy's shape is the same in all bands, but disk and bulge differ in colour, so that its
bulge-to-total ratio is another in each. Which colours there are, the population says: for each
other band a table ``[bands.NAME]``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from survey_gampen.simulation.population import Galaxy, Population, Profile, half_light_radius

#: What galaxy i is in another band is keyed by i plus this, and by the band.
_STREAM = 1 << 45
#: Correlation of the colours of disk and bulge, chosen by us: both are seen at one redshift, and in
#: redder galaxies both are redder.
_ALIKE = 0.5


def stream(seed: int, key: int, band: str | None = None) -> np.random.Generator:
    """Random numbers of a key, of its own for each band; None: those of all bands."""
    counter = [0, 0, 0, 0 if band is None else crc32(band.encode())]
    return np.random.Generator(np.random.Philox(key=[seed, key], counter=counter))


def reddenings(rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """How many standard deviations disk and bulge (2, n) of galaxies are redder than the mean."""
    disk, own = rng.standard_normal((2, n))
    return np.stack([disk, _ALIKE * disk + np.sqrt(1 - _ALIKE**2) * own])


def brightness(colour: Sequence[float], redder: NDArray[np.float64]) -> NDArray[np.float64]:
    """Flux in a band over that in the population's, of a colour (mean, deviation) [mag]."""
    mean, deviation = colour
    return np.asarray(10 ** (0.4 * (mean + deviation * redder)))


def mixed(population: Population, rng: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Flux of disk and bulge of n galaxies in each band over that in the first, (2, n, bands)."""
    redder = reddenings(rng, n)
    others = [population["bands"][band] for band in population.bands[1:]]
    sides = [
        [np.ones(n), *(brightness(facts[f"{side}_colour"], redder[k]) for facts in others)]
        for k, side in enumerate(("disk", "bulge"))
    ]
    return np.moveaxis(np.array(sides), 1, -1)


def in_band(population: Population, galaxy: Galaxy, seed: int, band: str) -> Galaxy:
    """A galaxy of :meth:`Population.draw` as another of the population's bands shows it."""
    if band == population["band"]:
        return galaxy
    facts = population["bands"][band]
    own = stream(seed, galaxy.index + _STREAM)
    redder, around = reddenings(own, 1), own.standard_normal(len(galaxy.neighbours))

    def seen(profile: Profile, which: str, redder: NDArray[np.float64]) -> Profile:
        (factor,) = brightness(facts[f"{which}_colour"], redder)
        return replace(profile, flux=profile.flux * float(factor))

    disk = seen(galaxy.disk, "disk", redder[0])
    bulge = seen(galaxy.bulge, "bulge", redder[1])
    flux = disk.flux + bulge.flux
    bt = bulge.flux / flux
    (r_e,) = half_light_radius(
        [[p.sersic_n] for p in (disk, bulge)],
        [[p.half_light_radius] for p in (disk, bulge)],
        [[p.axis_ratio] for p in (disk, bulge)],
        np.array([bt]),
    )
    there = stream(seed, galaxy.index + _STREAM, band)
    return replace(
        galaxy,
        bt=bt,
        r_e=float(r_e),
        flux=flux,
        magnitude=float(population["zero_point"] - 2.5 * np.log10(flux)),
        disk=disk,
        bulge=bulge,
        neighbours=tuple(
            seen(profile, "neighbour", around[[k]]) for k, profile in enumerate(galaxy.neighbours)
        ),
        moffat_fwhm=float(there.uniform(*facts["fwhm"])),
        moffat_beta=float(there.uniform(*population["psf"]["moffat_beta"])),
        sky_sigma=float(there.uniform(*facts["sky_sigma"])),
    )
