"""Where pixels come from: tiles or single files in, cutouts in nJy out, and their store."""

from __future__ import annotations

from survey_gampen.images.base import BATCH, Cutouts, ImageSource
from survey_gampen.images.open import open_images
from survey_gampen.images.status import MEANINGS, NULL_BITS, Status, names
from survey_gampen.images.store import CutoutStore, is_complete, open_cutouts, write_cutouts

__all__ = [
    "BATCH",
    "MEANINGS",
    "NULL_BITS",
    "CutoutStore",
    "Cutouts",
    "ImageSource",
    "Status",
    "is_complete",
    "names",
    "open_cutouts",
    "open_images",
    "write_cutouts",
]
