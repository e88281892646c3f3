"""What is left of a model: counts, measures and zero channels, as data and as a table."""

import math
import textwrap
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import keras
import numpy as np

from keras_hoyer import measures
from keras_hoyer._tables import html_lines, html_table, short_count, shorten, text_table
from keras_hoyer.criteria import EffectiveNumber, Measured
from keras_hoyer.masks import known_mask
from keras_hoyer.plain import LayerSelection
from keras_hoyer.reports.account import Account
from keras_hoyer.reports.activations import (
    ActivationReport,
    activation_rows,
    describe_activations,
)
from keras_hoyer.weights import Weight, find_kernels

# What a line of the table is no longer than, and what names are not cut below for it.
WIDTH, SHORTEST_NAME = 120, 20

# Headers that are wider than the figures below them.
TWO_LINES = {"zero channels": ("zero", "channels"), "multiply-adds": ("multiply-", "adds")}


@dataclass(frozen=True)
class KernelReport:
    """One kernel.

    Attributes:
        name: Layer and weight, such as `"dense/kernel"`.
        shape: Shape of the kernel.
        total: Number of weights.
        nonzero: Number of weights that are not zero.
        sparsity: Share of the weights that is zero.
        held: Number of zeros that a mask holds, through all training to come.
        overwritten: Number of weights that a mask holds at zero and that are not zero, since they
            were set anew: the next step of training makes them zero.
        hoyer: Normalised Hoyer sparsity, see `measures.hoyer_sparsity`.
        effective: Effective number of nonzero weights, see `measures.effective_count`.
        channels: Number of output channels.
        zero_channels: Number of output channels whose weights are all zero.
        flops: Multiply-adds with the kernel for one example; `None` if the model's graph cannot
            be seen, or the kernel is in a layer without a rule that does not say what it does.
        flops_left: Those without the input and output channels whose weights are all zero, which
            are what `shrink` can save.
        fixed: Why no channel of the kernel can be removed, such as "fixed by LayerNormalization
            'norm'"; `None` if some can, or the graph cannot be seen.
    """

    name: str
    shape: tuple[int, ...]
    total: int
    nonzero: int
    sparsity: float
    held: int
    overwritten: int
    hoyer: float
    effective: float
    channels: int
    zero_channels: int
    flops: int | None
    flops_left: int | None
    fixed: str | None = None


@dataclass(frozen=True, repr=False)
class Report:
    """What is left of a model's kernels, shown as a table; `to_dict()` gives JSON values.

    Attributes:
        total: Number of weights in the kernels; biases and normalisation do not count.
        nonzero: Number of weights that are not zero.
        sparsity: Share of the weights that is zero.
        held: Number of zeros that masks hold, through all training to come.
        overwritten: Number of weights that masks hold at zero and that are not zero now.
        layers: A `KernelReport` for each kernel.
        parameters: Number of all parameters of the model, whatever layers were asked for.
        flops: Multiply-adds for one example, as `count_flops` counts them; with `layers`, those
            with their kernels and within them. `None` if the model's graph cannot be seen.
        flops_left: Those without the channels whose weights are all zero.
        at_least: What the multiply-adds leave out, in words; empty if they are complete.
        effective: Effective number of nonzero weights of all kernels together, by which
            `criteria.EffectiveNumber` cuts them.
        measured: What the cut measured that gave this report, if it went by files, as
            `criteria.TargetLatency` does; else `None`.
        activations: With data, an `ActivationReport` for each layer with an activation function.
    """

    total: int
    nonzero: int
    sparsity: float
    held: int
    overwritten: int
    layers: tuple[KernelReport, ...]
    parameters: int
    flops: int | None
    flops_left: int | None
    at_least: str = ""
    effective: float = 0.0
    measured: Measured | None = None
    activations: tuple[ActivationReport, ...] = ()

    def to_dict(self) -> dict[str, Any]:
        """Returns the report as a dictionary of JSON values."""
        return asdict(self)

    def __repr__(self) -> str:
        return (
            f"Report(total={self.total}, nonzero={self.nonzero}, sparsity={self.sparsity:.4}, "
            f"kernels: {len(self.layers)})"
        )

    def __str__(self) -> str:
        text = _text(self._rows("{:,}".format))
        if _width(text) > WIDTH:
            text = _text(self._compact_rows(), compact=True)
        text = "\n".join([text, *(textwrap.fill(note, WIDTH) for note in self._notes())])
        rows = activation_rows(self.activations)
        return f"{text}\n\n{text_table(rows, right=[2, 3])}" if rows else text

    def _notes(self) -> list[str]:
        """What the figures do not say."""
        return [
            *self._notes_on_zeros(),
            *self._notes_on_effective_number(),
            *self._notes_on_channels(),
            *([str(self.measured)] if self.measured else []),
        ]

    def _notes_on_effective_number(self) -> list[str]:
        wanted = round(EffectiveNumber().ratio * self.effective)
        if not 0 < wanted < self.nonzero:
            return []
        return [
            f"`criteria.EffectiveNumber()` would cut {self.nonzero - wanted:,} more weights and "
            f"keep {wanted:,}."
        ]

    def _notes_on_channels(self) -> list[str]:
        reasons: dict[str, list[str]] = {}
        for layer in self.layers:
            if layer.fixed:
                reasons.setdefault(layer.fixed, []).append(layer.name)
        fixed = [f"{', '.join(names)} ({reason})" for reason, names in reasons.items()]
        notes = [f"No channel can be removed from: {'; '.join(fixed)}."] if fixed else []
        return [*notes, f"At least: {self.at_least}"] if self.at_least else notes

    def _repr_html_(self) -> str:
        rows = self._rows("{:,}".format)
        columns = list(rows[0])
        cells = [columns, *([row[column] for column in columns] for row in rows)]
        table = html_table(cells, right=_figures(columns), total=True)
        rows = activation_rows(self.activations)
        below = html_table(rows, right=[2, 3], total=True) if rows else ""
        return table + html_lines(*self._notes()) + below

    def _rows(self, number: Callable[[int], str]) -> list[dict[str, str]]:
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
            for layer in self.layers
        ]
        rest = (self.flops or 0) - sum(layer.flops or 0 for layer in self.layers)
        if rows and rest:
            left = (self.flops_left or 0) - sum(layer.flops_left or 0 for layer in self.layers)
            products = {
                "kernel": "products of tensors",
                "multiply-adds": number(rest),
                "left": number(left),
            }
            rows.append({column: products.get(column, "") for column in rows[0]})
        total = {
            "kernel": "total",
            "weights": number(self.total),
            "nonzero": number(self.nonzero),
            "sparsity": f"{self.sparsity:.2%}",
            "held": number(self.held),
            "effective": number(round(self.effective)),
            "multiply-adds": "?" if self.flops is None else number(self.flops),
            "left": "?" if self.flops_left is None else number(self.flops_left),
        }
        columns = rows[0] if rows else ("kernel", "shape", *total)
        return [*rows, {column: total.get(column, "") for column in columns}]

    def _compact_rows(self) -> list[dict[str, str]]:
        """The same for models with long names and large kernels."""
        *rows, total = self._rows(short_count)
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

    def _notes_on_zeros(self) -> list[str]:
        notes = []
        free = self.total - self.nonzero - self.held
        if free:
            notes.append(
                f"{_count(free, 'zero is', 'zeros are')} not held: training can bring them back. "
                "`keep_zeros(model)` holds them."
            )
        if self.overwritten:
            notes.append(
                f"{_count(self.overwritten, 'weight is', 'weights are')} not zero although masks "
                "hold them at zero: the next step of training makes them so. `keep_zeros(model)` "
                "holds the zeros of now instead."
            )
        return notes


def _text(rows: list[dict[str, str]], compact: bool = False) -> str:
    """The rows between rules."""
    columns = list(rows[0])
    header = [columns]
    if compact:
        pairs = [TWO_LINES.get(column, ("", column)) for column in columns]
        header = [list(line) for line in zip(*pairs, strict=True)]
    cells = [*header, *([row[column] for column in columns] for row in rows)]
    lines = text_table(cells, right=_figures(columns)).splitlines()
    rule = "-" * max(map(len, lines))
    above, body = lines[: len(header)], lines[len(header) : -1]
    return "\n".join([*above, rule, *body, rule, lines[-1]])


def _width(text: str) -> int:
    return max(map(len, text.splitlines()))


def _figures(columns: list[str]) -> range:
    """Names and shapes read from the left, figures from the right."""
    return range(2, len(columns))


def report(model: keras.Model, layers: LayerSelection = None, data: Any = None) -> Report:
    """Says what is left of a model's kernels, and how sparse its activations are on data.

    Args:
        model: A built Keras model.
        layers: List of layer names, or a function from a layer to a bool. Defaults to `None`: all
            dense, convolutional, recurrent and attention layers.
        data: Samples to call the model on: an array, a list or dict of arrays for several inputs,
            or batches of them, such as a `tf.data.Dataset`. Defaults to `None`: nothing is said of
            activations.

    Returns:
        A `Report`: `total`, `nonzero`, `sparsity`, `layers`, with data also `activations`. Print
        it for a table.

    Raises:
        ValueError: If the model is not built, a layer name does not exist, or a kernel holds NaN
            or infinity.

    >>> model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="out")])
    >>> model.set_weights([np.array([[1, 0], [2, 0], [0, 0]]), np.zeros(2)])
    >>> print(report(model))
    kernel      shape  ...  sparsity  held  Hoyer  effective  zero channels  multiply-adds  left
    --------------------...
    out/kernel  3 x 2  ...    66.67%     0  0.764          2         1 of 2              6     2
    --------------------...
    total              ...    66.67%     0                 2                             6     2
    4 zeros are not held: training can bring them back. `keep_zeros(model)` holds them.
    No channel can be removed from: out/kernel (fixed by the model's outputs).
    """
    found = find_kernels(model, layers)
    try:
        account = Account(model)
    except ValueError:
        # A subclassed model whose graph cannot be seen: all else can still be said.
        account = None
    kernels = tuple(_describe(kernel, account) for kernel in found)
    rest, rest_left = account.rest(found, layers is None) if account else (0, 0)
    total = sum(kernel.total for kernel in kernels)
    nonzero = sum(kernel.nonzero for kernel in kernels)
    sparsity = (total - nonzero) / total if total else 0.0
    return Report(
        total,
        nonzero,
        sparsity,
        held=sum(kernel.held for kernel in kernels),
        overwritten=sum(kernel.overwritten for kernel in kernels),
        layers=kernels,
        parameters=sum(math.prod(weight.shape) for weight in model.weights),
        flops=rest + sum(kernel.flops or 0 for kernel in kernels) if account else None,
        flops_left=rest_left + sum(k.flops_left or 0 for k in kernels) if account else None,
        at_least=account.at_least if account else "",
        effective=measures.effective_count_of(kernel.read() for kernel in found),
        activations=() if data is None else describe_activations(model, data, layers),
    )


def count_nonzero(kernel: Weight) -> int:
    """Number of weights of a kernel that are not zero."""
    return int(np.count_nonzero(kernel.read()))


def _describe(kernel: Weight, account: Account | None) -> KernelReport:
    weights = kernel.read()
    if not np.isfinite(weights).all():
        raise ValueError(
            f"Kernel '{kernel.path}' holds NaN or infinity, so it cannot be measured. Lower the "
            "learning rate or the penalty's factor and train again."
        )
    axes = kernel.output_axes
    others = tuple(axis for axis in range(weights.ndim) if axis not in axes)
    alive = np.any(weights != 0, axis=others)
    nonzero = int(np.count_nonzero(weights))
    mask = known_mask(kernel)
    overwritten = 0 if mask is None else int(np.count_nonzero(weights[~mask]))
    uses = account.uses(kernel) if account else None
    return KernelReport(
        name=kernel.path,
        shape=kernel.shape,
        total=weights.size,
        nonzero=nonzero,
        sparsity=(weights.size - nonzero) / weights.size,
        held=0 if mask is None else int(np.count_nonzero(~mask)) - overwritten,
        overwritten=overwritten,
        hoyer=measures.hoyer_sparsity(weights),
        effective=measures.effective_count(weights),
        channels=alive.size,
        zero_channels=int(alive.size - np.count_nonzero(alive)),
        flops=weights.size * uses[0] if uses else None,
        flops_left=_size_alive(kernel, weights) * uses[1] if uses else None,
        fixed=account.fixed(kernel) if account else None,
    )


def _size_alive(kernel: Weight, weights: np.ndarray) -> int:
    """Number of weights in the rows and columns of channels that are not wholly zero."""
    shape = list(weights.shape)
    for axis in (*kernel.output_axes, *kernel.input_axes):
        others = tuple(i for i in range(weights.ndim) if i != axis)
        shape[axis] = np.count_nonzero(np.any(weights != 0, axis=others))
    return int(np.prod(shape))


def _count(number: int, one: str, many: str) -> str:
    return f"{number:,} {one if number == 1 else many}"
