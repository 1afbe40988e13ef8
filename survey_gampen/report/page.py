"""The sections of the page that tell about the run as a whole."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from survey_gampen.images.status import MEANINGS, NULL_BITS
from survey_gampen.report import distributions, html
from survey_gampen.report.gather import POINTS, Gathered
from survey_gampen.report.skymap import OUTLINES, Outlines, State, sky_map
from survey_gampen.run.spec import RunSpec, cut_lines

#: Quarantined partitions that are listed; `status` lists all.
LISTED = 200
#: Published files below which a course of time says nothing.
_FEWEST_FILES = 4


def head(spec: RunSpec, report: dict[str, Any], found: Gathered) -> str:
    """Title, progress, and what the run is."""
    galaxies, partitions = report["galaxies"], report["partitions"]
    name = Path(spec.settings.catalog).name
    shares = {
        kind: 100 * galaxies[kind] / max(1, galaxies["planned"])
        for kind in ("published", "quarantined")
    }
    bar = "".join(
        f'<div class="{kind}" style="width: {share:.3f}%"></div>' for kind, share in shares.items()
    )
    columns = ("planned", "cut", "published", "quarantined")
    by = f", by {report['client']}" if report["client"] else ""
    parts = [
        f"<header>\n<h1>Galaxy posteriors of {html.text(name)}</h1>",
        html.paragraph(f"{report['out']}: {report['state']}{by}", soft=True),
        f'<div class="bar">{bar}</div>',
        html.paragraph(
            f"{galaxies['published']:,} of {galaxies['planned']:,} galaxies are published "
            f"({shares['published']:.1f} %): {found.posteriors:,} with a posterior, "
            f"{found.clean:,} of them without a flag."
        ),
        html.table(
            ["", *columns],
            [
                ["galaxies", *(f"{galaxies[c]:,}" for c in columns)],
                ["partitions", *(f"{partitions[c]:,}" for c in columns)],
            ],
            numbers=range(1, 5),
        ),
        "</header>",
    ]
    if not galaxies["published"]:
        parts.insert(-1, html.paragraph("Nothing is published yet: there is nothing to draw."))
    if found.unread_count:
        first = "; ".join(found.unread)
        parts.insert(
            -1,
            html.paragraph(
                f"{found.unread_count} published files could not be read and are left out "
                f"(damaged, or merged by `compact` meanwhile): {first}"
            ),
        )
    return "\n".join(parts)


def settings(spec: RunSpec, found: Gathered) -> str:
    """What was run on what, and by which machines."""
    chosen = spec.settings
    rows = [
        ["catalogue", chosen.catalog],
        ["images", chosen.images],
        ["survey, band", f"{spec.survey.name}, {', '.join(chosen.image_bands)}"],
        ["model", f"{chosen.model} (SHA-256 {spec.model['sha256'][:16]}...)"],
        ["cutouts", f"{spec.size} px of {spec.model['pixel_scale']:g} arcsec, "
         f"{'kept' if spec.plan.keep_cutouts else 'dropped after use'}"],
        ["passes, seed", f"{chosen.passes}, {chosen.seed}"],
        ["joint draws", "kept" if chosen.keep_samples else "not kept"],
        ["precision", str(spec.engine.get("precision", chosen.precision))],
        ["fingerprint", spec.fingerprint],
    ]  # fmt: skip
    rows += [["earlier fingerprint", earlier] for earlier in spec.earlier]
    if chosen.select:
        rows.insert(1, ["selected", chosen.select])
        told = cut_lines(spec.plan.rows_read, spec.plan.lost, spec.plan.rows)
        rows.insert(2, ["by its cuts", "; ".join(line.strip() for line in told)])
    if chosen.limit is not None:
        rows.insert(1, ["limited to", f"{chosen.limit} rows"])
    for (version, device, precision, batch), count in sorted(found.made.items()):
        files = "file" if count == 1 else "files"
        made = f"{count} {files} by version {version} on {device}, {precision}, batches of {batch}"
        rows.append(["made by", made])
    return html.section("The run", html.table([], rows))


def quarantined(report: dict[str, Any]) -> str:
    """Which partitions were given up, and why."""
    notes = report["quarantined"]
    if not notes:
        return ""
    keys = ("partition", "rows", "stage", "attempts", "when", "cause")
    parts = [
        html.table(
            ["partition", "galaxies", "stage", "attempts", "when (UTC)", "cause"],
            [[note.get(key, "") for key in keys] for note in notes[:LISTED]],
            numbers=(1, 3),
        ),
        html.paragraph(f"Tried again by: survey-gampen resume {report['out']}"),
    ]
    if len(notes) > LISTED:
        parts.append(html.paragraph(f"and {len(notes) - LISTED} more: survey-gampen status"))
    return html.section("Quarantined partitions", *parts)


def rates(spec: RunSpec, found: Gathered) -> str:
    """How fast galaxies came out, from the times of the published files."""
    parts = []
    order = np.argsort(found.times, kind="stable")
    seconds = np.asarray(found.times)[order]
    galaxies = np.asarray(found.sizes)[order]
    seconds = seconds - seconds[0] if len(seconds) else seconds
    if len(seconds) >= _FEWEST_FILES and seconds[-1] > 0:
        overall = galaxies[1:].sum() / seconds[-1]
        parts.append(
            html.figure(
                distributions.pace(seconds / 3600, galaxies),
                "galaxies published over time, and galaxies a second",
                f"{overall:.3g} galaxies/s from the first published file to the last. Times are "
                "those of the files: copying or compacting a run sets them anew.",
            )
        )
    else:
        files = "one file is" if len(seconds) == 1 else f"{len(seconds)} files are"
        parts.append(html.paragraph(f"{files} published: too few to tell a rate.".capitalize()))
    if spec.plan.seconds_per_galaxy > 0:
        parts.append(
            html.paragraph(
                f"Measured at planning: {1 / spec.plan.seconds_per_galaxy:.3g} galaxies/s"
                " a worker.",
                soft=True,
            )
        )
    return html.section("Rates", *parts)


def flags(found: Gathered) -> str:
    """How many galaxies carry each flag."""
    if not found.rows:
        return ""

    def share(count: int) -> str:
        return f"{100 * count / found.rows:.2f} %"

    rows: list[list[str]] = [["0", "no flag", f"{found.clean:,}", share(found.clean), "given", ""]]
    for bit, meaning in MEANINGS.items():
        count = found.flags[bit]
        posterior = "null" if bit & NULL_BITS else "given"
        rows.append([str(int(bit)), str(bit.name), f"{count:,}", share(count), posterior, meaning])
    names = ["bit", "flag", "galaxies", "share", "posterior", "meaning"]
    return html.section(
        "Flags",
        html.table(names, rows, numbers=(0, 2, 3)),
        html.paragraph("A galaxy may carry several flags.", soft=True),
    )


def pictures(found: Gathered) -> str:
    """Distributions of the whole catalogue."""
    if not found.posteriors:
        words = "No galaxy has a posterior yet." if found.rows else ""
        return html.section("Distributions", html.paragraph(words)) if words else ""
    drawn = len(found.sample) + len(found.flagged)
    clean = bool(len(found.sample))
    return html.section(
        "Distributions",
        html.figure(
            distributions.histograms(found),
            "histograms of B/T, half-light radius and magnitude",
            f"Medians and modes of the {found.posteriors:,} posteriors.",
        ),
        html.figure(
            distributions.widths(found),
            "half-width of the posteriors against magnitude",
            "Half the distance between the 16 and 84 % quantiles. Lines: median (and 16, 84 %) of "
            f"all galaxies in half a magnitude. Points: {drawn:,} galaxies, blue without a flag, "
            "orange with one.",
        ),
        html.figure(
            distributions.size_magnitude(found),
            "half-light radius against magnitude, coloured by B/T",
            f"Medians of {len(found.sample) if clean else len(found.flagged):,} galaxies "
            f"{'without' if clean else 'with'} a flag.",
        ),
    )


def sky(outlines: Outlines, found: Gathered) -> str:
    """Where partitions and flagged galaxies are."""
    counts = ", ".join(f"{outlines.counts[s]:,} {s.name.lower()}" for s in State)
    words = f"Partitions: {counts}."
    if outlines.merged:
        words += (
            f" With more than {OUTLINES:,}, neighbours are drawn as one pixel, in the worst of "
            "their states."
        )
    for sample, what in ((found.flagged, "flagged"), (found.without, "without a posterior")):
        if sample.offered > len(sample):
            words += f" {POINTS:,} of {sample.offered:,} galaxies {what} are drawn."
    words += " HEALPix pixels, ICRS."
    return html.section(
        "On the sky",
        html.figure(
            sky_map(outlines, found), "map of the partitions and of flagged galaxies", words
        ),
    )
