"""What the rules share: constants that pass through products, and images."""

import functools
from collections.abc import Sequence
from typing import Any, overload

import keras
import numpy as np

from keras_hoyer.graph.axes import Axis, Tensor
from keras_hoyer.graph.registry import register_rule
from keras_hoyer.graph.walk import ChannelGraph

Shape = Sequence[int | None]


rule = functools.partial(register_rule, follows_constants=True)


def existing(module: Any, *names: str) -> list[type]:
    """Those of the named classes that this version of Keras has."""
    return [getattr(module, name) for name in names if hasattr(module, name)]


def as_list(value: Any) -> list[Any]:
    """The entries of a list or tuple; what is none is one entry."""
    return list(value) if isinstance(value, (list, tuple)) else [value]


def as_tensor(operand: Any) -> Tensor:
    """An operand as a tensor: an array or a number has no channels."""
    if isinstance(operand, Tensor):
        return operand
    return Tensor(operand.shape if hasattr(operand, "shape") else np.shape(operand))


@overload
def only_zeros(axis: Axis) -> Axis: ...


@overload
def only_zeros(axis: Axis | None) -> Axis | None: ...


def only_zeros(axis: Axis | None) -> Axis | None:
    """The axis with only its zeros known."""
    return None if axis is None else axis.having(np.where(axis.constants == 0, 0, np.nan))


def constants_of(axis: Axis | None, size: int) -> np.ndarray:
    """The constants of an axis, NaN for one without channels."""
    return np.full(size, np.nan) if axis is None else axis.constants


def used_inputs(kernel: np.ndarray) -> np.ndarray:
    """Which outputs of a kernel `(taps, inputs, *outputs)` depend on which inputs."""
    used: np.ndarray = np.any(kernel, axis=0)
    return used


def added_constants(kernel: np.ndarray, constants: np.ndarray) -> np.ndarray:
    """What constant inputs add to the outputs of a kernel `(taps, inputs, *outputs)`."""
    rows = constants.nonzero()[0]
    return np.tensordot(constants[rows], kernel[:, rows].sum(axis=0, dtype="float64"), axes=(0, 0))


def linear_constants(
    kernel: np.ndarray,
    inputs: np.ndarray,
    bias: np.ndarray | None,
    border: bool = False,
) -> np.ndarray:
    """The constants that leave a linear layer, before its activation; NaN where not constant.

    Args:
        kernel: `(taps, inputs, *outputs)`.
        inputs: the constant of each input, NaN where it varies.
        bias: broadcasts to `outputs`, or None.
        border: whether some outputs see only part of the taps, as beside a zero padding.
    """
    varies = np.isnan(inputs)
    if border:
        varies |= inputs != 0
    mixed = used_inputs(kernel)[varies].any(axis=0)
    total = added_constants(kernel, np.where(varies, 0, inputs))
    return np.where(mixed, np.nan, total if bias is None else total + bias)


def forgetting(x: Tensor) -> Tensor:
    """The tensor with its channels, none of them known to be constant."""
    return Tensor(x.shape, [a if a is None else a.forget() for a in x.axes])


def zeros_of(x: Tensor) -> Tensor:
    """The tensor with only its zeros known."""
    return Tensor(x.shape, [only_zeros(axis) for axis in x.axes])


def concatenated(axes: Sequence[Axis | None], sizes: Sequence[int]) -> Axis | None:
    """The axis of several laid end to end."""
    if all(axis is None for axis in axes):
        return None
    parts = [
        Axis(np.zeros(n, "int64"), np.full(n, np.nan)) if axis is None else axis
        for axis, n in zip(axes, sizes, strict=True)
    ]
    return Axis(
        np.concatenate([p.labels for p in parts]), np.concatenate([p.constants for p in parts])
    )


def channel_index(layer: Any, rank: int) -> int:
    """Which axis of an image-like tensor numbers the channels."""
    return 1 if layer.data_format == "channels_first" else rank - 1


def image_channels(graph: ChannelGraph, layer: Any, x: Tensor) -> tuple[int, Axis | None]:
    """The channel axis of an image-like input; a layer with a window fixes the other axes."""
    index = channel_index(layer, x.rank)
    graph.freeze(*(axis for i, axis in enumerate(x.axes) if i != index))
    return index, x.axes[index]


def image_tensor(layer: Any, x: Tensor, index: int, axis: Axis | None, width: int | None) -> Tensor:
    """The output of a windowed layer: its spatial sizes play no part."""
    axes: list[Axis | None] = [None] * x.rank
    axes[index] = axis
    shape: list[int | None] = [None] * x.rank
    shape[index] = width
    return Tensor(shape, axes)


def output_places(graph: ChannelGraph, index: int) -> list[int]:
    """The sizes of an image-like output without its batch and its channels."""
    return [n or 1 for i, n in enumerate(graph.output_sizes[0]) if i not in (0, index)]


def split_equation(equation: str, rank: int) -> list[str]:
    """The letters of an equation `a,b->c`, with `...` written out for a first operand of `rank`."""
    source, weights, target = equation.replace("->", ",").replace(" ", "").split(",")
    if "..." in equation:
        free = [c for c in "zyxwvutsrqponmlkjihgfedcba" if c not in equation]
        count = rank - len(source.replace("...", "")) if "..." in source else 0
        filled = "".join(free[:count])
        source, target = source.replace("...", filled), target.replace("...", filled)
    return [source, weights, target]


def spec_of(x: Tensor) -> keras.KerasTensor:
    """A symbolic tensor of the same shape."""
    return keras.KerasTensor(x.shape)
