"""A page as one HTML file that asks for nothing else: text, tables and pictures."""

import html
import itertools
import os
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any

from keras_hoyer import __version__
from keras_hoyer._destination import replacing
from keras_hoyer._tables import Rows
from keras_hoyer.pages import pictures

# A table of fewer rows is not worth sorting.
FEWEST_TO_SORT = 3

# What is longer than so many characters is wrapped in a table's cell.
LONGEST_LINE = 40


@dataclass(frozen=True)
class Part:
    """A part of a page, with a heading.

    Attributes:
        title: The heading; no two of a page are the same.
        blocks: What stands below it, as HTML: see `paragraphs`, `facts`, `table` and `picture`.
    """

    title: str
    blocks: Sequence[str]


def write(filepath: str | os.PathLike[str], title: str, parts: Sequence[Part]) -> Path:
    """Writes a page: made beside its place, then moved there.

    Args:
        filepath: Where it goes; an older file is replaced by a whole one, or not at all.
        title: Title and first heading.
        parts: What is on it.

    Returns:
        The path of the file.

    Raises:
        ValueError: If no file can be written there.
    """
    text = _page(title, parts)
    with replacing(filepath) as place:
        made = place.folder / "page.html"
        made.write_text(text, encoding="utf-8")
        place.fill(made)
    return Path(filepath)


def paragraphs(*lines: str) -> str:
    """A paragraph for each line; the lines are escaped."""
    return "\n".join(f"<p>{_code(html.escape(line))}</p>" for line in lines)


def facts(pairs: Sequence[tuple[str, str]]) -> str:
    """A few figures with their names, to be seen first."""
    cells = (
        f"<div><dt>{_escape(name)}</dt><dd>{_escape(value)}</dd></div>" for name, value in pairs
    )
    return f'<dl class="facts">{"".join(cells)}</dl>'


def table(caption: str, rows: Rows, right: Collection[int] = (), total: bool = False) -> str:
    """A table whose columns can be sorted.

    Args:
        caption: What it shows; no two of a page are the same.
        rows: The cells, as for `_tables.html_table`; the first row is the header.
        right: Columns of figures: sorted as such, and aligned to the right.
        total: Whether the last row is a sum, which stays below the others.
    """
    header, *body = rows
    last = [body.pop()] if total else []
    sortable = len(body) >= FEWEST_TO_SORT
    heads = "".join(_head(cell, i in right, sortable) for i, cell in enumerate(header))
    lines = "".join(_row(row, right) for row in body)
    foot = "".join(f"<tfoot>{_row(row, right)}</tfoot>" for row in last)
    return (
        f'<div class="wide" role="region" tabindex="0" aria-label="{_escape(caption)}"><table>'
        f"<caption>{_escape(caption)}</caption><thead><tr>{heads}</tr></thead>"
        f"<tbody>{lines}</tbody>{foot}</table></div>"
    )


def side_by_side(*blocks: str) -> str:
    """Pictures beside each other, as many as there is room for."""
    return f'<div class="pictures">{"".join(blocks)}</div>'


def picture(figure: Any, title: str, description: str, roomy: bool = False) -> str:
    """A matplotlib figure in the colours of the page, with its words for those who cannot see it.

    Args:
        figure: The `matplotlib.figure.Figure`, drawn in `pictures.COLORS`.
        title: What it shows; no two of a page are the same.
        description: What can be seen in it.
        roomy: Whether it keeps its size on a narrow page, where it is moved, not made smaller.
    """
    name = "".join(c if c.isalnum() else "-" for c in title.lower())
    drawing = pictures.as_svg(figure, name, title, description)
    return (
        f'<figure><figcaption id="{name}-caption">{_escape(title)}</figcaption>'
        f'<div class="wide{" roomy" if roomy else ""}" role="region" tabindex="0" '
        f'aria-labelledby="{name}-caption">'
        f"{drawing}</div></figure>"
    )


def _page(title: str, parts: Sequence[Part]) -> str:
    style, script = (
        resources.files(__package__).joinpath(name).read_text("utf-8")
        for name in ("page.css", "page.js")
    )
    return "\n".join(
        [
            "<!DOCTYPE html>",
            '<html lang="en">',
            "<head>",
            '<meta charset="utf-8">',
            '<meta name="viewport" content="width=device-width, initial-scale=1">',
            '<meta name="color-scheme" content="light dark">',
            # The browser would ask the server for one.
            '<link rel="icon" href="data:,">',
            f"<title>{_escape(title)}</title>",
            f"<style>\n{style}</style>",
            "</head>",
            "<body>",
            f"<header><h1>{_escape(title)}</h1></header>",
            "<main>",
            *_sections(parts),
            "</main>",
            f"<footer><p>keras_hoyer {_escape(__version__)}</p></footer>",
            f"<script>\n{script}</script>",
            "</body>",
            "</html>",
            "",
        ]
    )


def _sections(parts: Sequence[Part]) -> Iterator[str]:
    for number, part in zip(itertools.count(1), parts):
        yield f'<section aria-labelledby="part-{number}">'
        yield f'<h2 id="part-{number}">{_escape(part.title)}</h2>'
        yield from part.blocks
        yield "</section>"


def _head(text: str, figures: bool, sortable: bool) -> str:
    kind = _class(figures)
    if not text:
        return "<td></td>"
    if not sortable:
        return f'<th scope="col"{kind}>{_escape(text)}</th>'
    button = f'<button type="button">{_escape(text)}</button>'
    return f'<th scope="col"{kind} aria-sort="none">{button}</th>'


def _row(row: Sequence[str], right: Collection[int]) -> str:
    first, *others = row
    cells = [f'<th scope="row"{_class(False, first)}>{_escape(first)}</th>']
    cells += [
        f"<td{_class(i in right, cell)}>{_escape(cell)}</td>"
        for i, cell in enumerate(others, start=1)
    ]
    return f"<tr>{''.join(cells)}</tr>"


def _class(figures: bool, text: str = "") -> str:
    """Figures are aligned to the right; long texts are wrapped, all else stays in one line."""
    if figures:
        return ' class="figure"'
    return ' class="words"' if len(text) > LONGEST_LINE else ""


def _code(escaped: str) -> str:
    """What stands between backticks, as code."""
    pieces = escaped.split("`")
    if len(pieces) % 2 == 0:
        return escaped
    return "".join(f"<code>{text}</code>" if i % 2 else text for i, text in enumerate(pieces))


def _escape(text: str) -> str:
    return html.escape(text)
