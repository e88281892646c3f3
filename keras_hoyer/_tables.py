"""Tables as text and as HTML, from the same rows of cells."""

import html
import textwrap
from collections.abc import Collection, Sequence

Rows = Sequence[Sequence[str]]

GAP = "  "


def text_table(rows: Rows, right: Collection[int] = (), width: int | None = None) -> str:
    """Rows of cells as lines with aligned columns.

    Args:
        rows: The cells.
        right: Columns that are aligned to the right, as figures are.
        width: What no line is longer than: the last column is wrapped to it. Defaults to `None`:
            whatever the cells take.

    >>> print(text_table([("kernel", "weights"), ("out", "6")], right=[1]))
    kernel  weights
    out           6
    """
    *others, last = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    if width is not None:
        last = min(last, max(20, width - sum(others) - len(GAP) * len(others)))
    widths = [*others, last]
    lines = []
    for *cells, text in rows:
        first, *rest = textwrap.wrap(text, last) if len(text) > last else [text]
        for row in ([*cells, first], *(["" for _ in cells] + [piece] for piece in rest)):
            aligned = [
                cell.rjust(size) if i in right else cell.ljust(size)
                for i, (cell, size) in enumerate(zip(row, widths, strict=True))
            ]
            lines.append(GAP.join(aligned).rstrip())
    return "\n".join(lines)


def html_table(rows: Rows, right: Collection[int] = (), total: bool = False) -> str:
    """The same as a plain HTML table; the first row is the header.

    Args:
        rows: The cells; they are escaped.
        right: Columns that are aligned to the right.
        total: Whether the last row is a sum, to be set in bold.

    >>> html_table([("a",), ("<b>",)])
    '<table><tr><th style="text-align:left">a</th></tr><tr><td \
style="text-align:left">&lt;b&gt;</td></tr></table>'
    """
    lines = []
    for number, row in enumerate(rows):
        tag = "th" if number == 0 or (total and number == len(rows) - 1) else "td"
        cells = [
            f'<{tag} style="text-align:{"right" if i in right else "left"}">'
            f"{html.escape(cell)}</{tag}>"
            for i, cell in enumerate(row)
        ]
        lines.append(f"<tr>{''.join(cells)}</tr>")
    return f"<table>{''.join(lines)}</table>"


def html_lines(*lines: str) -> str:
    """Lines of text as an HTML paragraph, escaped."""
    return f"<p>{'<br>'.join(map(html.escape, lines))}</p>" if lines else ""


def wrap(text: str, width: int, indent: str = "") -> str:
    """A sentence in lines of at most `width` characters; what may be typed stays in one piece.

    >>> print(wrap("Note: pass --optimize-for latency", 24, indent="      "))
    Note: pass
          --optimize-for
          latency
    """
    return textwrap.fill(
        text, width, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )


def shorten(text: str, width: int) -> str:
    """A text of at most `width` characters, with dots for its middle: names differ at their ends.

    >>> shorten("encoder_3/attention/query/kernel", 20)
    'encoder_...ry/kernel'
    """
    if len(text) <= width:
        return text
    end = (width - 3) // 2 + (width - 3) % 2
    return f"{text[: width - 3 - end]}...{text[-end:]}"


def short_count(number: int) -> str:
    """A count in at most seven characters.

    >>> short_count(12345), short_count(2257984), short_count(300123456), short_count(4 * 10**12)
    ('12,345', '2.26M', '300M', '4.00T')
    """
    if number < 10**6:
        return f"{number:,}"
    units = ((10**12, "T"), (10**9, "G"), (10**6, "M"))
    unit, letter = next((unit, letter) for unit, letter in units if number >= unit)
    value = number / unit
    return f"{value:.{2 if value < 10 else 1 if value < 100 else 0}f}{letter}"
