"""How channels go through dense layers and their einsum relatives."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import layers

from keras_hoyer.graph.axes import Axis, Tensor, along
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


@rule(layers.EinsumDense)
def _einsum_dense(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    source, weights, target = split_equation(layer.equation, x.rank)
    axes = dict(zip(source, x.axes, strict=True))
    sizes = dict(zip(source, x.shape, strict=True))
    sizes.update(zip(weights, layer.kernel.shape, strict=True))
    summed = [letter for letter in weights if letter not in target]
    made = [letter for letter in weights if letter not in source]
    for letter in made:
        axes[letter] = graph.channels(layer, letter, sizes[letter])
    for letter in set(source) - set(weights) - set(target):
        graph.read(axes[letter])
    kernel_axes = [axes[letter] for letter in weights]
    places = x.places(*(i for i, letter in enumerate(source) if letter in weights))
    graph.weight(
        layer.kernel,
        kernel_axes,
        reads=[weights.index(letter) for letter in summed],
        uses=places,
    )
    bias_letters = layer.bias_axes or ""
    if layer.bias is not None:
        graph.weight(
            layer.bias,
            # The bias has an axis of size one for each output axis it spans but does not number.
            [
                axes[letter] if letter in bias_letters else None
                for letter in target[len(target) - len(layer.bias.shape) :]
            ],
        )

    def update(size: Callable[..., Any]) -> dict[str, Any]:
        partial = list(layer.partial_output_shape)
        for number in range(1, len(partial) + 1):
            axis = axes[target[-number]]
            if partial[-number] is not None and axis is not None:
                partial[-number] = size(axis)
        return {"output_shape": tuple(partial)}

    graph.resize(layer, update)
    values = graph.value(layer.kernel)
    if values is not None:
        plain = len(summed) == 1 and bias_letters == "".join(x for x in weights if x not in summed)
        plain = plain and layer.bias is not None
        used = values != 0
        for index, letter in enumerate(weights):
            if letter in summed and axes[letter] is not None:
                zero = (axes[letter].constants == 0).nonzero()[0]
                np.moveaxis(used, index, 0)[zero] = False
        for letter in summed:
            index = weights.index(letter)
            # What is summed over together cannot count on the other to go.
            others = [None if x in summed else axes[x] for x in weights if x != letter]
            kernel = np.moveaxis(values, index, 0)[None]
            shift = functools.partial(added_constants, kernel) if plain else None
            moved = np.moveaxis(used, index, 0)
            graph.read(axes[letter], moved, others, shift, layer, layer.bias)
        _einsum_constants(
            graph, layer, values, axes, weights=weights, summed=summed, made=made, target=target
        )
    if graph.mixes(layer.activation):
        graph.freeze(*(axes[letter] for letter in target))
    for letter in made:
        axes[letter] = graph.activated(axes[letter], layer.activation)
    shape = [sizes[letter] for letter in target]
    result = [axes[x] if x in made or axes[x] is None else axes[x].forget() for x in target]
    return Tensor(shape, result)


def _einsum_constants(
    graph: ChannelGraph,
    layer: Any,
    values: np.ndarray,
    axes: dict[str, Axis | None],
    *,
    weights: str,
    summed: list[str],
    made: list[str],
    target: str,
) -> None:
    """Puts into `axes` the constants of the channels that an EinsumDense makes."""
    if set(weights) != set(summed) | set(made):
        return  # a kernel for each position: nothing is known to be constant
    values = values.transpose([weights.index(letter) for letter in [*summed, *made]])
    inputs = np.full(values.shape[: len(summed)], np.nan)
    for number, letter in enumerate(summed):
        line = constants_of(axes[letter], values.shape[number])
        line = line.reshape([-1 if i == number else 1 for i in range(len(summed))])
        inputs = np.where(np.isnan(inputs), line, inputs)
    shape = values.shape[len(summed) :]
    bias = graph.value(layer.bias)
    if bias is not None:
        spanned = target[len(target) - bias.ndim :]
        if not set(spanned) <= set(made):
            extra = tuple(i for i, letter in enumerate(spanned) if letter not in made)
            if any(bias.shape[i] != 1 for i in extra):
                return
            bias, spanned = bias.squeeze(extra), "".join(x for x in spanned if x in made)
        order = [spanned.index(letter) for letter in made if letter in spanned]
        wide = [bias.shape[spanned.index(x)] if x in spanned else 1 for x in made]
        bias = bias.transpose(order).reshape(wide)
    results = linear_constants(values.reshape(1, inputs.size, *shape), inputs.reshape(-1), bias)
    for number, letter in enumerate(made):
        axes[letter] = axes[letter].having(along(results, number))
