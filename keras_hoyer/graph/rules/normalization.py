"""How channels go through normalisation."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from keras_hoyer._keras import operations
from keras_hoyer.graph.axes import Tensor, along
from keras_hoyer.graph.facts import Size
from keras_hoyer.graph.rules.common import as_list, forgetting, only_zeros, rule
from keras_hoyer.graph.walk import ChannelGraph


@rule(layers.BatchNormalization)
def _batch_normalization(
    graph: ChannelGraph, layer: Any, x: Tensor, training: Any = None, **kwargs: Any
) -> Tensor:
    axis = x.axes[layer.axis]
    for variable, state in (
        (layer.gamma, False),
        (layer.beta, False),
        (layer.moving_mean, True),
        (layer.moving_variance, True),
    ):
        graph.weight(variable, (axis,), state=state)
    if axis is None:
        return forgetting(x)
    mean, variance = graph.value(layer.moving_mean), graph.value(layer.moving_variance)
    if mean is not None and variance is not None:
        gamma, beta = graph.value(layer.gamma), graph.value(layer.beta)
        constants = (axis.constants - mean) / np.sqrt(variance.astype("float64") + layer.epsilon)
        if gamma is not None:
            constants = np.where(gamma == 0, 0, constants * gamma)
        if training:  # by the statistics of the batch, in which a constant varies by nothing
            constants = np.where(constants == 0, 0, np.nan)
        axis = axis.having(constants if beta is None else constants + beta)
    return x.replace(layer.axis, axis)


@rule(layers.GroupNormalization)
def _group_normalization(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    axis = x.axes[layer.axis]
    graph.freeze(*(a for i, a in enumerate(x.axes) if i != layer.axis % x.rank))
    graph.weight(layer.gamma, (axis,))
    graph.weight(layer.beta, (axis,))
    if axis is None:
        return Tensor(x.shape)
    # A group's statistics are its own, so a whole group can go and none of its parts can.
    width = len(axis) // layer.groups
    graph.merge(axis, np.arange(len(axis)) // width)
    graph.resize(layer, lambda size: {"groups": max(size(axis) // width, 1)})
    if graph.values:
        gamma, beta = graph.value(layer.gamma), graph.value(layer.beta)
        whole = along(axis.constants.reshape(-1, width), 0)
        still = np.repeat(~np.isnan(whole), width)
        if gamma is not None:
            still |= gamma == 0
        axis = axis.having(np.where(still, 0 if beta is None else beta, np.nan))
    return x.replace(layer.axis, axis)


@rule(layers.RMSNormalization)
def _rms_normalization(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    [index, *more] = as_list(layer.axis)
    if more:
        graph.freeze(*x.axes)
        return Tensor(x.shape)
    return rms_normalized(graph, layer, x, layer.scale, index)


def rms_normalized(
    graph: ChannelGraph,
    layer: Any,
    x: Tensor,
    scale: Any,
    index: int = -1,
    epsilon: str = "epsilon",
    width: str | None = None,
) -> Tensor:
    """A division by the root of the mean of the squares, and a product with a scale.

    Args:
        graph: the graph.
        layer: the layer.
        x: what is normalized.
        scale: the variable that it is multiplied with, as it is.
        index: the axis along which the mean is taken.
        epsilon: the entry of the layer's config, and its attribute, that is added to the mean.
        width: the entry of its config that says how many channels there are, if one does.
    """
    axis = x.axes[index]
    if axis is None:
        graph.freeze(*x.axes)
        return Tensor(x.shape)
    graph.weight(scale, (axis,))
    # A zero adds nothing to the sum of squares, but the mean divides by the width.
    graph.read(only_zeros(axis))
    graph.scale(scale, lambda size: math.sqrt(len(axis) / size(axis)))

    def update(size: Size) -> dict[str, Any]:
        added = {epsilon: getattr(layer, epsilon) * len(axis) / size(axis)}
        return {**added, width: size(axis)} if width else added

    graph.resize(layer, update)
    if graph.values:
        zero = (axis.constants == 0) | (graph.value(scale) == 0)
        return x.replace(index, axis.having(np.where(zero, 0, np.nan)))
    return forgetting(x)


@rule(*operations("RMSNorm", "LayerNorm"))
def _normalizing_operation(
    graph: ChannelGraph, operation: Any, x: Tensor, *operands: Any, **kwargs: Any
) -> Tensor:
    # No variable that belongs to the operation could take up a smaller width.
    for operand in (*operands, *kwargs.values()):
        graph.freeze(*(operand.axes if isinstance(operand, Tensor) else ()))
    graph.freeze(*(x.axes[index] for index in as_list(operation.axis)))
    return forgetting(x)


@rule(layers.UnitNormalization)
def _unit_normalization(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    return _sum_of_squares(graph, x, as_list(layer.axis))


@rule(*operations("Normalize"))
def _normalize(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    return _sum_of_squares(graph, x, as_list(operation.axis))


def _sum_of_squares(graph: ChannelGraph, x: Tensor, indices: Sequence[int]) -> Tensor:
    """A division by a norm over `indices`, to which zeros add nothing."""
    axes = [only_zeros(axis) for axis in x.axes]
    for index in indices:
        graph.read(axes[index])
    return Tensor(x.shape, axes)


@rule(layers.LayerNormalization)
def _layer_normalization(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    # A zero channel moves the mean and the variance of the others: all of them have to stay.
    graph.freeze(*(x.axes[index] for index in as_list(layer.axis)))
    return forgetting(x)
