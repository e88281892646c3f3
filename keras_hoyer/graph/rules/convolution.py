"""How channels go through convolutions."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from keras_hoyer._keras import operations
from keras_hoyer.graph.axes import Axis, Tensor
from keras_hoyer.graph.rules.common import (
    as_tensor,
    constants_of,
    image_channels,
    image_tensor,
    linear_constants,
    only_zeros,
    output_places,
    rule,
)
from keras_hoyer.graph.rules.linear import linear
from keras_hoyer.graph.walk import ChannelGraph


def _padded(layer: Any) -> bool:
    return layer.padding != "valid" and any(n > 1 for n in layer.kernel_size)


@rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _conv(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    index, source = image_channels(graph, layer, x)
    out = graph.channels(layer, "filters", layer.filters)
    places = output_places(graph, index)
    if layer.groups == 1:
        out = linear(graph, layer, layer.kernel, source, out, places, border=_padded(layer))
    else:
        out = _grouped(graph, layer, source, out, places)
    return image_tensor(layer, x, index, out, layer.filters)


def _grouped(
    graph: ChannelGraph, layer: Any, source: Axis | None, out: Axis, places: Sequence[int]
) -> Axis:
    """A grouped convolution loses whole groups: their inputs together with their outputs."""
    width = layer.filters // layer.groups
    group = np.arange(layer.filters) // width
    graph.merge(out, group)
    if source is None:
        graph.freeze(out)
    else:
        fan_in = len(source) // layer.groups
        graph.merge(source, np.arange(len(source)) // fan_in)
        graph.join(source.take(slice(None, None, fan_in)), out.take(slice(None, None, width)))
    window = (None,) * (len(layer.kernel.shape) - 1)
    graph.weight(layer.kernel, (*window, out), uses=places)
    graph.weight(layer.bias, (out,))
    graph.resize(layer, lambda size: {"filters": size(out), "groups": max(size(out) // width, 1)})
    values = graph.value(layer.kernel)
    if values is not None:
        bias = graph.value(layer.bias)
        values = values.reshape(-1, *values.shape[-2:])
        results = np.empty(layer.filters)
        inputs = constants_of(source, values.shape[1] * layer.groups).reshape(layer.groups, -1)
        for number in range(layer.groups):
            part = slice(number * width, (number + 1) * width)
            results[part] = linear_constants(
                values[..., part],
                inputs[number],
                None if bias is None else bias[part],
                _padded(layer),
            )
        out = out.having(results)
    return graph.activated(out, layer.activation)


@rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _conv_transpose(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    index, source = image_channels(graph, layer, x)
    out = graph.channels(layer, "filters", layer.filters)
    # How many taps meet in an output differs from place to place.
    border = any(n > 1 for n in (*layer.kernel_size, *layer.strides))
    places = x.places(index)
    out = linear(graph, layer, layer.kernel, source, out, places, border=border, swapped=True)
    return image_tensor(layer, x, index, out, layer.filters)


def _depthwise(
    graph: ChannelGraph,
    layer: Any,
    kernel: Any,
    bias: Any,
    source: Axis | None,
    places: Sequence[int],
) -> Axis | None:
    """Each channel on its own, through a kernel `(*window, in, multiplier)`."""
    channels, multiplier = kernel.shape[-2:]
    window = (None,) * (len(kernel.shape) - 2)
    graph.weight(kernel, (*window, source, None), uses=places)
    if source is None:
        return None
    out = source.repeat(multiplier)
    graph.weight(bias, (out,))
    values = graph.value(kernel)
    if values is None:
        return out.forget()
    values = values.reshape(-1, channels * multiplier)
    constants = out.constants
    if _padded(layer):
        constants = np.where(constants == 0, 0, np.nan)
    constants = np.where((values == 0).all(axis=0), 0, constants * values.sum(axis=0))
    return out.having(constants if bias is None else constants + graph.value(bias))


@rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise_conv(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    index, source = image_channels(graph, layer, x)
    places = output_places(graph, index)
    out = _depthwise(graph, layer, layer.kernel, layer.bias, source, places)
    out = out if out is None else graph.activated(out, layer.activation)
    return image_tensor(layer, x, index, out, x.shape[index] * layer.depth_multiplier)


@rule(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable_conv(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    index, source = image_channels(graph, layer, x)
    places = output_places(graph, index)
    between = _depthwise(graph, layer, layer.depthwise_kernel, None, source, places)
    out = graph.channels(layer, "filters", layer.filters)
    out = linear(graph, layer, layer.pointwise_kernel, between, out, places)
    return image_tensor(layer, x, index, out, layer.filters)


@rule(*operations("Conv"))
def _conv_operation(graph: ChannelGraph, operation: Any, x: Tensor, kernel: Any) -> Any:
    kernel = as_tensor(kernel)
    index, source = image_channels(graph, operation, x)
    out = _multiplied(graph, operation, kernel, source, output_places(graph, index))
    if kernel.shape[-2] != x.shape[index]:  # in groups
        graph.freeze(source, out)
    return image_tensor(operation, x, index, out, kernel.shape[-1])


@rule(*operations("ConvTranspose"))
def _conv_transpose_operation(
    graph: ChannelGraph, operation: Any, x: Tensor, kernel: Any, **kwargs: Any
) -> Any:
    kernel = as_tensor(kernel)
    index, source = image_channels(graph, operation, x)
    out = _multiplied(graph, operation, kernel, source, x.places(index), swapped=True)
    return image_tensor(operation, x, index, out, kernel.shape[-2])


def _multiplied(
    graph: ChannelGraph,
    operation: Any,
    kernel: Tensor,
    source: Axis | None,
    places: Sequence[Axis | int],
    *,
    swapped: bool = False,
) -> Axis | None:
    """The channels that a kernel `(*window, in, out)`, which may be a variable, makes of others."""
    graph.freeze(*kernel.axes[:-2])
    inside, out = kernel.axes[:-3:-1] if swapped else kernel.axes[-2:]
    reads = kernel.rank - (1 if swapped else 2)
    if inside is not None and source is not None and len(inside) != len(source):
        graph.freeze(inside)
    elif inside is not None or source is not None:
        graph.join(source, inside)
    known = [axis.constants == 0 for axis in (source, inside) if axis is not None]
    if source is not None:
        zero = np.logical_or.reduce([k for k in known if len(k) == len(source)])
        graph.read(source.having(np.where(zero, 0, np.nan)))
    _counted(graph, kernel, places, reads=(reads,))
    return only_zeros(out)


def _counted(
    graph: ChannelGraph, kernel: Tensor, places: Sequence[Axis | int], reads: Sequence[int] = ()
) -> None:
    """Says how often a kernel is multiplied that may be a variable or come from one."""
    if kernel.variable is not None:
        graph.weight(kernel.variable, kernel.axes, reads=reads, uses=places)
        return
    pairs = zip(kernel.shape, kernel.axes, strict=True)
    graph.product(*places, *(n if axis is None else axis for n, axis in pairs))


@rule(*operations("DepthwiseConv"))
def _depthwise_operation(graph: ChannelGraph, operation: Any, x: Tensor, kernel: Any) -> Tensor:
    kernel = as_tensor(kernel)
    index, source = image_channels(graph, operation, x)
    graph.freeze(*kernel.axes[:-2], kernel.axes[-1])
    axis = kernel.axes[-2]
    joined = graph.join(source, axis) if kernel.shape[-2] > 1 else source
    if joined is not None:
        zero = [a.constants == 0 for a in (source, axis) if a is not None]
        joined = joined.having(np.where(np.logical_or.reduce(zero), 0, np.nan))
        joined = joined.repeat(kernel.shape[-1])
    _counted(graph, kernel, output_places(graph, index))
    width = x.shape[index] * kernel.shape[-1]
    return image_tensor(operation, x, index, joined, width)
