"""How channels go through dense layers and their einsum relatives."""

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from keras_hoyer.graph.axes import Axis, Tensor, along
from keras_hoyer.graph.facts import Size
from keras_hoyer.graph.rules.common import (
    added_constants,
    constants_of,
    linear_constants,
    rule,
    split_equation,
    used_inputs,
)
from keras_hoyer.graph.walk import ChannelGraph


def linear(
    graph: ChannelGraph,
    layer: Any,
    kernel: Any,
    source: Axis | None,
    out: Axis,
    places: Sequence[Axis | int],
    *,
    border: bool = False,
    swapped: bool = False,
) -> Axis:
    """Reads `source` through a kernel `(*window, in, out)` and makes `out`.

    Args:
        graph: the graph.
        layer: the layer, with `bias`, `use_bias` and `activation`.
        kernel: the variable.
        source: the input channels.
        out: the output channels.
        places: what numbers the places at which the kernel is multiplied.
        border: whether some outputs see only a part of the window.
        swapped: whether the kernel is `(*window, out, in)`.
    """
    window = (None,) * (len(kernel.shape) - 2)
    last = len(window)
    ends = (out, source) if swapped else (source, out)
    graph.weight(kernel, (*window, *ends), reads=(last + swapped,), uses=places)
    graph.weight(layer.bias, (out,))
    graph.resize(
        layer,
        lambda size: {("units" if hasattr(layer, "units") else "filters"): size(out)},
    )
    values = graph.value(kernel)
    if values is None:
        return graph.activated(out, layer.activation)
    values = values.reshape(-1, *values.shape[-2:])
    if swapped:
        values = values.swapaxes(1, 2)
    shift = None if border else functools.partial(added_constants, values)
    graph.read(source, used_inputs(values), (out,), shift, layer, layer.bias)
    inputs = constants_of(source, values.shape[1])
    out = out.having(linear_constants(values, inputs, graph.value(layer.bias), border))
    return graph.activated(out, layer.activation)


@rule(layers.Dense)
def _dense(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    out = graph.channels(layer, "units", layer.units)
    graph.freeze(*(x.axes[:-1] if graph.mixes(layer.activation) else ()))
    places = x.places(-1)
    return x.replace(-1, linear(graph, layer, layer.kernel, x.axes[-1], out, places))


@dataclasses.dataclass(frozen=True, eq=False)
class _Equation:
    """The letters of an EinsumDense, and the channels along them.

    Args:
        source: those of the input.
        weights: those of the kernel.
        target: those of the output.
        axes: for each letter its `Axis`, or None.
        made: those of `axes` that the kernel makes.
    """

    source: str
    weights: str
    target: str
    axes: dict[str, Axis | None]
    made: dict[str, Axis]

    @property
    def summed(self) -> list[str]:
        """The letters of the kernel that are summed over."""
        return [letter for letter in self.weights if letter not in self.target]


@rule(layers.EinsumDense)
def _einsum_dense(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    source, weights, target = split_equation(layer.equation, x.rank)
    kernel_sizes = dict(zip(weights, layer.kernel.shape, strict=True))
    sizes = dict(zip(source, x.shape, strict=True)) | kernel_sizes
    made = {
        letter: graph.channels(layer, letter, kernel_sizes[letter])
        for letter in weights
        if letter not in source
    }
    axes = dict(zip(source, x.axes, strict=True)) | made
    equation = _Equation(source, weights, target, axes, made)
    for letter in set(source) - set(weights) - set(target):
        graph.read(axes[letter])
    _einsum_weights(graph, layer, x, equation)
    graph.resize(layer, lambda size: _einsum_config(layer, equation, size))
    values = graph.value(layer.kernel)
    if values is not None:
        _einsum_reads(graph, layer, values, equation)
        made = _einsum_constants(graph, layer, values, equation)
    if graph.mixes(layer.activation):
        graph.freeze(*(axes[letter] for letter in target))
    made = {letter: graph.activated(axis, layer.activation) for letter, axis in made.items()}
    given = {letter: axis if axis is None else axis.forget() for letter, axis in axes.items()}
    result = given | made
    return Tensor([sizes[letter] for letter in target], [result[letter] for letter in target])


def _einsum_weights(graph: ChannelGraph, layer: Any, x: Tensor, equation: _Equation) -> None:
    """Says which channels lie along the kernel and the bias."""
    axes, weights, target = equation.axes, equation.weights, equation.target
    graph.weight(
        layer.kernel,
        [axes[letter] for letter in weights],
        reads=[weights.index(letter) for letter in equation.summed],
        uses=x.places(*(i for i, letter in enumerate(equation.source) if letter in weights)),
    )
    if layer.bias is not None:
        spanned = target[len(target) - len(layer.bias.shape) :]
        numbered = layer.bias_axes or ""
        # The bias has an axis of size one for each output axis it spans but does not number.
        graph.weight(layer.bias, [axes[x] if x in numbered else None for x in spanned])


def _einsum_config(layer: Any, equation: _Equation, size: Size) -> dict[str, Any]:
    """The entries of the layer's config that follow the sizes."""
    partial = list(layer.partial_output_shape)
    for number in range(1, len(partial) + 1):
        axis = equation.axes[equation.target[-number]]
        if partial[-number] is not None and axis is not None:
            partial[-number] = size(axis)
    return {"output_shape": tuple(partial)}


def _einsum_reads(graph: ChannelGraph, layer: Any, values: np.ndarray, equation: _Equation) -> None:
    """Says what the kernel, whose values are given, reads of its inputs."""
    axes, weights, summed = equation.axes, equation.weights, equation.summed
    made = "".join(letter for letter in weights if letter not in summed)
    plain = len(summed) == 1 and layer.bias is not None and (layer.bias_axes or "") == made
    used = values != 0
    for index, letter in enumerate(weights):
        axis = axes[letter]
        if letter in summed and axis is not None:
            np.moveaxis(used, index, 0)[(axis.constants == 0).nonzero()[0]] = False
    for letter in summed:
        index = weights.index(letter)
        # What is summed over together cannot count on the other to go.
        others = [None if x in summed else axes[x] for x in weights if x != letter]
        kernel = np.moveaxis(values, index, 0)[None]
        shift = functools.partial(added_constants, kernel) if plain else None
        graph.read(axes[letter], np.moveaxis(used, index, 0), others, shift, layer, layer.bias)


def _einsum_constants(
    graph: ChannelGraph, layer: Any, values: np.ndarray, equation: _Equation
) -> dict[str, Axis]:
    """The channels that an EinsumDense makes, with their constants."""
    weights, summed, made = equation.weights, equation.summed, equation.made
    if set(weights) != set(summed) | set(made):
        return made  # a kernel for each position: nothing is known to be constant
    values = values.transpose([weights.index(letter) for letter in [*summed, *made]])
    inputs = np.full(values.shape[: len(summed)], np.nan)
    for number, letter in enumerate(summed):
        line = constants_of(equation.axes[letter], values.shape[number])
        line = line.reshape([-1 if i == number else 1 for i in range(len(summed))])
        inputs = np.where(np.isnan(inputs), line, inputs)
    shape = values.shape[len(summed) :]
    bias = graph.value(layer.bias)
    if bias is not None:
        spanned = equation.target[len(equation.target) - bias.ndim :]
        if not set(spanned) <= set(made):
            extra = tuple(i for i, letter in enumerate(spanned) if letter not in made)
            if any(bias.shape[i] != 1 for i in extra):
                return made
            bias, spanned = bias.squeeze(extra), "".join(x for x in spanned if x in made)
        order = [spanned.index(letter) for letter in made if letter in spanned]
        wide = [bias.shape[spanned.index(x)] if x in spanned else 1 for x in made]
        bias = bias.transpose(order).reshape(wide)
    results = linear_constants(values.reshape(1, inputs.size, *shape), inputs.reshape(-1), bias)
    return {
        letter: axis.having(along(results, number))
        for number, (letter, axis) in enumerate(made.items())
    }
