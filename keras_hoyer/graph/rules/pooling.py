"""How channels go through pooling, padding of images, and reductions."""

import math
from typing import Any

import numpy as np
from keras import layers

from keras_hoyer._keras import operations
from keras_hoyer.graph.axes import Tensor
from keras_hoyer.graph.rules.common import (
    as_list,
    existing,
    forgetting,
    image_channels,
    image_tensor,
    only_zeros,
    rule,
    zeros_of,
)
from keras_hoyer.graph.walk import ChannelGraph

_RESIZING = (layers.Resizing, *operations("Resize"))


@rule(
    layers.MaxPooling1D,
    layers.MaxPooling2D,
    layers.MaxPooling3D,
    layers.AveragePooling1D,
    layers.AveragePooling2D,
    layers.AveragePooling3D,
    layers.Cropping1D,
    layers.UpSampling1D,
    layers.UpSampling2D,
    layers.UpSampling3D,
    layers.Cropping2D,
    layers.Cropping3D,
    layers.ZeroPadding1D,
    layers.ZeroPadding2D,
    layers.ZeroPadding3D,
    layers.Resizing,
    *existing(
        layers,
        "AdaptiveAveragePooling1D",
        "AdaptiveAveragePooling2D",
        "AdaptiveAveragePooling3D",
        "AdaptiveMaxPooling1D",
        "AdaptiveMaxPooling2D",
        "AdaptiveMaxPooling3D",
    ),
    *operations("MaxPool", "AveragePool", "AdaptiveMaxPool", "AdaptiveAveragePool", "Resize"),
)
def _spatial(graph: ChannelGraph, layer: Any, x: Tensor, **kwargs: Any) -> Tensor:
    if not hasattr(layer, "data_format"):  # the one-dimensional ones that have no choice
        graph.freeze(x.axes[1])
        index, axis = x.rank - 1, x.axes[-1]
    else:
        index, axis = image_channels(graph, layer, x)
    pads = "ZeroPadding" in type(layer).__name__ or getattr(layer, "padding", "valid") == "same"
    if pads or isinstance(layer, _RESIZING):
        axis = only_zeros(axis)
    if axis is not None and getattr(layer, "fill_value", 0) != 0:
        axis = axis.forget()
    return image_tensor(layer, x, index, axis, x.shape[index])


@rule(
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
def _global_pooling(graph: ChannelGraph, layer: Any, x: Tensor, **kwargs: Any) -> Tensor:
    index, axis = image_channels(graph, layer, x)
    if layer.keepdims:
        axes = [axis if i == index else None for i in range(x.rank)]
        return Tensor([n if i in (0, index) else 1 for i, n in enumerate(x.shape)], axes)
    return Tensor((x.shape[0], x.shape[index]), (None, axis))


@rule(
    *operations(
        *("Sum", "Mean", "Max", "Min", "Amax", "Amin", "Prod", "Var", "Std", "Any", "All"),
        *("Median", "Nansum", "Nanmean", "CountNonzero", "Average", "Argmax", "Argmin", "Ptp"),
        *("Nanmax", "Nanmin", "Nanprod", "Nanstd", "Nanvar", "Nanmedian", "Logsumexp", "Norm"),
    )
)
def _reduction(graph: ChannelGraph, operation: Any, x: Tensor, **kwargs: Any) -> Tensor:
    name, keepdims = type(operation).__name__, getattr(operation, "keepdims", False)
    return _without(graph, x, operation.axis, keepdims, name)


@rule(*operations("Moments"))
def _moments(graph: ChannelGraph, operation: Any, x: Tensor) -> list[Tensor]:
    return [_without(graph, x, operation.axes, operation.keepdims, "Moments")] * 2


def _without(graph: ChannelGraph, x: Tensor, along: Any, keepdims: bool, name: str) -> Tensor:
    """A tensor reduced along some axes; None stands for all."""
    gone = {index % x.rank for index in (range(x.rank) if along is None else as_list(along))}
    count = math.prod(x.shape[index] or math.nan for index in gone)
    shape, axes = [], []
    for index, (n, axis) in enumerate(zip(x.shape, x.axes, strict=True)):
        if index not in gone:
            shape.append(n)
            axes.append(
                axis if axis is None else axis.having(_reduced(name, axis.constants, count))
            )
            continue
        if name == "Sum":
            graph.read(axis)  # without `used`, only a zero can be left out
        else:
            graph.freeze(axis)
        if keepdims:
            shape.append(1)
            axes.append(None)
    return Tensor(shape, axes)


_MEANS = ("Mean", "Max", "Min", "Amax", "Amin", "Median", "Average")


def _reduced(name: str, constants: np.ndarray, count: float) -> np.ndarray:
    """What becomes of constants along another axis when so many of each are taken together."""
    if name.replace("Nanm", "M") in _MEANS:
        return constants
    if name == "Logsumexp":
        moved: np.ndarray = constants + np.log(count)
        return moved
    return np.where(constants == 0, 0, np.nan)


@rule(*operations("Cumsum", "Cumprod", "Nancumsum", "Nancumprod", "Sort", "Argsort", "Diff"))
def _along_one_axis(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    shape = graph.output_sizes[0]
    if operation.axis is None:  # it goes on from row to row
        graph.freeze(*x.axes)
        return Tensor(shape)
    ways = {"Sort": lambda x: x, "Argsort": forgetting}
    axes = [*ways.get(type(operation).__name__, zeros_of)(x).axes]
    graph.freeze(axes[operation.axis])
    axes[operation.axis] = None
    return Tensor(shape, axes)


@rule(*operations("TopK"))
def _top_k(graph: ChannelGraph, operation: Any, x: Tensor) -> list[Tensor]:
    graph.freeze(x.axes[-1])
    shape = (*x.shape[:-1], operation.k)
    return [Tensor(shape, (*y.axes[:-1], None)) for y in (x, forgetting(x))]
