"""Galaxies to pixels, with GalSim.

Images are rendered without noise; noise is added by
:func:`survey_gampen.simulation.noise.add_noise`, once for a simulated survey, or anew each time a
training step sees the image.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from survey_gampen.errors import InputError
from survey_gampen.simulation.population import Galaxy, Population, Profile
from survey_gampen.simulation.realgalaxies import RealGalaxies

try:
    import galsim
except ImportError as error:  # pragma: no cover - depends on the installation
    raise InputError("simulating needs GalSim: pip install 'survey-gampen[sim]'") from error

#: Share of the light that may fold back over the edges of a Fourier transform: GalSim's default,
#: and one that renders 2.5 times faster and errs by 0.03 % of the flux (median; 0.5 % at most).
EXACT, FAST = 5e-3, 2e-2


def load_psfs(files: Iterable[Path], pixel_scale: float) -> list[Any]:
    """PSF images, one a plane of each FITS file, as GalSim profiles of unit flux.

    Raises
    ------
    InputError
        If a file cannot be read or holds no image.
    """
    from astropy.io import fits

    params = _params(EXACT)
    psfs = []
    for path in files:
        try:
            with fits.open(path) as hdus:
                data = next(h.data for h in hdus if h.data is not None)
        except (OSError, StopIteration) as error:
            raise InputError(f"PSF {path} cannot be read as a FITS image: {error}") from None
        for plane in np.atleast_3d(data.T).T.astype(np.float64):
            image = galsim.Image(np.ascontiguousarray(plane), scale=pixel_scale)
            psfs.append(galsim.InterpolatedImage(image, flux=1.0, gsparams=params))
    return psfs


class Renderer:
    """Renders the galaxies of one population.

    Parameters
    ----------
    population : Population
    psfs : sequence
        From :func:`load_psfs`; a galaxy's `psf_index` counts in it.
    folding : float
        :data:`EXACT` or :data:`FAST`.
    real : RealGalaxies, optional
        Where the images of real galaxies come from.
    """

    def __init__(
        self,
        population: Population,
        psfs: Sequence[Any] = (),
        folding: float = EXACT,
        real: RealGalaxies | None = None,
    ) -> None:
        self.size: int = population["size"]
        self.scale: float = population["pixel_scale"]
        self.sky_level: float = population["noise"]["sky_level"]
        self.psfs = psfs
        self.real = real
        self._params = _params(folding)

    def psf(self, galaxy: Galaxy) -> Any:
        """The PSF of a galaxy."""
        if galaxy.psf_index >= 0:
            return self.psfs[galaxy.psf_index].rotate(90 * galaxy.psf_turn * galsim.degrees)
        return galsim.Moffat(galaxy.moffat_beta, fwhm=galaxy.moffat_fwhm, gsparams=self._params)

    def psf_fwhm(self, galaxy: Galaxy) -> float:
        """Full width of its PSF at half its maximum [arcsec]."""
        if galaxy.psf_index < 0:
            return galaxy.moffat_fwhm
        return self._given_fwhm[galaxy.psf_index]

    @cached_property
    def _given_fwhm(self) -> list[float]:
        return [float(psf.calculateFWHM()) for psf in self.psfs]

    def image(self, galaxy: Galaxy) -> NDArray[np.float32]:
        """The galaxy and its neighbours without noise, (size, size) [ADU].

        Surface brightness is integrated over pixels; the centre of the cutout is the centre of
        pixel (size // 2, size // 2) for odd sizes.
        """
        canvas = self.canvas()
        psf = self.psf(galaxy)
        self.add_central(canvas, galaxy, psf)
        for neighbour in galaxy.neighbours:
            self.add(canvas, (neighbour,), psf, stamp=True)
        return np.asarray(canvas.array, dtype=np.float32)

    def parts(self, galaxy: Galaxy, flux: float) -> NDArray[np.float32]:
        """Disk, bulge and neighbours apart, (3, size, size) [ADU].

        Parameters
        ----------
        galaxy : Galaxy
        flux : float
            Disk and bulge are each given this total flux; neighbours keep their own.
        """
        psf = self.psf(galaxy)
        planes = [self.canvas() for _ in range(3)]
        for plane, profile in zip(planes, (galaxy.disk, galaxy.bulge), strict=False):
            self.add(plane, (replace(profile, flux=flux),), psf)
        for neighbour in galaxy.neighbours:
            self.add(planes[2], (neighbour,), psf, stamp=True)
        return np.stack([plane.array for plane in planes])

    def canvas(self, width: int | None = None, height: int | None = None) -> Any:
        """An empty image whose coordinates count pixels from its central one."""
        image = galsim.ImageF(width or self.size, height or self.size, scale=self.scale)
        image.setCenter(0, 0)
        return image

    def add_central(self, canvas: Any, galaxy: Galaxy, psf: Any, stamp: bool = False) -> None:
        """Add a galaxy without its neighbours to `canvas`; else as :meth:`add`."""
        if galaxy.real is None:
            # The components share their centre and PSF: one Fourier transform serves both.
            self.add(canvas, galaxy.components, psf, stamp)
            return
        assert self.real is not None, "a real galaxy needs its catalogue"
        light = self.real.profile(galaxy, self._params)
        self._add(canvas, light, (galaxy.disk.x, galaxy.disk.y), psf, stamp)

    def add(
        self, canvas: Any, components: Sequence[Profile], psf: Any, stamp: bool = False
    ) -> None:
        """Add concentric components to `canvas`.

        Parameters
        ----------
        canvas : galsim.Image
            Its coordinates are pixels from the same origin as the profiles' x and y.
        components : sequence of Profile
        psf : galsim.GSObject
        stamp : bool
            Draw only where GalSim's good image size reaches (99.5 % of the light), which is
            faster for a small object; otherwise on the whole canvas.
        """
        light = galsim.Sum([self._light(c) for c in components])
        self._add(canvas, light, (components[0].x, components[0].y), psf, stamp)

    def _add(
        self, canvas: Any, light: Any, place: tuple[float, float], psf: Any, stamp: bool
    ) -> None:
        profile = galsim.Convolve(light, psf, gsparams=self._params)
        centre = galsim.PositionD(*place)
        if not stamp:
            profile.drawImage(canvas, center=centre, scale=self.scale, add_to_image=True)
            return
        x, y = map(int, place)
        half = min(profile.getGoodImageSize(self.scale), 4 * self.size) // 2
        whole = galsim.BoundsI(x - half, x + half, y - half, y + half)
        seen = whole & canvas.bounds
        if not seen.isDefined():
            return
        # The whole stamp, though the canvas may cut it: GalSim takes a finer grid in Fourier space
        # the farther a profile lies from the middle of what it draws.
        drawn = profile.drawImage(galsim.ImageF(whole), center=centre, scale=self.scale)
        canvas[seen] += drawn[seen]

    def _light(self, profile: Profile) -> Any:
        sersic = galsim.Sersic(
            profile.sersic_n,
            half_light_radius=profile.half_light_radius,
            flux=profile.flux,
            gsparams=self._params,
        )
        return sersic.shear(q=profile.axis_ratio, beta=profile.position_angle * galsim.degrees)


def _params(folding: float) -> Any:
    return galsim.GSParams(maximum_fft_size=8192, folding_threshold=folding)
