"""How channels of several tensors are laid side by side or multiplied together."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers
from keras.src.ops import numpy as numpy_ops

from keras_hoyer.graph.axes import Axis, Tensor
from keras_hoyer.graph.rules.common import along, concatenated, constants_of, rule
from keras_hoyer.graph.walk import ChannelGraph


@rule(layers.Concatenate, numpy_ops.Concatenate)
def _concatenate(graph: ChannelGraph, operation: Any, inputs: Sequence[Any]) -> Tensor:
    inputs = [x if isinstance(x, Tensor) else Tensor(x.shape) for x in inputs]
    index = operation.axis % inputs[0].rank
    sizes = [x.shape[index] for x in inputs]
    shape = list(inputs[0].shape)
    axes: list[Axis | None] = []
    for i in range(inputs[0].rank):
        line = [x.axes[i] for x in inputs]
        if i == index:
            axes.append(concatenated(line, sizes))
            shape[i] = None if None in sizes else sum(sizes)
            continue
        axes.append(_shared(graph, line))
    return Tensor(shape, axes)


def _shared(graph: ChannelGraph, axes: Sequence[Axis | None]) -> Axis | None:
    """The joined axis of tensors that are laid side by side along another one."""
    axis = graph.join(*axes)
    if axis is None:
        return None
    return axis.having(along(np.stack([constants_of(a, len(axis)) for a in axes]), 1))


@rule(numpy_ops.Stack)
def _stack(graph: ChannelGraph, operation: Any, inputs: Sequence[Any]) -> Tensor:
    inputs = [x if isinstance(x, Tensor) else Tensor(x.shape) for x in inputs]
    first = inputs[0]
    axes = [_shared(graph, [x.axes[i] for x in inputs]) for i in range(first.rank)]
    index = operation.axis % (first.rank + 1)
    shape = list(first.shape)
    shape.insert(index, len(inputs))
    axes.insert(index, None)
    return Tensor(shape, axes)


@rule(layers.Dot)
def _dot(graph: ChannelGraph, layer: Any, inputs: Sequence[Tensor]) -> Any:
    left, right = inputs
    one, two = (layer.axes,) * 2 if isinstance(layer.axes, int) else layer.axes
    letters = ["b" + "cdefg"[: left.rank - 1], "b" + "hijkl"[: right.rank - 1]]
    one, two = one % left.rank, two % right.rank
    letters[1] = letters[1][:two] + letters[0][one] + letters[1][two + 1 :]
    target = "b" + "".join(x for x in letters[0][1:] + letters[1][1:] if x != letters[0][one])
    result = _contracted(graph, inputs, letters, target)
    if left.rank == 2 and right.rank == 2:
        return Tensor((result.shape[0], 1))
    return result


@rule(numpy_ops.Einsum)
def _einsum(graph: ChannelGraph, operation: Any, *operands: Any, **kwargs: Any) -> Any:
    equation = operation.subscripts.replace(" ", "")
    operands = [x if isinstance(x, Tensor) else Tensor(x.shape) for x in operands]
    if "..." in equation or "->" not in equation:
        return graph.opaque(operation, operands)
    source, target = equation.split("->")
    return _contracted(graph, operands, source.split(","), target)


@rule(numpy_ops.Matmul)
def _matmul(graph: ChannelGraph, operation: Any, left: Any, right: Any) -> Any:
    operands = [x if isinstance(x, Tensor) else Tensor(x.shape) for x in (left, right)]
    left, right = operands
    if min(left.rank, right.rank) < 2:
        return graph.opaque(operation, operands)
    rank = max(left.rank, right.rank)
    outer = "abcdefgh"[: rank - 2]
    letters = [
        outer[rank - x.rank :] + ending for x, ending in zip(operands, ("xy", "yz"), strict=True)
    ]
    return _contracted(graph, operands, letters, outer + "xz")


def _contracted(
    graph: ChannelGraph, operands: Sequence[Tensor], letters: Sequence[str], target: str
) -> Tensor:
    """The einsum of several tensors: `letters` names their axes, `target` those that stay."""
    sizes: dict[str, int | None] = {}
    lines: dict[str, list[Axis | None]] = {}
    for x, names in zip(operands, letters, strict=True):
        for name, n in zip(names, x.shape, strict=True):
            sizes[name] = n if sizes.get(name, 1) in (1, None) else sizes[name]
    for x, names in zip(operands, letters, strict=True):
        for name, n, axis in zip(names, x.shape, x.axes, strict=True):
            if n != 1 or sizes[name] == 1:
                lines.setdefault(name, []).append(axis)
    axes: dict[str, Axis | None] = {}
    for name, line in lines.items():
        axis = graph.join(*line)
        if axis is not None:
            zero = np.logical_or.reduce([a.constants == 0 for a in line if a is not None])
            axis = axis.having(np.where(zero, 0, np.nan))
        axes[name] = axis
        if name not in target:
            graph.read(axis)
    return Tensor([sizes[name] for name in target], [axes[name] for name in target])
