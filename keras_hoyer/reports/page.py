"""A report as a page."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

from keras_hoyer import pages
from keras_hoyer._progress import step
from keras_hoyer._tables import short_count
from keras_hoyer.pages import Part
from keras_hoyer.reports import drawing, table
from keras_hoyer.reports.activations import activation_rows
from keras_hoyer.reports.grouping import GroupChart, chart_of
from keras_hoyer.reports.results import KernelReport, Report

# How many kernels the words of a picture name one by one.
MOST_NAMED = 20


def write(report: Report, filepath: str | os.PathLike[str]) -> Path:
    """Writes the page of a report."""
    with step(f"drawing {filepath}"):
        return _write(report, filepath)


def _write(report: Report, filepath: str | os.PathLike[str]) -> Path:
    title = f"What is left of {report.name}" if report.name else "What is left of the model"
    cells = table.cells_of(report)
    kernels = pages.table("Kernels", cells, table.figures(cells[0]), total=True)
    notes = pages.paragraphs(*table.notes_of(report))
    parts = [
        Part("At a glance", [pages.facts(_facts(report)), notes]),
        Part("Each kernel", [kernels]),
        *_activations(report),
        Part("Pictures", [pages.side_by_side(*_pictures(report))]),
        Part("Channels that hang together", list(_groups(report))),
    ]
    return pages.write(filepath, title, parts)


def _facts(report: Report) -> list[tuple[str, str]]:
    pairs = [
        ("parameters of the model", f"{report.parameters:,}"),
        ("weights in kernels", f"{report.total:,}"),
        ("of them zero", f"{report.sparsity:.2%}"),
        ("held at zero", f"{report.held:,}"),
        ("effective number", f"{round(report.effective):,}"),
    ]
    if report.flops is None or report.flops_left is None:
        return pairs
    share = report.flops_left / report.flops if report.flops else 1.0
    return [
        *pairs,
        ("multiply-adds", short_count(report.flops)),
        ("left after shrinking", f"{short_count(report.flops_left)} ({share:.0%})"),
    ]


def _activations(report: Report) -> Iterator[Part]:
    rows = activation_rows(report.activations)
    if rows:
        shown = pages.table("Activations", rows, right=(2, 3), total=True)
        yield Part("Activations on the data", [shown])


def _pictures(report: Report) -> Iterator[str]:
    unit = drawing.unit_of(report)
    yield pages.picture(
        drawing.picture(report, drawing.draw_sizes),
        "How large the weights are",
        "For each kernel a histogram of the magnitudes of its weights that are not zero, on a "
        "logarithmic scale, with a line at the trimming threshold, below which Hoyer-Square "
        "shrinks a weight; the smallest 0.2% of the weights may lie further to the left. "
        "Thresholds: " + _each(report, lambda layer: f"{layer.threshold:.2g}"),
    )
    yield pages.picture(
        drawing.picture(report, drawing.draw_zeros),
        "How many are zero",
        "A bar for each kernel: " + _each(report, lambda layer: f"{layer.sparsity:.1%}"),
    )
    yield pages.picture(
        drawing.picture(report, drawing.draw_savings),
        f"What shrinking saves, in {unit}",
        f"A bar for the {unit} of each kernel, and within it one for those that are left when "
        "channels that are zero are gone: "
        + _each(report, lambda k: "{1:,} of {0:,}".format(*drawing.costs(report, k))),
    )


def _each(report: Report, say: Callable[[KernelReport], str]) -> str:
    layers = report.layers[:MOST_NAMED]
    named = "; ".join(f"{layer.name} {say(layer)}" for layer in layers)
    more = len(report.layers) - len(layers)
    return f"{named}; and {more} more, see the table" if more else named or "there is none"


def _groups(report: Report) -> Iterator[str]:
    if report.flops is None:
        yield pages.paragraphs(
            "The graph of this model cannot be seen, so it is not known which channels hang "
            "together. A functional model, or layers that can be called on `keras.Input`, show it."
        )
        return
    chart = chart_of(report)
    if chart.layers:
        yield pages.paragraphs(
            "A column is a set of channels that live and die together: a filled disc is a layer "
            "that makes them, a dot one with a weight for each, such as a normalization, and a "
            "square one that reads them. Where a column has several discs, their outputs meet, and "
            "a channel goes from all of them or from none. The words at the end of a line say why "
            "no channel that the layer makes can go."
        )
        yield pages.picture(
            drawing.group_chart(chart),
            "Layers and their channel groups",
            f"{len(chart.groups)} groups of channels over {len(chart.layers)} layers; the tables "
            "below say the same in words.",
            roomy=True,
        )
        yield from _group_tables(chart)


def _group_tables(chart: GroupChart) -> Iterator[str]:
    if chart.groups:
        header = ("group", "channels", "zero", "made by", "along", "read by")
        rows = [
            (
                str(number),
                f"{group.channels:,}",
                f"{group.zero_channels:,}",
                *(", ".join(names) for names in (group.made_by, group.along, group.read_by)),
            )
            for number, group in enumerate(chart.groups, start=1)
        ]
        yield pages.table("Channel groups", [header, *rows], right=(0, 1, 2))
    if chart.fixed:
        rows = [(chart.layers[line], why) for line, why in chart.fixed.items()]
        yield pages.table("Layers that keep all their channels", [("layer", "why"), *rows])
