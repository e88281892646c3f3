"""A report as a table, in text and in a notebook, and what the figures do not say."""

import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING

from keras_hoyer._tables import html_lines, html_table, short_count, shorten, text_table
from keras_hoyer.criteria import EffectiveNumber
from keras_hoyer.reports.activations import activation_rows

if TYPE_CHECKING:
    from keras_hoyer.reports.results import Report

# What a line of the table is no longer than, and what names are not cut below for it.
WIDTH, SHORTEST_NAME = 120, 20

# Headers that are wider than the figures below them.
TWO_LINES = {"zero channels": ("zero", "channels"), "multiply-adds": ("multiply-", "adds")}


def as_text(report: "Report") -> str:
    """The report for a terminal."""
    text = _text(rows_of(report))
    if _width(text) > WIDTH:
        text = _text(_compact_rows(report), compact=True)
    text = "\n".join([text, *(textwrap.fill(note, WIDTH) for note in notes_of(report))])
    rows = activation_rows(report.activations)
    return f"{text}\n\n{text_table(rows, right=[2, 3])}" if rows else text


def as_html(report: "Report") -> str:
    """The report for a notebook."""
    cells = cells_of(report)
    table = html_table(cells, right=figures(cells[0]), total=True) + html_lines(*notes_of(report))
    rows = activation_rows(report.activations)
    return table + (html_table(rows, right=[2, 3], total=True) if rows else "")


def cells_of(report: "Report") -> list[list[str]]:
    """A header, a row for each kernel, and the total."""
    rows = rows_of(report)
    columns = list(rows[0])
    return [columns, *([row[column] for column in columns] for row in rows)]


def figures(columns: list[str]) -> range:
    """Names and shapes read from the left, figures from the right."""
    return range(2, len(columns))


def notes_of(report: "Report") -> list[str]:
    """What the figures do not say."""
    return [
        *_notes_on_zeros(report),
        *_notes_on_effective_number(report),
        *_notes_on_channels(report),
        *([str(report.measured)] if report.measured else []),
    ]


def rows_of(report: "Report", number: Callable[[int], str] = "{:,}".format) -> list[dict[str, str]]:
    """A row for each kernel and one for the total, from the columns' names to their cells."""
    rows = [
        {
            "kernel": layer.name,
            "shape": " x ".join(map(str, layer.shape)),
            "weights": number(layer.total),
            "nonzero": number(layer.nonzero),
            "sparsity": f"{layer.sparsity:.2%}",
            "held": number(layer.held),
            "Hoyer": f"{layer.hoyer:.3f}",
            "effective": number(round(layer.effective)),
            "zero channels": f"{number(layer.zero_channels)} of {number(layer.channels)}",
            "multiply-adds": "?" if layer.flops is None else number(layer.flops),
            "left": "?" if layer.flops_left is None else number(layer.flops_left),
        }
        for layer in report.layers
    ]
    rest = (report.flops or 0) - sum(layer.flops or 0 for layer in report.layers)
    if rows and rest:
        left = (report.flops_left or 0) - sum(layer.flops_left or 0 for layer in report.layers)
        products = {
            "kernel": "products of tensors",
            "multiply-adds": number(rest),
            "left": number(left),
        }
        rows.append({column: products.get(column, "") for column in rows[0]})
    total = {
        "kernel": "total",
        "weights": number(report.total),
        "nonzero": number(report.nonzero),
        "sparsity": f"{report.sparsity:.2%}",
        "held": number(report.held),
        "effective": number(round(report.effective)),
        "multiply-adds": "?" if report.flops is None else number(report.flops),
        "left": "?" if report.flops_left is None else number(report.flops_left),
    }
    columns = rows[0] if rows else ("kernel", "shape", *total)
    return [*rows, {column: total.get(column, "") for column in columns}]


def _compact_rows(report: "Report") -> list[dict[str, str]]:
    """The same for models with long names and large kernels."""
    *rows, total = rows_of(report, short_count)
    for row in rows:
        row["shape"] = row["shape"].replace(" ", "")
        del row["weights"]  # the shape says it
    total["shape"] = f"{total.pop('weights')} weights"
    rows.append(total)
    longest = max(len(row["kernel"]) for row in rows)
    excess = _width(_text(rows, compact=True)) - WIDTH
    for row in rows:
        row["kernel"] = shorten(row["kernel"], max(SHORTEST_NAME, longest - max(0, excess)))
    return rows


def _notes_on_zeros(report: "Report") -> list[str]:
    notes = []
    free = report.total - report.nonzero - report.held
    if free:
        notes.append(
            f"{_count(free, 'zero is', 'zeros are')} not held: training can bring them back. "
            "`keep_zeros(model)` holds them."
        )
    if report.overwritten:
        notes.append(
            f"{_count(report.overwritten, 'weight is', 'weights are')} not zero although masks "
            "hold them at zero: the next step of training makes them so. `keep_zeros(model)` "
            "holds the zeros of now instead."
        )
    return notes


def _notes_on_effective_number(report: "Report") -> list[str]:
    wanted = round(EffectiveNumber().ratio * report.effective)
    if not 0 < wanted < report.nonzero:
        return []
    return [
        f"`criteria.EffectiveNumber()` would cut {report.nonzero - wanted:,} more weights and "
        f"keep {wanted:,}."
    ]


def _notes_on_channels(report: "Report") -> list[str]:
    reasons: dict[str, list[str]] = {}
    for layer in report.layers:
        if layer.fixed:
            reasons.setdefault(layer.fixed, []).append(layer.name)
    fixed = [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]
    notes = [f"No channel can be removed from: {'; '.join(fixed)}."] if fixed else []
    return [*notes, f"At least: {report.at_least}"] if report.at_least else notes


def _text(rows: list[dict[str, str]], compact: bool = False) -> str:
    """The rows between rules."""
    columns = list(rows[0])
    header = [columns]
    if compact:
        pairs = [TWO_LINES.get(column, ("", column)) for column in columns]
        header = [list(line) for line in zip(*pairs, strict=True)]
    cells = [*header, *([row[column] for column in columns] for row in rows)]
    lines = text_table(cells, right=figures(columns)).splitlines()
    rule = "-" * max(map(len, lines))
    above, body = lines[: len(header)], lines[len(header) : -1]
    return "\n".join([*above, rule, *body, rule, lines[-1]])


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
