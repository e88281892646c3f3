"""Pictures of a report, drawn with matplotlib."""

from collections.abc import Callable

import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import EngFormatter, MaxNLocator, PercentFormatter

from keras_hoyer._tables import short_count, shorten
from keras_hoyer.pages import charts
from keras_hoyer.pages.charts import BOTTOM, TOP, Drawing
from keras_hoyer.pages.pictures import COLORS
from keras_hoyer.reports.grouping import GroupChart
from keras_hoyer.reports.histograms import Histogram
from keras_hoyer.reports.results import KernelReport, Report

# The share of the smallest weights that may lie beyond the left end of a histogram.
FEW = 0.002


def overview(report: Report) -> Drawing:
    """The three pictures of the kernels beside each other; the names are on the left."""
    with charts.styled():
        figure, columns = charts.chart(len(report.layers), len(PICTURES))
        for axes, (title, draw) in zip(columns, PICTURES.items(), strict=True):
            axes.set_title(title or unit_of(report))
            draw(axes, report)
        charts.names(columns[0], [layer.name for layer in report.layers])
        return figure


def picture(report: Report, draw: Callable[[Axes, Report], None]) -> Drawing:
    """One of them by itself, with the names."""
    with charts.styled():
        figure, [axes] = charts.chart(len(report.layers))
        draw(axes, report)
        charts.names(axes, [layer.name for layer in report.layers])
        return figure


def draw_sizes(axes: Axes, report: Report) -> None:
    """How large the weights are that are not zero, and the trimming threshold."""
    axes.set_xscale("log")
    starts = [_start(layer.histogram) for layer in report.layers if layer.histogram.counts]
    axes.set_xlim(min(starts, default=None))
    axes.set_xlabel("magnitude (line: trimming threshold)")
    for row, layer in enumerate(report.layers):
        edges, counts = layer.histogram.edges, layer.histogram.counts
        if not counts:
            continue
        scale = (BOTTOM - TOP) / max(counts)
        heights = [row + BOTTOM - scale * count for count in counts]
        axes.stairs(heights, edges, baseline=row + BOTTOM, fill=True, color=COLORS["strong"])
        ends = (row + TOP, row + BOTTOM)
        axes.plot([layer.threshold] * 2, ends, color=COLORS["mark"], linewidth=1.5)


def _start(histogram: Histogram) -> float:
    """Where a histogram begins but for few: of any weights some are next to zero."""
    below = np.cumsum(histogram.counts)
    return histogram.edges[int(np.searchsorted(below, FEW * below[-1]))]


def draw_zeros(axes: Axes, report: Report) -> None:
    """The share of zeros of each kernel."""
    axes.set_xlim(0, 1)
    axes.xaxis.set_major_formatter(PercentFormatter(1))
    axes.set_xlabel("weights that are zero")
    layers = report.layers
    charts.bars(axes, [1.0] * len(layers), "pale")
    charts.bars(axes, [layer.sparsity for layer in layers], "strong")
    charts.figures(axes, [f"{layer.sparsity:.1%}" for layer in layers])


def draw_savings(axes: Axes, report: Report) -> None:
    """What each kernel costs, and what of that `shrink` would leave."""
    pairs = [costs(report, layer) for layer in report.layers]
    axes.set_xlim(0, max([whole for whole, _ in pairs], default=1))
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.set_xlabel("inner bar: left by shrink")
    charts.bars(axes, [whole for whole, _ in pairs], "pale")
    charts.bars(axes, [left for _, left in pairs], "strong")
    charts.figures(axes, [f"{short_count(b)} of {short_count(a)}" for a, b in pairs])


def costs(report: Report, layer: KernelReport) -> tuple[int, int]:
    """Multiply-adds of a kernel and those that are left, or weights where there are no others."""
    if report.flops is None:
        return layer.total, layer.size_left
    return layer.flops or 0, layer.flops_left or 0


def unit_of(report: Report) -> str:
    """What `costs` counts."""
    return "weights" if report.flops is None else "multiply-adds"


# With their titles over each other's columns; the last one's is the unit of its bars.
PICTURES = {"size of the weights": draw_sizes, "zeros": draw_zeros, "": draw_savings}


def group_chart(chart: GroupChart) -> Drawing:
    """Which layers' channels hang together: a line of layers, a column for each group."""
    with charts.styled():
        size = (0.6 + 0.3 * len(chart.groups), 0.5 + 0.26 * len(chart.layers))
        figure = Drawing(figsize=size)
        axes = figure.add_axes((0, 0, 1, 1))
        axes.set_ylim(len(chart.layers) - 0.5, -0.5)
        axes.set_xlim(0.5, max(1, len(chart.groups)) + 0.5)
        names = [shorten(name, charts.LONGEST_NAME) for name in chart.layers]
        axes.set_yticks(range(len(names)), names, color=COLORS["ink"])
        axes.set_xticks(range(1, len(chart.groups) + 1))
        axes.xaxis.tick_top()
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        axes.hlines(range(len(names)), *axes.get_xlim(), color=COLORS["line"], linewidth=0.5)
        for number, marks in enumerate(chart.marks, start=1):
            rows = [row for places in marks for row in places]
            axes.vlines(number, min(rows), max(rows), color=COLORS["strong"], linewidth=1.5)
            for places, style in zip(marks, MARKS, strict=True):
                axes.plot([number] * len(places), places, linestyle="none", zorder=3, **style)
        for row, reason in chart.fixed.items():
            axes.text(len(chart.groups) + 0.7, row, reason, va="center", color=COLORS["mark"])
        return figure


# Of a layer that makes the channels of a group, one that goes along, and one that reads them.
MARKS = (
    {"marker": "o", "markersize": 8, "color": COLORS["strong"]},
    {"marker": "o", "markersize": 4, "color": COLORS["strong"]},
    {
        "marker": "s",
        "markersize": 7,
        "markerfacecolor": COLORS["paper"],
        "markeredgecolor": COLORS["strong"],
        "markeredgewidth": 1.5,
    },
)
