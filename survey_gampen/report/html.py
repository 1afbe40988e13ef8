"""The parts of an HTML page as text: everything that is shown passes through :func:`text`."""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence

#: The browser itself is told to fetch nothing and to run nothing.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"

_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #d9dee5;
  --paper: #ffffff; --wash: #f4f6f8; --blue: #0072b2; --red: #d55e00; --grey: #b4bcc6;
  --yellow: #e8c547; }
@media (prefers-color-scheme: dark) { :root { --ink: #e6e9ee; --soft: #a0abb8; --line: #39424e;
  --paper: #14181d; --wash: #1e242b; --blue: #56b4e9; --red: #ff9d57; --grey: #59636f; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 1.5rem 1rem 3rem; max-width: 72rem; background: var(--paper);
  color: var(--ink); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans",
  sans-serif; overflow-wrap: anywhere; }
h1 { font-size: 1.7rem; line-height: 1.2; margin: 0 0 .3rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .25rem;
  border-bottom: 1px solid var(--line); }
p { margin: .5rem 0; max-width: 50rem; }
.soft, figcaption { color: var(--soft); }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; vertical-align: top; padding: .3rem .9rem .3rem 0;
  border-bottom: 1px solid var(--line); overflow-wrap: break-word; }
thead th { color: var(--soft); font-weight: 600; }
td.number, th.number { text-align: right; white-space: nowrap; }
code { font-size: .9em; }
.bar { display: flex; height: .8rem; margin: .8rem 0 .4rem; border-radius: .4rem;
  overflow: hidden; background: var(--wash); border: 1px solid var(--line); }
.bar .published { background: var(--blue); } .bar .quarantined { background: var(--red); }
figure { margin: 1rem 0; }
figcaption { font-size: .9rem; margin-top: .3rem; }
img { display: block; max-width: 100%; height: auto; background: #fff; border-radius: .35rem; }
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(100%, 22rem), 1fr));
  gap: 1rem; }
.card { margin: 0; padding: .7rem .8rem; background: var(--wash); border: 1px solid var(--line);
  border-radius: .5rem; break-inside: avoid; }
.card figcaption { margin: 0 0 .4rem; }
.card img { width: 100%; }
.card p { margin: .4rem 0 0; font-size: .9rem; }
.name { color: var(--ink); font-weight: 600; }
.flag { display: inline-block; padding: 0 .4em; border: 1px solid var(--red);
  color: var(--red); border-radius: .3em; font-size: .78rem; }
.value { white-space: nowrap; margin-right: 1em; }
.range { display: inline-block; vertical-align: middle; font-size: .72em; line-height: 1.1;
  margin-left: .15em; }
@media print { :root { color-scheme: light; --ink: #000; --soft: #444; --line: #bbb;
  --paper: #fff; --wash: #fff; --blue: #0072b2; --red: #b34700; }
  body { font-size: 10.5pt; max-width: none; padding: 0; }
  * { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
  h2 { break-after: avoid; } figure, tr { break-inside: avoid; }
  .cards { grid-template-columns: 1fr 1fr; } }
"""


def text(value: object) -> str:
    """Anything as text that cannot be taken for HTML, on one line."""
    shown = "".join(c if c.isprintable() else " " for c in str(value))
    # Half a surrogate pair may stand in a name, and in no file.
    return html.escape(" ".join(shown.split()).encode("utf-8", "replace").decode())


def paragraph(words: str, soft: bool = False) -> str:
    """A paragraph of plain words."""
    return f'<p class="soft">{text(words)}</p>' if soft else f"<p>{text(words)}</p>"


def table(
    head: Sequence[str], rows: Iterable[Sequence[object]], numbers: Sequence[int] = ()
) -> str:
    """A table.

    Parameters
    ----------
    head : sequence of str
        Empty for a table whose first column says what the others are.
    rows : iterable of sequences
        Cells, plain.
    numbers : sequence of int
        Columns that are set flush right.
    """

    def cell(kind: str, place: int, value: object) -> str:
        name = ' class="number"' if place in numbers else ""
        return f"<{kind}{name}>{text(value)}</{kind}>"

    lines = ['<div class="wide"><table>']
    if head:
        cells = "".join(cell("th", i, value) for i, value in enumerate(head))
        lines.append(f"<thead><tr>{cells}</tr></thead>")
    lines.append("<tbody>")
    for row in rows:
        kinds = ["th" if i == 0 and not head else "td" for i in range(len(row))]
        cells = "".join(cell(k, i, v) for i, (k, v) in enumerate(zip(kinds, row, strict=True)))
        lines.append(f"<tr>{cells}</tr>")
    lines.append("</tbody></table></div>")
    return "\n".join(lines)


def image(png: bytes, alternative: str) -> str:
    """A picture that lies in the page itself.

    Parameters
    ----------
    png : bytes
    alternative : str
        What it shows, for those who do not see it.
    """
    # A PNG begins with 16 bytes of signature and header, then its width and height.
    width, height = (int.from_bytes(png[at : at + 4], "big") for at in (16, 20))
    data = base64.b64encode(png).decode()
    return (
        f'<img width="{width * 2 // 3}" height="{height * 2 // 3}" alt="{text(alternative)}" '
        f'src="data:image/png;base64,{data}">'
    )


def figure(png: bytes, alternative: str, caption: str) -> str:
    """A picture and the words below it."""
    words = f"<figcaption>{text(caption)}</figcaption>"
    return f"<figure>\n{image(png, alternative)}\n{words}\n</figure>"


def section(title: str, *parts: str) -> str:
    """A heading and what belongs under it."""
    return "\n".join([f"<section>\n<h2>{text(title)}</h2>", *parts, "</section>"])


def document(title: str, *parts: str) -> str:
    """The whole page."""
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            f"<title>{text(title)}</title>",
            f"<style>{_STYLE}</style>",
            "</head>",
            "<body>",
            *parts,
            "</body>",
            "</html>",
            "",
        ]
    )
