"""How channels go through what works on each element alone, of one tensor or of several."""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from keras import layers, ops, tree

from keras_hoyer._keras import application_layers, operations
from keras_hoyer.graph.axes import Axis, Tensor
from keras_hoyer.graph.rules.common import (
    as_list,
    constants_of,
    forgetting,
    only_zeros,
    rule,
)
from keras_hoyer.graph.walk import ChannelGraph


@rule(layers.PReLU)
def _prelu(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    slopes = [a if n > 1 else None for a, n in zip(x.axes[1:], layer.alpha.shape, strict=True)]
    graph.weight(layer.alpha, slopes, state=True)
    # Not below zero, the slope does not matter.
    return Tensor(
        x.shape,
        [
            a if a is None else a.having(np.where(a.constants >= 0, a.constants, np.nan))
            for a in x.axes
        ],
    )


@rule(*application_layers("convnext", "LayerScale"))
def _layer_scale(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    axis = x.axes[-1]
    graph.weight(layer.gamma, (axis,))
    if axis is None:
        return forgetting(x)
    graph.resize(layer, lambda size: {"projection_dim": size(axis)})
    if graph.values:
        gamma = graph.value(layer.gamma)
        return x.replace(-1, axis.having(np.where(gamma == 0, 0, axis.constants * gamma)))
    return x.replace(-1, axis)


@rule(layers.ActivityRegularization, layers.Identity, *operations("StopGradient", "Cast"))
def _unchanged(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    return x


@rule(
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.GaussianDropout,
    *application_layers("convnext", "StochasticDepth"),
)
def _dropout(graph: ChannelGraph, layer: Any, x: Tensor, training: Any = None) -> Tensor:
    """A product with random numbers, where the call asks for them at any time."""
    return Tensor(x.shape, [only_zeros(axis) for axis in x.axes]) if training else x


@rule(layers.AlphaDropout, layers.GaussianNoise)
def _noise(graph: ChannelGraph, layer: Any, x: Tensor, training: Any = None) -> Tensor:
    return forgetting(x) if training else x


@rule(layers.Masking)
def _masking(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    # Whether a step is masked depends on all of its features.
    graph.freeze(*x.axes)
    return forgetting(x)


@rule(layers.Activation)
def _activation(graph: ChannelGraph, layer: Any, x: Tensor, **kwargs: Any) -> Tensor:
    axes = list(x.axes)
    if not graph.is_pointwise(layer.activation):
        # Keras' activations that mix channels do so along the last axis.
        graph.freeze(*axes)
        return forgetting(x)
    return Tensor(x.shape, [a if a is None else graph.activated(a, layer.activation) for a in axes])


_SHARING = (layers.Softmax, *operations("Softmax"))


@rule(layers.Softmax, *operations("Softmax", "LogSoftmax", "Sparsemax"))
def _softmax(graph: ChannelGraph, layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    indices = as_list(layer.axis)
    graph.freeze(*(x.axes if None in indices else [x.axes[index] for index in indices]))
    masks = [mask for mask in tree.flatten((args, kwargs)) if isinstance(mask, Tensor)]
    for mask in masks:
        graph.freeze(*_lined_up(x, mask), *mask.axes)
    sizes = [None if index is None else x.shape[index] for index in indices]
    shares = isinstance(layer, _SHARING)
    if masks or graph.masked or None in sizes or not shares:
        return forgetting(x)
    # What is constant at all places that are compared gets an equal share of each.
    share = 1 / max(math.prod(n for n in sizes if n is not None), 1)
    compared = {index % x.rank for index in indices}
    known = [
        a
        if a is None
        else a.having(np.where(np.isnan(a.constants) | (i in compared), np.nan, share))
        for i, a in enumerate(x.axes)
    ]
    return Tensor(x.shape, known)


def _lined_up(x: Tensor, other: Tensor) -> list[Axis | None]:
    """The axes of `x` on which `other`, broadcast to it, has entries of its own."""
    pairs = zip(reversed(x.axes), reversed(other.shape), strict=False)
    return [axis for axis, n in pairs if n != 1]


_PRODUCTS = (layers.Multiply, *operations("Multiply"))
_ELEMENTWISE = operations(
    *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power"),
    *("Arctan2", "Mod", "FloorDivide", "Equal", "NotEqual", "Greater", "GreaterEqual", "Less"),
    *("LessEqual", "LogicalAnd", "LogicalOr", "LogicalXor", "Where", "SquaredDifference"),
    *("Hypot", "Logaddexp", "DivideNoNan"),
)


@rule(*_ELEMENTWISE)
def _elementwise(graph: ChannelGraph, operation: Any, *operands: Any) -> Tensor:
    zero = isinstance(operation, _PRODUCTS)
    return _combined(graph, operands, operation.call, zero)


@rule(
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
def _merge(graph: ChannelGraph, layer: Any, inputs: Sequence[Tensor]) -> Any:
    if len({x.rank for x in inputs}) > 1:
        return graph.opaque(layer, inputs)
    zero = isinstance(layer, _PRODUCTS)
    result = _combined(graph, inputs, lambda *values: layer.call(list(values)), zero)
    # What is masked of one operand is left out, or counts as one.
    own = isinstance(layer, (layers.Multiply, layers.Maximum, layers.Minimum))
    return forgetting(result) if own and graph.masked else result


@rule(*application_layers("inception_resnet_v2", "CustomScaleLayer"))
def _custom_scale(graph: ChannelGraph, layer: Any, inputs: Sequence[Tensor]) -> Tensor:
    return _combined(graph, inputs, lambda *values: layer.call(list(values)))


@rule(*operations("Glu"))
def _glu(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    """One half of an axis, as far as the other half lets it through."""
    axis = x.axes[operation.axis]
    if axis is None:
        return Tensor(graph.output_sizes[0], forgetting(x).axes)
    half = len(axis) // 2
    graph.join(axis.take(slice(half)), axis.take(slice(half, None)))
    return x.replace(operation.axis, only_zeros(axis.take(slice(half))))


def _combined(
    graph: ChannelGraph, operands: Sequence[Any], function: Callable[..., Any], zero: bool = False
) -> Tensor:
    """The broadcast result of an operation on each element of several tensors.

    Args:
        graph: the graph.
        operands: tensors, numbers and arrays.
        function: computes the operation.
        zero: whether a zero in one operand makes the result zero.
    """
    operands = [
        x if isinstance(x, Tensor) or np.ndim(x) == 0 else Tensor(x.shape) for x in operands
    ]
    tensors = [x for x in operands if isinstance(x, Tensor)]
    rank = max(x.rank for x in tensors)
    shape, axes = [], []
    for back in range(-rank, 0):
        present = [x for x in tensors if x.rank >= -back]
        sizes = [x.shape[back] for x in present]
        shape.append(next((n for n in sizes if n != 1), 1))
        # What has one entry is spread over the others and has no channel to lose.
        wide = [x for x in present if x.shape[back] != 1 or shape[-1] == 1]
        axis = graph.join(*(x.axes[back] for x in wide))
        if axis is not None:
            values = [_column(x, back, len(axis)) if isinstance(x, Tensor) else x for x in operands]
            axis = axis.having(_computed(values, function, zero, len(axis)))
        axes.append(axis)
    return Tensor(shape, axes)


def _column(x: Tensor, back: int, size: int) -> np.ndarray:
    axis = x.axes[back] if x.rank >= -back else None
    return constants_of(axis if axis is None or len(axis) == size else None, size)


def _computed(values: list[Any], function: Callable[..., Any], zero: bool, size: int) -> np.ndarray:
    known = [~np.isnan(v) for v in values if isinstance(v, np.ndarray)]
    every = np.logical_and.reduce(known)
    result = np.full(size, np.nan)
    if every.any():
        columns = [
            ops.convert_to_tensor(v[every].reshape(-1, 1).astype("float32"))
            if isinstance(v, np.ndarray) and v.ndim
            else v
            for v in values
        ]
        result[every] = ops.convert_to_numpy(function(*columns)).reshape(-1)
    if zero:
        result[np.logical_or.reduce([np.broadcast_to(v == 0, size) for v in values])] = 0
    return np.where(np.isfinite(result), result, np.nan)
