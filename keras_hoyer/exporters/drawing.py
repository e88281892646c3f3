"""Pictures of what an export wrote and of what a comparison found, drawn with matplotlib."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from matplotlib.ticker import EngFormatter, MaxNLocator

from keras_hoyer.pages import charts
from keras_hoyer.pages.charts import Drawing

if TYPE_CHECKING:
    from keras_hoyer.exporters.comparison import Comparison
    from keras_hoyer.exporters.results import ExportResult


@dataclass(frozen=True)
class Bars:
    """Bars to be drawn: a line for each name, and a column for each thing that was measured.

    Attributes:
        names: what each line is.
        columns: from the title of a column to its values and how they are written.
        strong: which lines are dark.
    """

    names: Sequence[str]
    columns: Mapping[str, tuple[Sequence[float], str]]
    strong: Sequence[bool]

    def describe(self, title: str) -> str:
        """The figures of one column in words."""
        values, spec = self.columns[title]
        pairs = zip(self.names, values, strict=True)
        return "; ".join(f"{name} {format(value, spec)}" for name, value in pairs if value)

    def draw(self, *titles: str) -> Drawing:
        """Draws some columns beside each other. Defaults to all."""
        titles = titles or tuple(self.columns)
        with charts.styled():
            figure, found = charts.chart(len(self.names), len(titles))
            for axes, title in zip(found, titles, strict=True):
                values, spec = self.columns[title]
                axes.set_xlim(0, max(values, default=0) or 1)
                axes.set_xlabel(title)
                axes.xaxis.set_major_locator(MaxNLocator(4))
                if max(values, default=0) >= 1000:
                    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
                dark = [value * s for value, s in zip(values, self.strong, strict=True)]
                charts.bars(axes, values, "pale")
                charts.bars(axes, dark, "strong")
                charts.figures(axes, [format(value, spec) if value else "" for value in values])
            charts.names(found[0], self.names)
            return figure


def candidates(result: "ExportResult") -> Bars:
    """What was tried, the kept one dark: bytes, and times where they were measured."""
    written = [c for c in result.candidates if c.bytes is not None]
    kept = [c.outcome == "kept" for c in written]
    names = [f"{c.name} (kept)" if k else c.name for c, k in zip(written, kept, strict=True)]
    columns = {"bytes": ([float(c.bytes or 0) for c in written], ",.0f")}
    if any(c.milliseconds is not None for c in written):
        columns["milliseconds"] = ([c.milliseconds or 0.0 for c in written], ".3f")
    return Bars(names, columns, kept)


def sides(comparison: "Comparison") -> Bars:
    """Two models: bytes, and the time of one sample where it was measured."""
    names = [f"{side}: {name}" for side, name in zip("AB", comparison.short_names, strict=True)]
    columns = {"bytes": (list(map(float, comparison.bytes)), ",.0f")}
    if comparison.milliseconds:
        columns["milliseconds"] = (list(comparison.milliseconds), ".4f")
    return Bars(names, columns, [True] * len(names))
