"""One published file: its columns, what each of them means, and the footer that says what it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from survey_gampen import parquet
from survey_gampen.catalog.leaves import ROWS_AT_ONCE, WRITING

PREFIX = "survey_gampen."

#: quantity: (unit, what it is, UCD)
_QUANTITIES = {
    "bt": ("", "bulge-to-total light ratio", "phys.luminosity;arith.ratio"),
    "r_e": (
        "arcsec",
        "half-light radius: circle holding half the light of the whole galaxy, before the PSF",
        "phys.angSize",
    ),
    "flux": ("nJy", "total flux, not corrected for Galactic extinction", "phot.flux"),
    "mag": ("mag", "total AB magnitude, 31.4 - 2.5 log10(flux / nJy)", "phot.mag"),
}
#: statistic: (what it is of the quantity, UCD before and after the quantity's own)
_STATISTICS = {
    "p2_5": ("2.5 % quantile of the posterior of the {}", "stat.value;{}"),
    "p16": ("16 % quantile of the posterior of the {}", "stat.value;{}"),
    "p50": ("median of the posterior of the {}", "{};stat.median"),
    "p84": ("84 % quantile of the posterior of the {}", "stat.value;{}"),
    "p97_5": ("97.5 % quantile of the posterior of the {}", "stat.value;{}"),
    "mean": ("mean of the posterior of the {}", "{};stat.mean"),
    "std": ("standard deviation of the posterior of the {}", "stat.stdev;{}"),
    "mode": ("mode of the posterior of the {}", "{};stat.mode"),
} | {
    f"ci{level}_{end}": (
        f"{side} end of the {percent} % interval around the mode of the posterior of the {{}}",
        f"{{}};stat.{bound}",
    )
    for level, percent in (("68", "68.27"), ("95", "95.45"), ("99", "99.73"))
    for end, side, bound in (("lo", "lower", "min"), ("hi", "upper", "max"))
}
#: other posterior columns: (unit, what it is, UCD)
_OTHERS = {
    "corr_bt_r_e": ("", "correlation of B/T and half-light radius", "stat.correlation"),
    "corr_bt_flux": ("", "correlation of B/T and flux", "stat.correlation"),
    "corr_r_e_flux": ("", "correlation of half-light radius and flux", "stat.correlation"),
    "stn_scale": ("", "side of the crop chosen by the network, in sides of the cutout", ""),
    "stn_dx": ("arcsec", "centre of that crop, along the cutout's x axis", "pos.angDistance"),
    "stn_dy": ("arcsec", "centre of that crop, along the cutout's y axis", "pos.angDistance"),
    "ood_score": ("", "distance from the galaxies the model was trained on, 1 is typical", ""),
}


_REPLACED = "share of the cutout's pixels that come from no image or were bad: they were replaced"


def posterior_fields() -> list[pa.Field]:
    """Return the columns that are null where there is no posterior, in the order of the file."""
    out = []
    for quantity, (unit, what, ucd) in _QUANTITIES.items():
        for statistic, (of_what, pattern) in _STATISTICS.items():
            out.append(
                _field(
                    f"{quantity}_{statistic}",
                    pa.float32(),
                    unit,
                    of_what.format(what),
                    pattern.format(ucd),
                )
            )
    out += [_field(name, pa.float32(), *about) for name, about in _OTHERS.items()]
    out.append(_field("n_passes", pa.int32(), "", "draws of the posterior", "meta.number"))
    return out


def leaf_schema(rows: pa.Schema, footer: Mapping[str, str]) -> pa.Schema:
    """Return the schema of a published file.

    Parameters
    ----------
    rows : pyarrow.Schema
        Of the sorted catalogue: _healpix_29, object_id, ra, dec, then columns passed through.
    footer : mapping
        What the file says about itself; the keys get a prefix.
    """
    known = {
        "_healpix_29": ("", "HEALPix pixel of order 29, nested", "pos.healpix"),
        "object_id": ("", "identifier in the input catalogue", "meta.id;meta.main"),
        "ra": ("deg", "right ascension, ICRS", "pos.eq.ra;meta.main"),
        "dec": ("deg", "declination, ICRS", "pos.eq.dec;meta.main"),
    }
    fields = [
        _field(f.name, f.type, *known[f.name], nullable=False) if f.name in known else f
        for f in rows
    ]
    fields += [
        _field("band", pa.string(), "", "band of the image", "instr.bandpass", nullable=False),
        _field(
            "status", pa.int32(), "", "bit field, 0 is good; see status_flags", "meta.code.qual",
            nullable=False,
        ),
        _field("status_note", pa.string(), "", "reason of a bad cutout", "meta.note"),
        _field("replaced", pa.float32(), "", _REPLACED, "arith.ratio"),
    ]  # fmt: skip
    metadata = {f"{PREFIX}{key}": value for key, value in footer.items()}
    return pa.schema(fields + posterior_fields(), metadata=metadata)


def make_batch(
    schema: pa.Schema,
    rows: pa.RecordBatch | pa.Table,
    band: str,
    status: np.ndarray,
    notes: list[str | None],
    replaced: np.ndarray,
    has_posterior: np.ndarray,
    columns: Mapping[str, np.ndarray],
) -> pa.Table:
    """Put the rows of one chunk together.

    Parameters
    ----------
    schema : pyarrow.Schema
        Of the file.
    rows : (n,) rows of the sorted catalogue
    band : str
    status : (n,) integers
    notes : n texts or None
    replaced : (n,) floats
        Share of the pixels of each cutout; NaN where it is not known.
    has_posterior : (n,) bool
        Rows that have one; they are m.
    columns : mapping of (m,) arrays
        Posterior columns; a value that is not finite becomes null.

    Returns
    -------
    pyarrow.Table, n rows
    """
    n = rows.num_rows
    arrays: list[pa.Array | pa.ChunkedArray] = [rows.column(i) for i in range(rows.num_columns)]
    arrays += [
        pa.array([band] * n, pa.string()),
        pa.array(np.asarray(status, np.int32)),
        pa.array(notes, pa.string()),
        pa.array(replaced, pa.float32(), from_pandas=True),  # NaN becomes null
    ]
    for field in list(schema)[len(arrays) :]:
        values = np.zeros(n, field.type.to_pandas_dtype())
        null = np.ones(n, bool)
        if has_posterior.any():
            given = np.asarray(columns[field.name])
            finite = np.isfinite(given)
            values[has_posterior] = np.where(finite, given, 0)
            null[has_posterior] = ~finite
        arrays.append(pa.array(values, field.type, mask=null))
    return pa.Table.from_arrays(arrays, schema=schema)


def write_leaf(path: Path, schema: pa.Schema, tables: Iterator[pa.Table]) -> None:
    """Write tables as they come; only one row group is ever held."""
    held: list[pa.Table] = []
    with pq.ParquetWriter(path, schema, **WRITING) as writer:
        for table in tables:
            held.append(table)
            if sum(t.num_rows for t in held) >= ROWS_AT_ONCE:
                writer.write_table(pa.concat_tables(held).combine_chunks())
                held = []
        if held:
            writer.write_table(pa.concat_tables(held).combine_chunks())


def read_footer(path: Path) -> dict[str, str]:
    """Return what a published file says about itself, and its number of rows as ``rows``.

    Raises
    ------
    pyarrow.ArrowException, OSError
        Where it is no Parquet file.
    """
    with parquet.open_file(path) as file:
        said = file.schema_arrow.metadata or {}
        rows = file.metadata.num_rows
    footer = {
        key.decode().removeprefix(PREFIX): value.decode()
        for key, value in said.items()
        if key.decode().startswith(PREFIX)
    }
    return footer | {"rows": str(rows)}


def _field(
    name: str, kind: pa.DataType, unit: str, description: str, ucd: str, nullable: bool = True
) -> pa.Field:
    about = {"unit": unit, "description": description, "ucd": ucd}
    return pa.field(name, kind, nullable, {k: v for k, v in about.items() if v})
