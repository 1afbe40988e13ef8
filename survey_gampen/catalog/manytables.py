"""Files that may hold several tables: the first is taken that has the columns which are needed."""

from __future__ import annotations

from collections.abc import Collection
from pathlib import Path

from astropy.io import fits, votable
from astropy.table import Table


def one_fits_table(path: Path, needed: Collection[str]) -> Table:
    """The first table of a FITS file that has all needed columns, or else its first table.

    Raises
    ------
    ValueError
        When it holds no table.
    """
    with fits.open(path) as hdus:
        tables = [
            hdu
            for hdu in hdus
            # A compressed image is stored as a table.
            if isinstance(hdu, fits.BinTableHDU | fits.TableHDU)
            and not isinstance(hdu, fits.CompImageHDU)
        ]
        if not tables:
            raise ValueError("it holds no table")
        wanted = set(needed)
        fitting = (hdu for hdu in tables if wanted <= set(hdu.columns.names))
        return Table.read(next(fitting, tables[0]), format="fits")


def one_votable(path: Path, needed: Collection[str]) -> tuple[Table, dict[str, str]]:
    """The first table of a VOTable file that has all needed columns, or else its first table.

    A field has an ID and a name; which of them a user means is what fits.

    Returns
    -------
    table : astropy.table.Table
    frames : dict
        The reference system of each column that has one, as ``COOSYS`` gives it, with its equinox:
        ``eq_FK5 J2000``.

    Raises
    ------
    ValueError
        When it holds no table.
    """
    document = votable.parse(path)
    tables = list(document.iter_tables())
    if not tables:
        raise ValueError("it holds no table")
    wanted = set(needed)
    for by_name in (False, True):
        for each in tables:
            columns = {field.name if by_name else field.ID for field in each.fields}
            if wanted <= columns:
                return each.to_table(use_names_over_ids=by_name), _frames(document, each, by_name)
    return tables[0].to_table(), _frames(document, tables[0], False)


def _frames(
    document: votable.tree.VOTableFile, table: votable.tree.TableElement, by_name: bool
) -> dict[str, str]:
    systems = {
        system.ID: f"{system.system} {system.equinox or ''}".strip()
        for system in document.iter_coosys()
    }
    only = next(iter(systems.values())) if len(systems) == 1 else None
    found = {}
    for field in table.fields:
        system = systems.get(field.ref, only)
        if system is not None:
            found[field.name if by_name else field.ID] = system
    return found
