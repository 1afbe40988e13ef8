"""`survey-gampen labels simard2011`: labels from the bulge and disk fits of Simard et al. (2011).

Table 1 of Simard et al. 2011 (ApJS 196, 11; VizieR J/ApJS/196/11): a de Vaucouleurs bulge and an
exponential disk, fitted to SDSS DR7 images in g and r at once. Columns by the catalogue's ReadMe:

=========================  ==========  ==============================================  ============
column                     unit        what                                            becomes
=========================  ==========  ==============================================  ============
``(B/T)g``, ``e_(B/T)g``               bulge fraction in g, and its error              bt, bt_err
``Rchl,g``                 kpc         circular half-light radius of the galaxy in g   r_e
``Scale``                  kpc/arcsec  scale at the redshift ``z``                     r_e
``gg2d``, ``e_gg2d``       mag         g of the model, and its error                   flux(_err)
=========================  ==========  ==============================================  ============

-99.99 stands for no value. Three things worth knowing:

* The fit is to pixels, so kpc over ``Scale`` gives back the arcsec that were fitted whatever the
  redshift is worth; rows with a photometric one (``Sp`` -1) are as good as the others.
* ``gg2d`` is *not* corrected for Galactic extinction, as our flux is not. Shown on 775 galaxies
  that the NASA-Sloan Atlas gives A_g for: gg2d - ggMag - distance modulus, less a K correction
  linear in z and g - r, grows with A_g by 0.97 +- 0.01 (the absolute ggMag is the corrected one).
* It is read as AB and logarithmic. SDSS g is AB to 0.01 mag, and its asinh magnitudes differ from
  logarithmic ones by less than 0.001 mag at g < 20.5.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
from astropy import units as u
from astropy.cosmology import FlatLambdaCDM
from numpy.typing import ArrayLike, NDArray

from survey_gampen.catalog import open_catalog
from survey_gampen.errors import InputError
from survey_gampen.survey import load_survey
from survey_gampen.training.labels import crossmatch
from survey_gampen.training.labels.cuts import Cut, apply_cuts
from survey_gampen.training.labels.output import refuse_duplicates, refuse_other, write
from survey_gampen.training.labels.published import numbers, read_published

#: What VizieR calls the columns in FITS, VOTable and CSV, and TOPCAT after a join.
NEEDED: dict[str, Sequence[str]] = {
    "ra": ("_RA", "_RAJ2000", "RAJ2000", "ra"),
    "dec": ("_DE", "_DEJ2000", "DEJ2000", "dec"),
    "bt": ("__B_T_g", "B_T_g", "(B/T)g"),
    "g": ("gg2d",),
    "radius": ("Rchl_g", "Rchl,g"),
    "scale": ("Scale",),
}
#: A cut or a column that wants one of these is left out without it.
OPTIONAL: dict[str, Sequence[str]] = {
    "bt_err": ("e__B_T_g", "e_(B/T)g", "e_B_T_g"),
    "g_err": ("e_gg2d",),
    "major": ("Rhlg",),
    "z": ("z", "z_1", "z_2"),
    "sp": ("Sp",),
    "objid": ("objID", "objID_1", "objID_2"),
}
NO_VALUE = -99.99
_ADVICE = "get table 1 of VizieR J/ApJS/196/11, all columns and the computed positions, as FITS"
#: The AB magnitude of 1 nJy (Oke & Gunn 1983: 0 mag are 3631 Jy).
AB_OF_NJY = 31.4

#: Largest separation [arcsec]. Of 795 galaxies in both the NASA-Sloan Atlas and Simard et al., 793
#: are closer; further out, a deep survey has other objects in the same galaxy.
MAX_SEP = 1.0
Z_RANGE = (0.005, 0.4)
SCALE_TOLERANCE = 0.05
AXES_RANGE = (0.5, 1.1)
R_E_RANGE = (0.2, 20.0)
G_RANGE = (12.0, 20.5)
#: SpecClass of SDSS: star, quasar, distant quasar, blank sky, late star.
NOT_GALAXIES = (1, 3, 4, 5, 6)
#: Error of B/T, and relative one of the flux, at which a label counts half.
HALF_WEIGHT = 0.1
#: That of Simard et al. 2011: their ``Scale`` agrees with it to 0.4 %.
COSMOLOGY = FlatLambdaCDM(H0=70.0, Om0=0.3)

_ABOUT = {
    "ra": ("deg", "right ascension in the catalogue, ICRS"),
    "dec": ("deg", "declination in the catalogue, ICRS"),
    "bt": ("", "bulge-to-total ratio in g"),
    "r_e": ("arcsec", "radius of the circle that holds half the light in g, before the PSF"),
    "flux": ("nJy", "flux in g, not corrected for Galactic extinction"),
    "bt_err": ("", "error of bt"),
    "flux_err": ("nJy", "error of flux"),
    "weight": ("", "weight of the label in training, 1 for one without error"),
    "separation": ("arcsec", "from the position of Simard et al."),
    "z": ("", "redshift in Simard et al."),
    "simard_objid": ("", "SDSS DR7 objID in Simard et al."),
}

Columns = Mapping[str, NDArray[np.float64]]


def main(
    file: Path,
    catalog: Path,
    out: Path,
    *,
    max_sep: float = MAX_SEP,
    survey: str = "hsc-wide",
    select: str | None = None,
) -> int:
    """Label the rows of a catalogue that Simard et al. measured; print the count of each cut.

    Parameters
    ----------
    file : Path
        Table 1 as VizieR gives it: FITS, VOTable, CSV or Parquet.
    catalog : Path
        What ``run`` takes.
    out : Path
        Parquet file; one that this verb made before is replaced.
    max_sep : float
        Largest separation [arcsec].
    survey : str
        Survey profile, for the catalogue's column names.
    select : str, optional
        Only the catalogue rows for which this is true, as for ``run``.

    Raises
    ------
    InputError
        When an input cannot be used, no row is left, or `out` holds something else. Nothing is
        written then.
    """
    if not (math.isfinite(max_sep) and 0.0 < max_sep <= 60.0):
        raise InputError(f"--max-sep {max_sep:g}: give arcsec above 0, at most 60")
    refuse_other(out, (file, catalog))
    profile = load_survey(survey)
    rows = open_catalog(catalog, profile.columns, select=select, cuts=profile.cuts_in("g"))
    simard, objid = read_simard(file)
    pairs = crossmatch.match(rows, simard["ra"], simard["dec"], max_sep)
    if not len(pairs):
        raise InputError(crossmatch.no_overlap(rows, simard["ra"], simard["dec"], file, max_sep))
    tally = apply_cuts(len(objid), [*simard_cuts(simard), *match_cuts(len(objid), pairs, max_sep)])
    tally.print(f"{file.name} and {catalog.name}")
    if pairs.unusable:
        print(f"{pairs.unusable} rows of {catalog} have no object_id or no position: left out")
    if not tally.n_kept:
        raise InputError(f"no row of {file} passes all cuts (counts above): nothing is written")
    # A row that is kept has one pair only: that is the last cut.
    table = labelled(simard, objid, pairs, np.flatnonzero(tally.kept[pairs.reference]))
    refuse_duplicates(table["object_id"], catalog)
    footer = {"source": "simard2011", "max_sep_arcsec": max_sep, "dropped": tally.dropped}
    write(table, footer, out)
    print(f"{len(table)} labelled galaxies in {out}")
    return 0


def read_simard(path: Path) -> tuple[dict[str, NDArray[np.float64]], pa.Array]:
    """Read the columns that labels are made of.

    Returns
    -------
    columns : dict of str to ndarray, (n,)
        Those of :data:`NEEDED` and, where the file has them, of :data:`OPTIONAL`; NaN for no value.
    objid : pyarrow.Array of string, (n,)
        SDSS objID; null where there is none.

    Raises
    ------
    InputError
        When the file cannot be read, holds no rows, or lacks columns.
    """
    table = read_published(path, NEEDED, OPTIONAL, _ADVICE)
    objid = pa.nulls(len(table), pa.string())
    if "objid" in table.column_names:
        objid = table["objid"].cast(pa.string()).combine_chunks()
        table = table.drop_columns("objid")
    return {key: numbers(table, key, path, NO_VALUE) for key in table.column_names}, objid


def simard_cuts(simard: Columns) -> list[Cut]:
    """The cuts on the measurement itself, in the order in which they are applied.

    Parameters
    ----------
    simard : mapping of str to ndarray, (n,)
        As of :func:`read_simard`.
    """
    bt, g, radius, scale = (simard[key] for key in ("bt", "g", "radius", "scale"))
    z = simard.get("z")
    r_e = _ratio(radius, scale)
    low, high = Z_RANGE
    values = np.isfinite(bt) & np.isfinite(g) & np.isfinite(radius) & np.isfinite(scale)
    errors = [simard[key] for key in ("bt_err", "g_err") if key in simard]
    failed = [~(np.isfinite(error) & (error >= 0)) for error in errors]
    return [
        Cut("position", "not on the sky", ~crossmatch.on_sky(simard["ra"], simard["dec"])),
        Cut("no_value", "B/T, radius, scale or magnitude missing (-99.99)", ~values),
        Cut("fit", "no error of B/T or magnitude: the fit failed",
            np.any(failed, axis=0) if failed else None),
        Cut("class", "spectrum of a star, quasar or blank sky",
            np.isin(simard["sp"], NOT_GALAXIES) if "sp" in simard else None),
        Cut("bt", "B/T outside 0..1", ~((bt >= 0) & (bt <= 1))),
        # Nearer than 0.005, radii rounded to 0.01 kpc are uncertain by more than 0.05".
        Cut("redshift", f"outside {low:g}..{high:g}: radii rounded, or redshift wrong",
            None if z is None else ~((z >= low) & (z <= high))),
        Cut("scale", "scale not positive, or not that of the redshift", ~_scale_fits(scale, z)),
        Cut("radius_sign", "radius not positive: no value was found", ~(radius > 0)),
        # The flattest that was fitted, a disk at 85 deg, has 0.55 of its semi-major radius.
        Cut("radius_axes", "circular over semi-major radius outside {:g}..{:g}".format(*AXES_RANGE),
            _outside(_ratio(radius, simard["major"]), AXES_RANGE) if "major" in simard else None),
        # Half a pixel of SDSS; half the side of a cutout of 239 px of HSC.
        Cut("radius", "R_e outside {:g}..{:g} arcsec".format(*R_E_RANGE), _outside(r_e, R_E_RANGE)),
        # The sample is r = 14..18; g - r of galaxies is below 2.5.
        Cut("magnitude", "g outside {:g}..{:g}".format(*G_RANGE), _outside(g, G_RANGE)),
    ]  # fmt: skip


def match_cuts(n: int, pairs: crossmatch.Pairs, max_sep: float) -> list[Cut]:
    """The cuts on the match of `n` rows of Simard et al. with a catalogue.

    Rows that fail a cut of :func:`simard_cuts` take part in the match: a neighbour with a bad fit
    makes a match no less ambiguous.
    """
    partner, single = np.zeros(n, bool), np.zeros(n, bool)
    partner[pairs.reference] = True
    single[pairs.reference[~pairs.ambiguous()]] = True
    return [
        Cut("separation", f'no catalogue row within {max_sep:g}"', ~partner),
        Cut("ambiguous", f'two of either side within {max_sep:g}"', ~single),
    ]


def nanojansky(magnitude: ArrayLike) -> NDArray[np.float64]:
    """Flux [nJy] of an AB magnitude."""
    return np.asarray(10.0 ** (0.4 * (AB_OF_NJY - np.asarray(magnitude, float))))


def weight(bt_err: ArrayLike, relative_flux_err: ArrayLike) -> NDArray[np.float64]:
    """Weight of a label, 1 / (1 + (e_bt / 0.1)^2 + (e_flux / 0.1)^2).

    An inverse variance on a floor: the errors are those of the fit alone, a third of them is 0.00,
    and what a bulge and a disk leave out of a galaxy is not among them.
    """
    bt_err, relative_flux_err = np.asarray(bt_err, float), np.asarray(relative_flux_err, float)
    return np.asarray(
        1.0 / (1.0 + (bt_err / HALF_WEIGHT) ** 2 + (relative_flux_err / HALF_WEIGHT) ** 2)
    )


def labelled(
    simard: Columns, objid: pa.Array, pairs: crossmatch.Pairs, chosen: NDArray[np.int64]
) -> pa.Table:
    """The labelled catalogue: the rows of the chosen pairs, with labels.

    Parameters
    ----------
    simard, objid
        As of :func:`read_simard`.
    pairs : Pairs
    chosen : ndarray of int, (k,)
        Which pairs; their rows of Simard et al. have passed the cuts.

    Returns
    -------
    pyarrow.Table
        ``object_id``, ``ra``, ``dec`` of the catalogue, ``bt``, ``r_e`` [arcsec], ``flux`` [nJy],
        where the errors are there ``bt_err``, ``flux_err`` and ``weight``, then ``separation``
        [arcsec], ``z`` and ``simard_objid``.
    """
    which = pairs.reference[chosen]
    of = {key: values[which] for key, values in simard.items()}
    columns: dict[str, object] = {
        "bt": of["bt"],
        "r_e": of["radius"] / of["scale"],
        "flux": nanojansky(of["g"]),
    }
    if "bt_err" in of and "g_err" in of:
        relative = 0.4 * math.log(10.0) * of["g_err"]
        columns["bt_err"] = of["bt_err"]
        columns["flux_err"] = relative * nanojansky(of["g"])
        columns["weight"] = weight(of["bt_err"], relative)
    columns["separation"] = pairs.separation[chosen]
    if "z" in of:
        columns["z"] = of["z"]
    columns["simard_objid"] = objid.take(pa.array(which))
    table = pairs.rows.take(pa.array(chosen))
    for name, values in columns.items():
        table = table.append_column(name, pa.array(values))
    for k, name in enumerate(table.column_names[1:], 1):
        unit, description = _ABOUT[name]
        about = {"unit": unit, "description": description}
        table = table.set_column(k, table.field(name).with_metadata(about), table[name])
    return table


def _scale_fits(scale: NDArray[np.float64], z: NDArray[np.float64] | None) -> NDArray[np.bool_]:
    """Which scales [kpc/arcsec] are positive and, with a redshift, those of the cosmology."""
    fits = scale > 0
    if z is not None:
        known = fits & (z > 0)
        expected = COSMOLOGY.kpc_proper_per_arcmin(z[known]).to_value(u.kpc / u.arcsec)
        fits[known] = np.abs(scale[known] / expected - 1) <= SCALE_TOLERANCE
    return np.asarray(fits)


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    """a / b; NaN where b is not positive."""
    return np.divide(a, b, out=np.full_like(a, np.nan), where=b > 0)


def _outside(values: NDArray[np.float64], limits: tuple[float, float]) -> NDArray[np.bool_]:
    return ~((values >= limits[0]) & (values <= limits[1]))
