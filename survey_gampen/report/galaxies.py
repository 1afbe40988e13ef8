"""The chosen galaxies with what the run kept of them: cutouts and draws."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from survey_gampen.catalog.hats_out import span
from survey_gampen.errors import GampenError
from survey_gampen.images.status import names
from survey_gampen.images.store import open_cutouts
from survey_gampen.posterior.samples import fingerprint_of, read_samples
from survey_gampen.report import html
from survey_gampen.report.cards import Card, card_picture
from survey_gampen.report.corner import corner_picture
from survey_gampen.report.picks import Row
from survey_gampen.run.layout import RunDir
from survey_gampen.run.plan import read_plan
from survey_gampen.run.spec import RunSpec

#: What a folder says that is gone, half removed or damaged: the galaxy is shown without it.
_GONE = (GampenError, OSError, KeyError, ValueError, IndexError, RuntimeError)
#: Corner plots: of the brightest, a middling and the faintest galaxy that is shown.
CORNERS = 3
_PARAMETERS = (("bt", "B/T", "", 2), ("r_e", "R_e", '"', 2), ("mag", "mag", "", 2))


def cards(run: RunDir, spec: RunSpec, rows: Sequence[Row]) -> list[Card]:
    """Fetch cutouts and draws of some galaxies.

    Memory holds the columns of one partition's cutouts, and the images of these galaxies.

    Returns
    -------
    list of Card
        In the order of `rows`.
    """
    partition_of: dict[int, str] = {}
    for partition in read_plan(run.plan):
        first, end = span(partition)
        for row in rows:
            if first <= row["_healpix_29"] < end:
                partition_of[row["_healpix_29"]] = partition.name
    return [_card(run, spec, row, partition_of.get(row["_healpix_29"])) for row in rows]


def _card(run: RunDir, spec: RunSpec, row: Row, partition: str | None) -> Card:
    if partition is None:
        return Card(row)
    image, pixel_scale = None, 0.0
    try:
        store = open_cutouts(run.cutout_group(partition))
        image = store.one(_place(store.object_id, row))
        pixel_scale = float(store.attrs["pixel_scale"])
    except _GONE:
        pass
    draws = None
    try:
        group = run.sample_group(partition)
        # Draws of before the images changed are not those of the row.
        if row["bt_p50"] is not None and fingerprint_of(group) in spec.fingerprints:
            place = _place(read_samples(group, passes=slice(0, 1))[0], row)
            draws = read_samples(group, slice(place, place + 1))[1][0]
    except _GONE:
        pass
    return Card(row, image, pixel_scale, draws)


def _place(object_id: NDArray[np.generic], row: Row) -> int:
    """Where a galaxy stands in its partition."""
    return int(np.flatnonzero(object_id == row["object_id"])[0])


def gallery_section(shown: Sequence[Card]) -> str:
    """The galaxies one by one."""
    if not shown:
        return ""
    kept = sum(card.image is not None for card in shown)
    drawn = any(card.draws is not None for card in shown)
    words = "Chosen by their object_id, evenly over magnitude; the last ones carry flags. "
    if kept:
        words += (
            "The red square is the part of the cutout that the network's spatial transformer "
            "looked at. "
        )
    if drawn:
        words += (
            "Posteriors: density of the draws, the 68.27 % interval around the mode dark, the "
            "median dashed."
        )
    else:
        words += (
            "The joint draws were not kept (--keep-samples keeps them): lines reach from 2.5 to "
            "97.5 %, bars from 16 to 84 %, the tick is the mode, the median dashed."
        )
    parts = [html.paragraph(words)]
    if kept < len(shown):
        missing = "None of their" if not kept else f"{len(shown) - kept} of their {len(shown)}"
        parts.append(html.paragraph(f"{missing} cutouts are kept in this run.", soft=True))
    figures = "\n".join(_figure(card) for card in shown)
    parts.append(f'<div class="cards">\n{figures}\n</div>')
    count = f"{len(shown)} galaxies" if len(shown) > 1 else "One galaxy"
    return html.section(count, *parts)


def corner_section(shown: Sequence[Card]) -> str:
    """Joint posteriors of a few of them, where draws were kept."""
    able = [c for c in shown if c.draws is not None and len(c.draws) > 2]
    able = [c for c in able if c.draws is not None and np.isfinite(c.draws).all()]
    if not able:
        return ""
    able.sort(key=lambda card: card.row["mag_p50"] if card.row["mag_p50"] is not None else np.inf)
    places = np.unique(np.linspace(0, len(able) - 1, CORNERS).round().astype(int))
    figures = []
    for card in (able[i] for i in places):
        assert card.draws is not None
        name = f"object {card.row['object_id']}"
        shown_as = html.image(corner_picture(card.draws), f"joint posterior of {name}")
        figures.append(
            f'<figure class="card">\n<figcaption>{_name(card)}</figcaption>\n{shown_as}\n</figure>'
        )
    grid = "\n".join(figures)
    return html.section(
        "Joint posteriors",
        html.paragraph(
            "Every draw is one network of the ensemble: a point. Contours hold 68 and 95 % of the "
            "draws; dashed the median, dotted the 16 and 84 % quantiles."
        ),
        f'<div class="cards">\n{grid}\n</div>',
    )


def _name(card: Card) -> str:
    flags = "".join(f' <span class="flag">{flag}</span>' for flag in names(card.row["status"]))
    return f'<span class="name">{html.text(card.row["object_id"])}</span>{flags}'


def _figure(card: Card) -> str:
    row = card.row
    place = f"{row['ra']:.5f} {row['dec']:+.5f}"
    lines = [f"<figcaption>{_name(card)}<br>{place}</figcaption>"]
    png = card_picture(card)
    what = "cutout and posterior" if card.image is not None else "posterior"
    if png is not None:
        lines.append(html.image(png, f"{what} of object {row['object_id']}"))
    if card.measured:
        lines.append(f"<p>{''.join(_value(row, *about) for about in _PARAMETERS)}</p>")
    else:
        note = f": {row['status_note']}" if row["status_note"] else ""
        lines.append(html.paragraph(f"no posterior{note}"))
    body = "\n".join(lines)
    return f'<figure class="card">\n{body}\n</figure>'


def _value(row: Row, name: str, label: str, unit: str, digits: int) -> str:
    """Median with the distances to the 16 and 84 % quantiles."""
    low, middle, high = (row[f"{name}_{q}"] for q in ("p16", "p50", "p84"))
    if middle is None:
        return ""
    up, down = f"+{high - middle:.{digits}f}", f"−{middle - low:.{digits}f}"
    shown = html.text(f"{label} {middle:.{digits}f}{unit}")
    return f'<span class="value">{shown}<span class="range">{up}<br>{down}</span></span>'
