"""The columns of a catalogue: which it must have, of which types, and which names are taken."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence

import pyarrow as pa

from survey_gampen.catalog.footers import value_type
from survey_gampen.catalog.ids import is_id_type
from survey_gampen.errors import InputError

#: The columns every catalogue has, under these names from here on.
KEY_COLUMNS = ("object_id", "ra", "dec")

_QUANTITIES = ("bt", "r_e", "flux", "mag")
_STATISTICS = (
    *("p2_5", "p16", "p50", "p84", "p97_5", "mean", "std", "mode"),
    *(f"ci{level}_{end}" for level in (68, 95, 99) for end in ("lo", "hi")),
)
#: Names the output uses itself, and those of the folders of a HATS catalogue.
RESERVED = frozenset(
    {
        *("_healpix_29", *KEY_COLUMNS, "band", "status", "status_note", "replaced"),
        *("ood_score", "n_passes"),
        *("corr_bt_r_e", "corr_bt_flux", "corr_r_e_flux", "stn_scale", "stn_dx", "stn_dy"),
        *(f"{quantity}_{name}" for quantity in _QUANTITIES for name in _STATISTICS),
        *("norder", "dir", "npix"),
    }
)


def check_columns(
    path: str, schema: pa.Schema, names: Mapping[str, str], extra: Sequence[str]
) -> None:
    """Refuse a catalogue that lacks a column or holds another kind of thing in it.

    Raises
    ------
    InputError
    """
    for key, name in names.items():
        if name not in schema.names:
            raise InputError(_missing(path, schema, key, name))
    kinds = {key: value_type(schema.field(name).type) for key, name in names.items()}
    if not is_id_type(kinds["object_id"]):
        raise InputError(
            f"{path}: column {names['object_id']!r} (object_id) is {kinds['object_id']}; "
            "it must hold whole numbers or text, so that it survives exactly"
        )
    for key in ("ra", "dec"):
        kind = kinds[key]
        if not (
            pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
        ):
            raise InputError(
                f"{path}: column {names[key]!r} ({key}) is {kind}; it must hold numbers, in degrees"
            )
    for name in extra:
        if name not in schema.names:
            raise InputError(_missing(path, schema, None, name))
        if name.lower() in RESERVED:
            raise InputError(
                f"{path}: the extra column {name!r} has the name of an output column; rename it in "
                "the catalogue or leave it out"
            )


def _missing(path: str, schema: pa.Schema, key: str | None, name: str) -> str:
    """The line for a column that is not there: what there is, and how to map it."""
    shown = ", ".join(schema.names[:40]) + (", ..." if len(schema.names) > 40 else "")
    same = [other for other in schema.names if other.lower() == name.lower()]
    near = same or difflib.get_close_matches(name, schema.names, n=1)
    guess = f" (did you mean {near[0]!r}?)" if near else ""
    how = (
        f'map it in the survey profile: [columns] {key} = "NAME"'
        if key
        else "take it out of the extra columns"
    )
    return f"{path} has no column {name!r}{guess}; it has: {shown}; {how}"


def batch_schema(
    schema: pa.Schema, types: Mapping[str, pa.DataType], object_id: str, extra: Sequence[str]
) -> pa.Schema:
    """The schema of what is read: our three columns, then the extras with their metadata.

    Dictionaries are left out: the values are what is passed on, not how they were coded.
    """
    fields = [schema.field(object_id).with_type(types[object_id]).with_name("object_id")]
    fields += [pa.field(key, pa.float64()) for key in ("ra", "dec")]
    fields += [schema.field(name).with_type(types[name]) for name in extra]
    return pa.schema([field.with_nullable(True) for field in fields])
