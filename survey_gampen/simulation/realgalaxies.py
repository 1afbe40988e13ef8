"""Real galaxies as light: ``simulate --real-galaxies``.

A catalogue in GalSim's layout holds stamps of galaxies seen by HST, with their PSFs. The stamp is
deconvolved, enlarged, turned, scaled to the drawn magnitude and seen through the simulated PSF
(Mandelbaum et al. 2012, MNRAS 420, 1518). Its truth is measured once: bulge and disk by a fit
(:mod:`survey_gampen.simulation.bulgedisk`), and the circle that holds half the light of the stamp.

A galaxy is enlarged (or made smaller) to the radius that the population draws, but never so far
that HST's own PSF would come out wider than the simulated one: beyond, the deconvolution shows. The
truth tells the radius that it has. HST's noise comes along, scaled as the galaxy is and smoothed by
the simulated PSF; it is not whitened. In a galaxy drawn far brighter than it is in the catalogue it
shows, as faint clumps out to the borders of the stamp: magnitudes like those of the catalogue are
the honest ones. Galaxies with less signal to noise than :data:`ENOUGH_SIGNAL` are not used; the
fitted B/T of a parametric galaxy scatters by 0.05 at 220. What was measured stands in ``real/``.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from astropy.io import fits

from survey_gampen.errors import InputError
from survey_gampen.simulation.bulgedisk import decompose
from survey_gampen.simulation.population import Galaxy, RealImage
from survey_gampen.simulation.rows import publish_rows

try:
    import galsim
except ImportError as error:  # pragma: no cover - depends on the installation
    raise InputError("simulating needs GalSim: pip install 'survey-gampen[sim]'") from error

#: Signal to noise, in the circle with half the light, that a galaxy must have.
ENOUGH_SIGNAL = 20.0
#: Galaxies measured at a time.
BLOCK = 16
#: Random numbers of galaxy i are keyed by i plus this: nothing else is drawn from that stream.
_STREAM = 1 << 43
_COLUMNS = ("IDENT", "GAL_FILENAME", "GAL_HDU", "PSF_FILENAME", "PSF_HDU", "NOISE_VARIANCE")


def find_catalog(path: Path) -> Path:
    """The catalogue that is `path`, or the one in that folder.

    Raises
    ------
    InputError
        If there is none, or it names files that are not beside it.
    """
    files = sorted(path.glob("*.fits")) if path.is_dir() else [path]
    found = [f for f in files if _is_catalog(f, strict=not path.is_dir())]
    if len(found) != 1:
        names = ", ".join(f.name for f in found) or "none"
        raise InputError(f"{path} must hold one catalogue of real galaxies, has {names}")
    with fits.open(found[0]) as hdus:
        rows = hdus[1].data
        if not len(rows):
            raise InputError(f"{found[0]} lists no galaxy")
        named = {*rows["GAL_FILENAME"], *rows["PSF_FILENAME"]}
        if "NOISE_FILENAME" in rows.names:
            named |= set(rows["NOISE_FILENAME"])
    if lacking := sorted(n.strip() for n in named if not (found[0].parent / n.strip()).is_file()):
        raise InputError(f"{found[0]} names {lacking[0]}, which is not beside it")
    return found[0].resolve()


def _is_catalog(path: Path, strict: bool) -> bool:
    try:
        with fits.open(path) as hdus:
            names = hdus[1].columns.names
    except (OSError, IndexError, AttributeError) as error:
        if strict:
            reason = error if isinstance(error, OSError) else "no table in its first extension"
            raise InputError(f"{path} is no catalogue of real galaxies: {reason}") from None
        return False
    lacking = [c for c in _COLUMNS if c not in names]
    if strict and lacking:
        raise InputError(f"{path} is no catalogue of real galaxies: it lacks {', '.join(lacking)}")
    return not lacking


@lru_cache(maxsize=1)
def _open(catalog: str) -> Any:
    path = Path(catalog)
    return galsim.RealGalaxyCatalog(path.name, dir=str(path.parent))


def count_blocks(catalog: Path) -> int:
    """Calls of :func:`measure_block` that measure all."""
    return -(-_open(str(catalog)).nobjects // BLOCK)


def block_file(out: Path, block: int) -> Path:
    """Where a block's measurements lie."""
    return out / "real" / f"part-{block:06d}.parquet"


def measure_block(out: str, catalog: str, block: int) -> None:
    """Measure and publish one block of the catalogue; runs on any worker."""
    stamps = _open(catalog)
    numbers = range(block * BLOCK, min((block + 1) * BLOCK, stamps.nobjects))
    table = pa.Table.from_pylist([_measure(stamps, number) for number in numbers])
    publish_rows(block_file(Path(out), block), table, Path(out))


def _measure(stamps: Any, number: int) -> dict[str, Any]:
    """Radii and positions in arcsec, angles counter-clockwise from x in degrees."""
    try:
        image, psf = stamps.getGalImage(number), stamps.getPSFImage(number)
        scale = float(image.scale)
        profile = galsim.InterpolatedImage(psf, flux=1.0)
        sigma = float(np.sqrt(stamps.variance[number]))
        fit = decompose(image.array.astype(float), psf.array.astype(float), sigma)
    except (OSError, galsim.GalSimError, ValueError) as error:
        return {"number": number, "identity": int(stamps.ident[number]), "problem": str(error)}
    return {
        "number": number,
        "identity": int(stamps.ident[number]),
        "bt": fit.bt,
        "r_e": fit.r_e * scale,
        "x": fit.x * scale,
        "y": fit.y * scale,
        "disk_radius": fit.radius[0] * scale,
        "bulge_radius": fit.radius[1] * scale,
        "disk_axis_ratio": fit.axis_ratio[0],
        "bulge_axis_ratio": fit.axis_ratio[1],
        "disk_angle": fit.angle[0],
        "bulge_angle": fit.angle[1],
        "signal_to_noise": fit.signal_to_noise,
        "chi2": fit.chi2,
        "psf_fwhm": float(profile.calculateFWHM()),
        "problem": None,
    }


class RealGalaxies:
    """The galaxies of a catalogue that are good enough, measured.

    Parameters
    ----------
    catalog : Path
        From :func:`find_catalog`.
    out : Path
        Where :func:`measure_block` put its blocks.

    Raises
    ------
    InputError
        If none is good enough.
    """

    def __init__(self, catalog: Path, out: Path) -> None:
        self.catalog = catalog
        rows = [
            row
            for block in range(count_blocks(catalog))
            for row in pq.read_table(block_file(out, block)).to_pylist()
        ]
        self.measured = [r for r in rows if (r.get("signal_to_noise") or 0) >= ENOUGH_SIGNAL]
        if not self.measured:
            raise InputError(
                f"{catalog}: none of {len(rows)} galaxies has signal to noise {ENOUGH_SIGNAL:g}"
            )

    def become(self, galaxy: Galaxy, seed: int, psf_fwhm: float) -> Galaxy:
        """A drawn galaxy as a real one of the same flux, place, PSF and neighbours.

        Parameters
        ----------
        galaxy : Galaxy
        seed : int
            With `galaxy.index` decides which one it becomes, and how it is turned.
        psf_fwhm : float
            Of the PSF that it is seen through [arcsec].
        """
        rng = np.random.Generator(np.random.Philox(key=[seed, galaxy.index + _STREAM]))
        which, turn = rng.uniform(size=2)
        row = self.measured[int(which * len(self.measured))]
        factor = min(galaxy.r_e / row["r_e"], psf_fwhm / row["psf_fwhm"])
        shapes = {
            side: replace(
                profile,
                sersic_n=index,
                half_light_radius=row[f"{side}_radius"] * factor,
                flux=galaxy.flux * share,
                axis_ratio=row[f"{side}_axis_ratio"],
                position_angle=(row[f"{side}_angle"] + 360 * turn) % 180,
            )
            for side, profile, index, share in (
                ("disk", galaxy.disk, 1.0, 1 - row["bt"]),
                ("bulge", galaxy.bulge, 4.0, row["bt"]),
            )
        }
        return replace(
            galaxy,
            bt=row["bt"],
            r_e=row["r_e"] * factor,
            real=RealImage(
                row["number"], row["identity"], factor, 360 * float(turn), row["x"], row["y"]
            ),
            disk=shapes["disk"],
            bulge=shapes["bulge"],
        )

    def profile(self, galaxy: Galaxy, params: Any) -> Any:
        """Its light before the PSF, as a GalSim profile around its centre."""
        assert galaxy.real is not None
        real = galaxy.real
        light = _light(str(self.catalog), real.number, params)
        centred = light.withFlux(galaxy.flux).shift(-real.x, -real.y)
        return centred.dilate(real.factor).rotate(real.turn * galsim.degrees)


@lru_cache(maxsize=256)
def _light(catalog: str, number: int, params: Any) -> Any:
    # The generator is for noise that nobody asks for; without one GalSim seeds one by the clock.
    rng = galsim.BaseDeviate(1)
    return galsim.RealGalaxy(_open(catalog), index=number, rng=rng, gsparams=params)
