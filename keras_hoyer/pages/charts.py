"""Charts with a line for each thing: its name and a figure above a bar. Drawn with matplotlib."""

import contextlib
import io
from collections.abc import Sequence

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from keras_hoyer._tables import shorten
from keras_hoyer.pages.pictures import COLORS, STYLE

# Inches: a line, the axis below all lines, and a picture of one column, which fits a phone.
LINE, AXIS, COLUMN = 0.42, 0.75, 3.9

# Within a line of height 1: where its text stands, and what is drawn begins and ends.
TEXT, TOP, BOTTOM = 0.34, 0.4, 0.9

LONGEST_NAME = 36


class Drawing(Figure):
    """A figure that a notebook shows, though no window of pyplot holds it."""

    def _repr_png_(self) -> bytes:
        file = io.BytesIO()
        self.savefig(file, format="png")
        return file.getvalue()


def styled() -> contextlib.AbstractContextManager[None]:
    """The style of all charts, for as long as one is drawn."""
    style: contextlib.AbstractContextManager[None] = matplotlib.rc_context(STYLE)
    return style


def chart(lines: int, columns: int = 1) -> tuple[Drawing, list[Axes]]:
    """A drawing of so many lines, with so many columns beside each other."""
    size = (COLUMN * columns, AXIS + LINE * max(1, lines))
    figure = Drawing(figsize=size, layout="constrained")
    found = list(figure.subplots(1, columns, squeeze=False)[0])
    for axes in found:
        axes.set_ylim(max(1, lines), 0)
        axes.set_yticks([])
        axes.spines["left"].set_visible(False)
    return figure, found


def bars(axes: Axes, lengths: Sequence[float], color: str) -> None:
    """A bar in each line."""
    places = [line + (TOP + BOTTOM) / 2 for line in range(len(lengths))]
    axes.barh(places, lengths, height=(BOTTOM - TOP) * 0.8, color=COLORS[color])


def names(axes: Axes, texts: Sequence[str]) -> None:
    """The name of each line, above what is drawn there."""
    for line, text in enumerate(texts):
        place = axes.get_yaxis_transform()
        axes.text(0, line + TEXT, shorten(text, LONGEST_NAME), transform=place, va="bottom")


def figures(axes: Axes, texts: Sequence[str]) -> None:
    """The figure of each line, at its end."""
    for line, text in enumerate(texts):
        place = axes.get_yaxis_transform()
        axes.text(1, line + TEXT, text, transform=place, ha="right", va="bottom")
