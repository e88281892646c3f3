"""How channels go through normalisation."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers
from keras.src.ops import nn as nn_ops

from keras_hoyer.graph.axes import Tensor, along
from keras_hoyer.graph.rules.common import existing, forgetting, only_zeros, rule
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
    if graph.values:
        gamma, beta = graph.value(layer.gamma), graph.value(layer.beta)
        mean, variance = graph.value(layer.moving_mean), graph.value(layer.moving_variance)
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
    [index, *more] = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    axis = x.axes[index]
    if more or axis is None:
        graph.freeze(*x.axes)
        return Tensor(x.shape)
    graph.weight(layer.scale, (axis,))
    # A zero adds nothing to the sum of squares, but the mean divides by the width.
    graph.read(only_zeros(axis))
    graph.scale(layer.scale, lambda size: math.sqrt(len(axis) / size(axis)))
    graph.resize(layer, lambda size: {"epsilon": layer.epsilon * len(axis) / size(axis)})
    if graph.values:
        zero = (axis.constants == 0) | (graph.value(layer.scale) == 0)
        return x.replace(index, axis.having(np.where(zero, 0, np.nan)))
    return forgetting(x)


@rule(layers.UnitNormalization)
def _unit_normalization(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return _sum_of_squares(graph, x, axes)


@rule(*existing(nn_ops, "Normalize"))
def _normalize(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    axes = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
    return _sum_of_squares(graph, x, axes)


def _sum_of_squares(graph: ChannelGraph, x: Tensor, indices: Sequence[int]) -> Tensor:
    """A division by a norm over `indices`, to which zeros add nothing."""
    axes = [only_zeros(axis) for axis in x.axes]
    for index in indices:
        graph.read(axes[index])
    return Tensor(x.shape, axes)


@rule(layers.LayerNormalization)
def _layer_normalization(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    # A zero channel moves the mean and the variance of the others: all of them have to stay.
    indices = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    graph.freeze(*(x.axes[index] for index in indices))
    return forgetting(x)
