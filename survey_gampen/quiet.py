"""What Zarr warns of that no user can do anything about."""

from __future__ import annotations

import warnings

from zarr.errors import UnstableSpecificationWarning


def quiet_zarr() -> None:
    """Silence, in this process, that text arrays and consolidated metadata are young parts of
    Zarr's format.

    For good: ``warnings.catch_warnings`` would take back in one thread what another has set.
    """
    warnings.simplefilter("ignore", UnstableSpecificationWarning)
    warnings.filterwarnings("ignore", message="Consolidated metadata is currently not part")
