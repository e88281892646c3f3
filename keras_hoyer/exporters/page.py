"""What an export wrote, and what a comparison found, as pages."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

from keras_hoyer import pages
from keras_hoyer._tables import Rows
from keras_hoyer.exporters import drawing
from keras_hoyer.exporters.drawing import Bars
from keras_hoyer.pages import Part

if TYPE_CHECKING:
    from keras_hoyer.exporters.comparison import Comparison
    from keras_hoyer.exporters.results import ExportResult


def write_result(
    result: "ExportResult", tried: Rows, tensors: Rows, filepath: str | os.PathLike[str]
) -> Path:
    """Writes the page of an export.

    Args:
        result: what `export` handed back.
        tried: its candidates as rows of a table.
        tensors: what is stored, as rows of a table; with the header alone there is none.
        filepath: where the page goes.
    """
    facts = [
        ("format", result.format),
        ("bytes", f"{result.bytes:,}"),
        ("bytes of the dense file", f"{result.dense_bytes:,}"),
        ("times smaller", f"{result.ratio:.2f}"),
        ("largest error", f"{result.max_error:.2g}"),
        ("error allowed", f"{result.tolerance:.2g}"),
    ]
    right = range(1, len(tried[0]) - 1)
    parts = [
        Part("At a glance", [pages.facts(facts), pages.paragraphs(str(result.path))]),
        Part(
            "What was tried",
            [pages.table("Candidates", tried, right), _pictures(drawing.candidates(result))],
        ),
    ]
    if len(tensors) > 1:
        parts.append(Part("What is stored", [pages.table("Tensors", tensors, right=(3, 4))]))
    if result.notes:
        parts.append(Part("Notes", [pages.paragraphs(*result.notes)]))
    return pages.write(filepath, f"Export to {result.path.name}", parts)


def write_comparison(
    comparison: "Comparison",
    sides: list[str],
    sizes: Rows,
    figures: list[tuple[str, str]],
    filepath: str | os.PathLike[str],
) -> Path:
    """Writes the page of a comparison.

    Args:
        comparison: what `compare` handed back.
        sides: what A and B are, in a line each.
        sizes: bytes and times as rows of a table.
        figures: names and figures of how far the outputs are apart.
        filepath: where the page goes.
    """
    both = _pictures(drawing.sides(comparison))
    parts = [
        Part("At a glance", [pages.facts(figures), pages.paragraphs(*sides)]),
        Part("Size and speed", [pages.table("Sizes", sizes, right=(1, 2, 3)), both]),
    ]
    a, b = comparison.short_names
    return pages.write(filepath, f"{a} and {b}", parts)


def _pictures(bars: Bars) -> str:
    """A picture for each column, so that a phone shows them below each other."""
    return pages.side_by_side(
        *(
            pages.picture(bars.draw(title), title.capitalize(), bars.describe(title))
            for title in bars.columns
        )
    )
