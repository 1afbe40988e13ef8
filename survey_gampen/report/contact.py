"""A contact sheet: some galaxies as the network will see them, with the crop that it chooses."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Polygon
from numpy.typing import NDArray

from survey_gampen.errors import UnreadableFile
from survey_gampen.images.base import Cutouts, ImageSource
from survey_gampen.images.services.source import fetched
from survey_gampen.images.status import NULL_BITS, Status, names
from survey_gampen.model.checkpoint import Checkpoint
from survey_gampen.report.style import RED, picture
from survey_gampen.run.scope import out_of_range
from survey_gampen.run.thread import in_network_thread

#: Letters that fit above and below a picture.
_NAME, _FLAGS = 24, 40
#: What is white, and what is black at least, in units of the sky's noise; the share of pixels that
#: are below black in a brighter image [%].
LOW, HIGH, _BRIGHT = -2.0, 10.0, 99.8
#: The corners of the network's view of a crop, around it.
_CORNERS = np.array([(-1.0, -1.0), (1.0, -1.0), (1.0, 1.0), (-1.0, 1.0)])


@dataclass(frozen=True)
class Frame:
    """One galaxy.

    Attributes
    ----------
    object_id : int or str
    ra, dec : float
        [deg].
    status : int
        As a run would flag it, but for what only the passes tell.
    note : str or None
        Why its cutout is unusable, or its file unreadable.
    replaced : float
        Share of the pixels that were replaced.
    seen : ndarray, (size, size)
        The stretched image, of several bands the first.
    crop : ndarray, (4, 2), or None
        Corners of what the network crops, in pixels; None where it will see nothing.
    """

    object_id: int | str
    ra: float
    dec: float
    status: int
    note: str | None
    replaced: float
    seen: NDArray[np.float32]
    crop: NDArray[np.float64] | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        values = {key: getattr(self, key) for key in ("object_id", "ra", "dec", "status", "note")}
        return {**values, "flags": names(self.status), "replaced": round(self.replaced, 6)}


def frames(source: ImageSource, checkpoint: Checkpoint, rows: pa.Table) -> list[Frame]:
    """Cut out some galaxies and look at them as the network does.

    Parameters
    ----------
    source : ImageSource
    checkpoint : Checkpoint
    rows : pyarrow.Table
        object_id, ra, dec [deg]; their images are held in memory.

    Returns
    -------
    list of Frame
        In the order of `rows`.
    """
    n, arch = rows.num_rows, checkpoint.config
    images, status = np.zeros((n, *arch.image_shape), np.float32), np.zeros(n, np.int32)
    note: list[str | None] = [None] * n
    replaced = np.ones(n)
    for batch in _cutouts(source, rows, arch.size):
        place = batch.index
        images[place], status[place] = batch.image, batch.status | _strange(batch, checkpoint)
        replaced[place] = batch.replaced.mean(axis=(1, 2))
        for where, words in zip(place.tolist(), batch.note, strict=True):
            note[where] = words
    seen, crops = _look(checkpoint, images)
    good = (status & int(NULL_BITS)) == 0
    ids, ra, dec = (rows[name].to_pylist() for name in ("object_id", "ra", "dec"))
    return [
        Frame(
            ids[i], ra[i], dec[i], int(status[i]), note[i], float(replaced[i]), seen[i],
            crops[i] if good[i] else None,
        )
        for i in range(n)
    ]  # fmt: skip


def _cutouts(source: ImageSource, rows: pa.Table, size: int) -> Iterator[Cutouts]:
    """All at once, for a service answers many as fast as one; one by one after a broken file."""
    ra, dec = rows["ra"].to_numpy(), rows["dec"].to_numpy()
    ids = rows["object_id"].to_pylist()
    try:
        with fetched(source, ra, dec, size) as near:
            yield from list(near.cutouts(ra, dec, size, ids))
    except UnreadableFile:
        for i, name in enumerate(ids):
            one = slice(i, i + 1)
            try:
                for batch in source.cutouts(ra[one], dec[one], size, [name]):
                    batch.index = batch.index + i
                    yield batch
            except UnreadableFile as error:
                broken = Cutouts.empty(np.array([i]), size)
                broken.status[0], broken.note[0] = int(Status.BAD_CUTOUT), str(error)
                yield broken


def _strange(batch: Cutouts, checkpoint: Checkpoint) -> NDArray[np.int32]:
    """OUT_OF_RANGE where a run would set it."""
    usable = (batch.status & int(NULL_BITS)) == 0
    if not usable.any():
        return np.zeros(len(batch), np.int32)
    facts = {name: batch.facts.get(name) for name in ("psf_fwhm", "pixel_scale")}
    psf, scale = (
        np.full(batch.sky_sigma.shape, np.nan if v is None else v) for v in facts.values()
    )
    strange = out_of_range(
        checkpoint.meta.get("trained_on", {}),
        checkpoint.config.pixel_scale,
        batch.sky_sigma,
        psf,
        scale,
    )
    return np.where(strange & usable, np.int32(Status.OUT_OF_RANGE), np.int32(0))


@in_network_thread
def _look(
    checkpoint: Checkpoint, images: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[np.float64]]:
    """What the network sees of images (n, [channels,] size, size) [nJy], in their first channel
    (n, size, size), and corners of its crops (n, 4, 2)."""
    network, size = checkpoint.network, images.shape[-1]
    with torch.inference_mode():
        stretched = [network.stretch(part) for part in torch.from_numpy(images).split(8)]
        theta = torch.cat([network.localisation(part) for part in stretched]).double().numpy()
        seen = torch.cat(stretched)[:, 0].numpy()
    there = np.einsum("nij,kj->nki", theta[:, :, :2], _CORNERS) + theta[:, None, :, 2]
    return seen, (there + 1) * size / 2 - 0.5  # -1 to 1 run from border to border of the image


def contact_sheet(shown: Sequence[Frame], checkpoint: Checkpoint, band: str | None) -> bytes:
    """Draw galaxies in a square of six by six or fewer.

    Parameters
    ----------
    shown : sequence of Frame
    checkpoint : Checkpoint
    band : str or None
        What to call the band that is drawn.

    Returns
    -------
    bytes
        PNG.
    """
    side = max(2, math.ceil(math.sqrt(len(shown))))
    lines = max(1, math.ceil(len(shown) / side))
    arch = checkpoint.config

    def draw(figure: Figure) -> None:
        axes = figure.subplots(lines, side, squeeze=False).ravel()
        for axis, frame in zip(axes, shown, strict=False):
            _panel(axis, frame)
        for axis in axes[len(shown) :]:
            axis.set_visible(False)
        if shown:
            _ruler(axes[0], arch.size, arch.pixel_scale)
        one = "galaxy" if len(shown) == 1 else "galaxies"
        of_band = f" in band {band}" if band else ""
        figure.suptitle(
            f"{len(shown)} {one}, chosen at random: the pixels that the network gets{of_band}, "
            f"{arch.size} pixels or {arch.size * arch.pixel_scale:.1f} arcsec a side",
            fontsize=9,
        )
        figure.supxlabel(
            f"Grey: arcsinh(pixel / own sky noise), white at {LOW:g} sigma, black at the brightest"
            f" pixels, {HIGH:g} sigma at least.\n"
            "Orange: the frame that the network crops and looks at. It chooses place, size and tilt"
            " for each galaxy; the tilt alone means nothing.",
            fontsize=7,
        )

    return picture(draw, max(6.2, 1.75 * side), 1.93 * lines + 0.9)


def _panel(axis: Axes, frame: Frame) -> None:
    """One galaxy: its name above, its flags below."""
    axis.set(xticks=[], yticks=[])
    axis.spines[:].set_visible(True)
    seen = in_noise(frame.seen)
    black = max(float(np.percentile(seen, _BRIGHT)), HIGH)
    axis.imshow(
        np.arcsinh(seen), origin="lower", cmap="gray_r", vmin=np.arcsinh(LOW),
        vmax=np.arcsinh(black), interpolation="nearest",
    )  # fmt: skip
    if frame.crop is not None:
        axis.add_patch(Polygon(frame.crop, closed=True, fill=False, ec=RED, lw=1.0))
        n = seen.shape[0]  # the crop may reach beyond the image: that is no reason to show more
        axis.set(xlim=(-0.5, n - 0.5), ylim=(-0.5, n - 0.5))
    axis.set_title(_short(str(frame.object_id), _NAME), fontsize=7, pad=2.5)
    flags = names(frame.status)
    words = _fitting(flags)
    axis.set_xlabel(words, fontsize=5, labelpad=2, color=RED if flags else "#444444")


def in_noise(seen: NDArray[np.float32]) -> NDArray[np.float64]:
    """Pixels above the sky in units of its noise, of an image that the network has stretched.

    Sky and noise are the median and its distance to the 16th of 100 pixels in order: most of a
    cutout is sky, and the network's own stretch, which is one for all, hides what is as faint.
    """
    flux = np.sinh(seen.astype(np.float64))
    below, sky = np.percentile(flux, [15.865, 50])
    return (flux - sky) / ((sky - below) or 1.0)  # 0: a cutout without data


def _short(text: str, most: int) -> str:
    """The beginning and the end of a long name."""
    if len(text) <= most:
        return text
    half = (most - 1) // 2
    return f"{text[:half]}…{text[-half:]}"


def _fitting(flags: Sequence[str]) -> str:
    """As many flags as fit into a line, and how many more there are."""
    for count in range(len(flags), 0, -1):
        more = f" +{len(flags) - count}" if count < len(flags) else ""
        line = ", ".join(flags[:count]) + more
        if len(line) <= _FLAGS or count == 1:
            return line
    return " "  # as high as a line, so that all panels are of one size


def _ruler(axis: Axes, size: int, pixel_scale: float) -> None:
    """A line of a known length in the corner of a panel."""
    wanted = size * pixel_scale / 3
    arcsec = max((n for n in (1, 2, 5, 10, 20, 50) if n <= wanted), default=wanted)
    left, length = 0.06 * size, arcsec / pixel_scale
    axis.plot([left, left + length], [0.07 * size] * 2, color="k", lw=1.6, solid_capstyle="butt")
    axis.text(
        left, 0.1 * size, f"{arcsec:g}″", fontsize=6, va="bottom",
        bbox={"fc": "w", "ec": "none", "alpha": 0.7, "pad": 0.5},
    )  # fmt: skip
