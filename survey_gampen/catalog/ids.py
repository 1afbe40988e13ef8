"""An object_id as the 64 bits that key its random numbers."""

from __future__ import annotations

import hashlib
import re

import numpy as np
import pyarrow as pa


def is_id_type(kind: pa.DataType) -> bool:
    """Whether a column of this type can hold object_ids: integers or text."""
    return bool(pa.types.is_integer(kind) or pa.types.is_string(kind) or is_long_text(kind))


def is_long_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def is_number(text: str) -> bool:
    """Whether a text is a whole number of 64 bits, written as it is usual."""
    usual = re.fullmatch(r"0|-?[1-9][0-9]{0,19}", text) is not None
    return usual and -(2**63) <= int(text) < 2**64


def id_key(object_id: pa.Array | pa.ChunkedArray) -> np.ndarray:
    """The 64-bit key of each object_id, the same on every machine and for ever.

    Integers keep their 64 bits (two's complement), so signed and unsigned columns that hold the
    same numbers give the same keys. Text gives the first 8 bytes, little-endian, of BLAKE2b
    (RFC 7693) of its UTF-8.

    Parameters
    ----------
    object_id : pyarrow.Array or pyarrow.ChunkedArray, shape (n,)
        Integers or strings, no nulls.

    Returns
    -------
    numpy.ndarray, uint64, shape (n,)

    Raises
    ------
    TypeError
        For other types, or nulls.
    """
    if not is_id_type(object_id.type) or object_id.null_count:
        raise TypeError(f"object_id is {object_id.type} with {object_id.null_count} nulls")
    if pa.types.is_integer(object_id.type):
        wide = pa.uint64() if pa.types.is_unsigned_integer(object_id.type) else pa.int64()
        return np.asarray(object_id.cast(wide)).view(np.uint64)
    digests = b"".join(
        hashlib.blake2b(text.encode(), digest_size=8).digest() for text in object_id.to_pylist()
    )
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)
