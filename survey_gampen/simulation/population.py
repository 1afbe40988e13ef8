"""Draws galaxies from a population written down in TOML.

Galaxy `i` of seed `s` is the same whoever draws it and in which company: its random numbers come
from a counter-based generator keyed by (s, i).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammainc, gammaincinv

from survey_gampen import tomlfile
from survey_gampen.errors import InputError
from survey_gampen.simulation.noise import Field, field_of

_SHIPPED = Path(__file__).parent / "populations"

#: Sersic indices are drawn on this grid: GalSim tabulates a profile once an index.
SERSIC_STEP = 0.05


@dataclass(frozen=True)
class Profile:
    """One Sersic component; radii in arcsec, flux in ADU, position angle in degrees."""

    sersic_n: float
    half_light_radius: float
    flux: float
    axis_ratio: float
    position_angle: float
    x: float = 0.0
    y: float = 0.0


@dataclass(frozen=True)
class RealImage:
    """A catalogued galaxy whose image stands for disk and bulge.

    Attributes
    ----------
    number : int
        Its row in the catalogue.
    identity : int
        Its IDENT there.
    factor : float
        By which it is enlarged.
    turn : float
        Counter-clockwise [deg].
    x, y : float
        The galaxy in its image, from the image's centre [arcsec].
    """

    number: int
    identity: int
    factor: float
    turn: float
    x: float
    y: float


@dataclass(frozen=True)
class Galaxy:
    """One simulated galaxy with its truth, sky, PSF and neighbours.

    Attributes
    ----------
    index : int
    bt : float
        Bulge-to-total ratio.
    r_e : float
        Radius of the circle that holds half the light of the whole galaxy [arcsec].
    flux : float
        Total [ADU].
    magnitude : float
    disk, bulge : Profile
        Concentric; one of them may hold no light. Positions in px from the cutout's centre.
    neighbours : tuple of Profile
    moffat_fwhm, moffat_beta : float
        PSF; NaN where `psf_index` >= 0 names one of the given ones.
    psf_index, psf_turn : int
        Given PSF and its right-angle turn; -1 for a Moffat profile.
    sky_sigma : float
        [ADU].
    sky_piece : int
        Piece of real sky whose noise it has; -1 for the population's own.
    real : RealImage or None
        Its image, if it is a real galaxy; disk and bulge are then a fit to it.
    """

    index: int
    bt: float
    r_e: float
    flux: float
    magnitude: float
    disk: Profile
    bulge: Profile
    neighbours: tuple[Profile, ...]
    moffat_fwhm: float
    moffat_beta: float
    psf_index: int
    psf_turn: int
    sky_sigma: float
    sky_piece: int = -1
    real: RealImage | None = None

    @property
    def components(self) -> tuple[Profile, ...]:
        """Those of disk and bulge that hold light."""
        return tuple(p for p in (self.disk, self.bulge) if p.flux > 0)


@dataclass(frozen=True)
class Population:
    """A population: `table` is the TOML file as read."""

    table: dict[str, Any]

    @classmethod
    def load(cls, name_or_path: str | Path, bands: Sequence[str] = ()) -> Population:
        """A shipped population by name, or a TOML file.

        Parameters
        ----------
        name_or_path : str or Path
        bands : sequence of str
            Bands that are seen together, the population's own first; none: that alone.

        Raises
        ------
        InputError
            If it is missing, no TOML, its keys are not those of the shipped populations, or it
            does not know one of the bands.
        """
        table, path = tomlfile.shipped_or_own(name_or_path, _SHIPPED, "population")
        table, model = completed(table), tomlfile.read(_SHIPPED / "hsc-wide.toml")
        others, known = table.pop("bands", {}), model.pop("bands")
        tomlfile.check_like(table, model, str(path))
        if bands and (bands[0] != table["band"] or len(set(bands)) < len(bands)):
            raise InputError(
                f"--bands {','.join(bands)}: the first must be that of the truth, {table['band']}"
                f" in {path}, and each stand there once"
            )
        for band in bands[1:]:
            if not isinstance(others, dict) or band not in others:
                there = ", ".join(others) if isinstance(others, dict) and others else "none"
                raise InputError(
                    f"{path} has no table [bands.{band}] (besides {table['band']} there is"
                    f" {there}): write one like those of hsc-wide"
                )
            tomlfile.check_like({band: others[band]}, {band: known["r"]}, f"{path} [bands]")
        if bands[1:]:
            table["bands"] = {band: others[band] for band in bands[1:]}
        if not 0 <= table["noise"]["correlation"] <= 10:
            raise InputError(f"{path} [noise]: correlation must be 0 to 10 px")
        return cls(table)

    def __getitem__(self, key: str) -> Any:
        try:
            return self.table[key]
        except KeyError:
            raise InputError(
                f"population {self.table.get('name')!r} lacks the key {key!r}"
            ) from None

    @property
    def bands(self) -> tuple[str, ...]:
        """Bands that are seen together; truths are of the first."""
        return (self["band"], *self.table.get("bands", {}))

    def observed(self, band: str) -> dict[str, Any]:
        """PSF and sky in a band: ``fwhm`` [arcsec], ``sky_sigma`` and ``sky_level`` [ADU]."""
        if band == self["band"]:
            return {"fwhm": self["psf"]["fwhm"], **self["noise"]}
        return dict(self["bands"][band])

    @property
    def noise_field(self) -> Field:
        """How the noise of one pixel goes with that of the next."""
        return field_of(self.noise_correlation)

    @property
    def noise_correlation(self) -> float:
        """Standard deviation of the kernel that smooths the noise [px]; 0 for white noise."""
        return float(self["noise"].get("correlation", 0.0))

    @property
    def unit(self) -> float:
        """1 ADU in nJy, from the AB zero point."""
        return float(10 ** (0.4 * (31.4 - self["zero_point"])))

    def light(
        self, rng: np.random.Generator, n: int
    ) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Total AB magnitudes and bulge-to-total ratios of `n` galaxies."""
        low, high = self["magnitude"]
        magnitude = rng.uniform(low, high, size=n)
        kind, share = rng.uniform(size=(2, n))
        double = self["two_components"]
        single = np.where(kind < double + self["pure_disk"], 0.0, 1.0)
        return magnitude, np.where(kind < double, share, single)

    def draw(self, seed: int, index: int, n_given_psfs: int = 0) -> Galaxy:
        """Galaxy number `index` of `seed`."""
        rng = np.random.Generator(np.random.Philox(key=[seed, index]))
        (magnitude,), (bt,) = self.light(rng, 1)
        flux = 10 ** (-0.4 * (magnitude - self["zero_point"]))

        angle = rng.uniform(0, 180)
        x, y = rng.uniform(-self["centre_offset"], self["centre_offset"], size=2)
        disk = _sersic(rng, self["disk"], flux * (1 - bt), angle, x, y)
        tilt = self["bulge"]["max_misalignment"]
        bulge_angle = angle + rng.uniform(-tilt, tilt)
        bulge = _sersic(rng, self["bulge"], flux * bt, bulge_angle, x, y)

        sides = (disk, bulge)
        (r_e,) = half_light_radius(
            [[p.sersic_n] for p in sides],
            [[p.half_light_radius] for p in sides],
            [[p.axis_ratio] for p in sides],
            np.array([bt]),
        )

        psf = self["psf"]
        fwhm, beta = rng.uniform(*psf["fwhm"]), rng.uniform(*psf["moffat_beta"])
        chance, which, turn = rng.uniform(size=3)
        given = n_given_psfs > 0 and chance < psf["given_share"]
        sky_sigma = rng.uniform(*self["noise"]["sky_sigma"])

        around = self["neighbours"]
        half = self["size"] / 2
        neighbours = []
        for _ in range(rng.integers(around["count"][0], around["count"][1], endpoint=True)):
            light = 10 ** (-0.4 * (rng.uniform(*around["magnitude"]) - self["zero_point"]))
            where = rng.uniform(-half, half, size=2)
            neighbours.append(_sersic(rng, around, light, rng.uniform(0, 180), *where))
        return Galaxy(
            index=index,
            bt=float(bt),
            r_e=float(r_e),
            flux=float(flux),
            magnitude=float(magnitude),
            disk=disk,
            bulge=bulge,
            neighbours=tuple(neighbours),
            moffat_fwhm=float("nan") if given else float(fwhm),
            moffat_beta=float("nan") if given else float(beta),
            psf_index=int(which * n_given_psfs) if given else -1,
            psf_turn=int(turn * 4) if given else 0,
            sky_sigma=float(sky_sigma),
        )


def completed(table: dict[str, Any]) -> dict[str, Any]:
    """A population's table with the keys that came after it was written, at their old meaning."""
    noise = table.get("noise")
    if not isinstance(noise, dict):
        return table
    return table | {"noise": noise | {"correlation": noise.get("correlation", 0.0)}}


def light_within(
    sersic_n: ArrayLike, radius: ArrayLike, axis_ratio: ArrayLike
) -> Callable[[ArrayLike], NDArray[np.float64]]:
    """How the light of elliptical profiles grows with the radius of a circle around them.

    An ellipse of axis ratio q and circularised radius m meets the circle of radius R, in
    direction t of its own frame, where ``m = R / sqrt(cos(t)^2 / q + q sin(t)^2)``; the light
    inside the circle is the mean over t of the light inside m, a regularised incomplete gamma
    function (Graham & Driver 2005, PASA 22, 118, eq. 2 and 4). The position angle drops out.

    Parameters
    ----------
    sersic_n, radius, axis_ratio : array_like, (...)
        The radius is the circularised half-light radius.

    Returns
    -------
    callable
        Radii of circles, which broadcast against (...), to shares of the light (...).
    """
    t = (np.arange(32) + 0.5) * (np.pi / 64)  # a quarter turn is enough, by symmetry
    n, r, q = (np.asarray(v, dtype=float)[..., None] for v in (sersic_n, radius, axis_ratio))
    b = gammaincinv(2 * n, 0.5)
    unit = r * np.sqrt(np.cos(t) ** 2 / q + q * np.sin(t) ** 2)

    def within(circle: ArrayLike) -> NDArray[np.float64]:
        share = gammainc(2 * n, b * (np.asarray(circle)[..., None] / unit) ** (1 / n))
        return np.asarray(share.mean(-1))

    return within


def half_light_radius(
    sersic_n: ArrayLike, radius: ArrayLike, axis_ratio: ArrayLike, bt: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Radius of the circle that holds half the light of concentric elliptical profiles.

    Parameters
    ----------
    sersic_n, radius, axis_ratio : array_like, (2, n)
        Of disk and bulge; the radius is the circularised half-light radius [arcsec].
    bt : ndarray, (n,)
        Share of the light in the bulge.

    Returns
    -------
    ndarray, (n,)
        [arcsec]
    """
    r, q = np.asarray(radius, dtype=float), np.asarray(axis_ratio, dtype=float)
    within = light_within(sersic_n, r, q)
    weight = np.stack([1 - bt, bt])
    # Half the light of each ellipse, and so of both, lies between its two semi-axes.
    low = np.log((r * np.sqrt(q)).min(0))
    high = np.log((r / np.sqrt(q)).max(0))
    for _ in range(16):  # to 1e-4 or better of the radius
        middle = 0.5 * (low + high)
        inside = (weight * within(np.exp(middle))).sum(0) < 0.5
        low, high = np.where(inside, middle, low), np.where(inside, high, middle)
    return np.exp(0.5 * (low + high))


def _sersic(
    rng: np.random.Generator, ranges: dict[str, Any], flux: float, angle: float, x: float, y: float
) -> Profile:
    n = round(rng.uniform(*ranges["sersic_n"]) / SERSIC_STEP) * SERSIC_STEP
    return Profile(
        sersic_n=round(n, 2),
        half_light_radius=float(rng.uniform(*ranges["half_light_radius"])),
        flux=float(flux),
        axis_ratio=float(rng.uniform(*ranges["axis_ratio"])),
        position_angle=float(angle),
        x=float(x),
        y=float(y),
    )
