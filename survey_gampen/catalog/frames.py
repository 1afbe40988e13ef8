"""Positions as degrees in ICRS, from other units and frames where a file names them.

FITS: ``RADESYS`` and ``EQUINOX`` of the table's header (FITS standard 4.0, section 8.3), where an
equinox before 1984 alone means FK4. VOTable: ``COOSYS`` (VOTable 1.4, section 3.1; its names of
systems). FK5 of J2000 and ICRS differ by some 20 milliarcseconds.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from astropy import units
from astropy.coordinates import FK4, FK5, ICRS, BaseCoordinateFrame, Galactic, SkyCoord
from astropy.table import Column, MaskedColumn

from survey_gampen.errors import InputError

_NAMES = {
    "icrs": "icrs",
    **dict.fromkeys(("fk5", "eq_fk5"), "fk5"),
    **dict.fromkeys(("fk4", "eq_fk4"), "fk4"),
    **dict.fromkeys(("galactic", "gal"), "galactic"),
}


def to_degrees(column: Column, what: str, notes: list[str]) -> Column:
    """A column of right ascension or declination in degrees.

    Raises
    ------
    InputError
        When its unit is that of something else.
    """
    unit = getattr(column, "unit", None)
    if unit is None or unit == units.deg or unit == units.dimensionless_unscaled:
        return column
    if isinstance(unit, units.UnrecognizedUnit):
        notes.append(f"{what} has the unit {str(unit)!r}, which is unknown: taken as degrees")
        return column
    if unit.is_equivalent(units.deg):
        notes.append(f"{what} is in {unit}: turned to degrees")
        factor = unit.to(units.deg)
        # A masked column's own `to` forgets the mask: its empty cells would get positions.
        return MaskedColumn(np.ma.asarray(column) * factor, unit=units.deg)
    if unit == units.hour:  # of time, as FITS has no other word for hours of right ascension
        notes.append(f"{what} is in hours: turned to degrees")
        column = column * 15.0
        column.unit = units.deg
        return column
    raise InputError(f"{what} is in {unit}, which is no angle; give it in degrees")


def frame_of(
    name: str, of_column: str | None, meta: Mapping[str, Any]
) -> BaseCoordinateFrame | None:
    """The frame of the positions where it is another than ICRS; None where it is, or is not told.

    Parameters
    ----------
    name : str
        Of the file, for errors.
    of_column : str or None
        System and equinox as a VOTable has them.
    meta : mapping
        Cards of a FITS header.

    Raises
    ------
    InputError
        When positions in that frame can't be turned into ICRS.
    """
    if of_column is not None:
        system, _, equinox = of_column.partition(" ")
    else:
        cards = {str(key).upper(): value for key, value in meta.items()}
        system = str(cards.get("RADESYS", cards.get("RADECSYS", ""))).strip()
        equinox = str(cards.get("EQUINOX", "")).strip()
        year = _year(equinox)
        if not system and year is not None and year < 1984.0:
            system = "FK4"
    if not system:
        return None
    known = _NAMES.get(system.lower())
    if known is None:
        raise InputError(
            f"{name}: positions are in the frame {system!r}; turn them into ICRS (FK5, FK4 and "
            "galactic positions are turned here)"
        )
    if known == "icrs":
        return None
    if known == "galactic":
        return Galactic()
    year = _year(equinox)
    if known == "fk5":
        return FK5(equinox=f"J{year or 2000.0}")
    return FK4(equinox=f"B{year or 1950.0}")


def _year(equinox: str) -> float | None:
    found = re.fullmatch(r"[JB]?(\d{4}(?:\.\d*)?)", equinox.strip(), re.IGNORECASE)
    return float(found[1]) if found else None


def to_icrs(
    table: pa.Table, ra: str, dec: str, frame: BaseCoordinateFrame, notes: list[str]
) -> pa.Table:
    """The table with positions turned into ICRS; rows without a position keep what they have.

    Columns that hold no numbers stay as they are, for whoever looks at types to refuse.
    """
    kinds = [table.schema.field(name).type for name in (ra, dec)]
    if not all(pa.types.is_integer(kind) or pa.types.is_floating(kind) for kind in kinds):
        return table
    values = [pc.cast(table[name], pa.float64()).combine_chunks() for name in (ra, dec)]
    good = pc.and_(pc.is_finite(values[0]), pc.less_equal(pc.abs(values[1]), 90.0))
    good = pc.fill_null(good, False)
    one, other = (value.filter(good).to_numpy() for value in values)
    sky = SkyCoord(one, other, unit="deg", frame=frame).transform_to(ICRS())
    for name, value, turned in zip((ra, dec), values, (sky.ra.deg, sky.dec.deg), strict=True):
        turned = pc.replace_with_mask(value, good, pa.array(turned))
        table = table.set_column(table.schema.get_field_index(name), name, turned)
    notes.append(f"positions are in the frame {frame.name}: turned into ICRS")
    return table
