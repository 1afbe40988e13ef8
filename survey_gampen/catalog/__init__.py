"""Rows in (any catalogue, sorted out of core), HATS out."""

from survey_gampen.catalog.ids import id_key
from survey_gampen.catalog.sort import sort_catalog
from survey_gampen.catalog.sorted import iter_rows, read_rows, sorted_schema
from survey_gampen.catalog.source import Catalog, open_catalog

__all__ = [
    "Catalog",
    "id_key",
    "iter_rows",
    "open_catalog",
    "read_rows",
    "sort_catalog",
    "sorted_schema",
]
