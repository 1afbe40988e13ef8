"""The status bit field of a row: what was wrong with a galaxy's pixels, or with its posterior."""

from __future__ import annotations

from enum import IntFlag


class Status(IntFlag):
    """Bits of the column ``status``; 0 is good."""

    NO_IMAGE = 1 << 0
    NO_DATA = 1 << 1
    EDGE = 1 << 2
    BAD_PIXELS = 1 << 3
    SATURATED = 1 << 4
    BRIGHT_NEIGHBOUR = 1 << 5
    BAD_CUTOUT = 1 << 6
    OUT_OF_DISTRIBUTION = 1 << 7
    OUT_OF_RANGE = 1 << 8
    NONFINITE = 1 << 9


#: A row with any of these bits has null posterior columns.
NULL_BITS = Status.NO_IMAGE | Status.NO_DATA | Status.BAD_CUTOUT | Status.NONFINITE

#: What each bit says, for field metadata and reports.
MEANINGS: dict[Status, str] = {
    Status.NO_IMAGE: "the centre lies on no image",
    Status.NO_DATA: (
        "the centre lies on no valid pixel, or more than half the box or any of the central "
        "5 arcsec is without data"
    ),
    Status.EDGE: "part of the box lies outside the images and was padded",
    Status.BAD_PIXELS: "NaN or bad-mask pixels in the box were replaced",
    Status.SATURATED: "a saturated pixel in the central 5 arcsec",
    Status.BRIGHT_NEIGHBOUR: "the survey's bright-object mask reaches into the box",
    Status.BAD_CUTOUT: "the cutout is unusable; the reason is in status_note",
    Status.OUT_OF_DISTRIBUTION: "the score lies above the model's threshold",
    Status.OUT_OF_RANGE: "depth, PSF or pixel scale outside what the model was trained on",
    Status.NONFINITE: "the network gave no finite draw",
}


def names(status: int) -> list[str]:
    """Names of the bits that are set, lowest first."""
    return [str(bit.name) for bit in Status if status & bit]
