"""How channels go through pooling, padding of images, and reductions."""

from typing import Any

import numpy as np
from keras import layers
from keras.src.ops import numpy as numpy_ops

from keras_hoyer.graph.axes import Tensor
from keras_hoyer.graph.rules.common import existing, image_channels, image_tensor, only_zeros, rule
from keras_hoyer.graph.walk import ChannelGraph


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
)
def _spatial(graph: ChannelGraph, layer: Any, x: Tensor, **kwargs: Any) -> Tensor:
    if not hasattr(layer, "data_format"):  # the one-dimensional ones that have no choice
        graph.freeze(x.axes[1])
        index, axis = x.rank - 1, x.axes[-1]
    else:
        index, axis = image_channels(graph, layer, x)
    pads = "ZeroPadding" in type(layer).__name__ or getattr(layer, "padding", "valid") == "same"
    if pads or isinstance(layer, layers.Resizing):
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
    *existing(
        numpy_ops,
        *("Sum", "Mean", "Max", "Min", "Amax", "Amin", "Prod", "Var", "Std", "Any", "All"),
        *("Median", "Nansum", "Nanmean", "CountNonzero"),
    )
)
def _reduction(graph: ChannelGraph, operation: Any, x: Tensor, **kwargs: Any) -> Tensor:
    gone = operation.axis
    gone = range(x.rank) if gone is None else gone
    gone = {index % x.rank for index in (gone if np.ndim(gone) else [gone])}
    name = type(operation).__name__
    shape, axes = [], []
    for index, (n, axis) in enumerate(zip(x.shape, x.axes, strict=True)):
        if index not in gone:
            shape.append(n)
            axes.append(axis if axis is None else axis.having(_reduced(name, axis.constants)))
            continue
        if name == "Sum":
            graph.read(axis)  # without `used`, only a zero can be left out
        else:
            graph.freeze(axis)
        if getattr(operation, "keepdims", False):
            shape.append(1)
            axes.append(None)
    return Tensor(shape, axes)


def _reduced(name: str, constants: np.ndarray) -> np.ndarray:
    if name in ("Mean", "Max", "Min", "Amax", "Amin", "Median"):
        return constants
    return np.where((constants == 0) & (name == "Sum"), 0, np.nan)
