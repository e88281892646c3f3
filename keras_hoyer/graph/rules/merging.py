"""How channels of several tensors are laid side by side or multiplied together."""

import string
from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from keras_hoyer._keras import operations
from keras_hoyer.graph.axes import Axis, Tensor, along
from keras_hoyer.graph.rules.common import (
    Shape,
    as_list,
    as_tensor,
    concatenated,
    constants_of,
    only_zeros,
    rule,
)
from keras_hoyer.graph.walk import ChannelGraph


@rule(layers.Concatenate, *operations("Concatenate"))
def _concatenate(graph: ChannelGraph, operation: Any, inputs: Sequence[Any]) -> Tensor:
    return _end_to_end(graph, inputs, operation.axis)


@rule(*operations("Append"))
def _append(graph: ChannelGraph, operation: Any, left: Any, right: Any) -> Any:
    if operation.axis is None:
        return graph.opaque(operation, [as_tensor(left), as_tensor(right)])
    return _end_to_end(graph, [left, right], operation.axis)


@rule(*operations("Hstack", "Vstack"))
def _hstack(graph: ChannelGraph, operation: Any, inputs: Sequence[Any]) -> Any:
    if as_tensor(inputs[0]).rank < 2:  # NumPy gives them another axis
        return graph.opaque(operation, [as_tensor(x) for x in inputs])
    return _end_to_end(graph, inputs, int(type(operation).__name__ == "Hstack"))


def _end_to_end(graph: ChannelGraph, inputs: Sequence[Any], axis: int) -> Tensor:
    """Tensors laid end to end along an axis."""
    inputs = [as_tensor(x) for x in inputs]
    index = axis % inputs[0].rank
    sizes = [x.shape[index] for x in inputs]
    shape = list(inputs[0].shape)
    axes: list[Axis | None] = []
    for i in range(inputs[0].rank):
        line = [x.axes[i] for x in inputs]
        if i == index and None in sizes:
            graph.freeze(*line)  # where its channels come to lie is not known
            axes.append(None)
            shape[i] = None
            continue
        if i == index:
            axes.append(concatenated(line, sizes))
            shape[i] = sum(sizes)
            continue
        axes.append(_shared(graph, line))
    return Tensor(shape, axes)


def _shared(graph: ChannelGraph, axes: Sequence[Axis | None]) -> Axis | None:
    """The joined axis of tensors that are laid side by side along another one."""
    axis = graph.join(*axes)
    if axis is None:
        return None
    return axis.having(along(np.stack([constants_of(a, len(axis)) for a in axes]), 1))


@rule(*operations("Stack"))
def _stack(graph: ChannelGraph, operation: Any, inputs: Sequence[Any]) -> Tensor:
    inputs = [as_tensor(x) for x in inputs]
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
    if layer.normalize:
        # A channel that is zero on one side only counts in the norm of the other.
        for axis in (left.axes[one], right.axes[two]):
            graph.read(only_zeros(axis))
    letters[1] = letters[1][:two] + letters[0][one] + letters[1][two + 1 :]
    target = "b" + "".join(x for x in letters[0][1:] + letters[1][1:] if x != letters[0][one])
    result = _contracted(graph, inputs, letters, target)
    if left.rank == 2 and right.rank == 2:
        return Tensor((result.shape[0], 1))
    return result


@rule(*operations("Einsum"))
def _einsum(graph: ChannelGraph, operation: Any, *operands: Any, **kwargs: Any) -> Any:
    tensors = [as_tensor(x) for x in operands]
    letters, target = _spelled_out(operation.subscripts, [x.rank for x in tensors])
    return _contracted(graph, tensors, letters, target)


def _spelled_out(equation: str, ranks: Sequence[int]) -> tuple[list[str], str]:
    """The letters of each operand of an einsum and of its result, without `...`."""
    source, arrow, target = equation.replace(" ", "").partition("->")
    letters = source.split(",")
    free = "".join(c for c in "zyxwvutsrqponmlkjihgfedcbaZYXWVUTSRQPONM" if c not in equation)
    counts = [n - len(x.replace("...", "")) for n, x in zip(ranks, letters, strict=True)]
    filled = [free[len(free) - n :] if n else "" for n in counts]
    longest = max(
        (f for f, x in zip(filled, letters, strict=True) if "..." in x), key=len, default=""
    )
    if not arrow:
        once = sorted(c for c in set(source) if source.count(c) == 1 and c not in ".,")
        target = "".join(["..." if longest else "", *once])
    letters = [x.replace("...", f) for x, f in zip(letters, filled, strict=True)]
    return letters, target.replace("...", longest)


@rule(*operations("Matmul"))
def _matmul(graph: ChannelGraph, operation: Any, left: Any, right: Any) -> Any:
    operands = [as_tensor(x) for x in (left, right)]
    left, right = operands
    if min(left.rank, right.rank) < 2:
        return graph.opaque(operation, operands)
    rank = max(left.rank, right.rank)
    outer = "abcdefgh"[: rank - 2]
    letters = [
        outer[rank - x.rank :] + ending for x, ending in zip(operands, ("xy", "yz"), strict=True)
    ]
    return _contracted(graph, operands, letters, outer + "xz")


@rule(*operations("Dot"))
def _dot_product(graph: ChannelGraph, operation: Any, left: Any, right: Any) -> Any:
    left, right = as_tensor(left), as_tensor(right)
    if min(left.rank, right.rank) < 1:
        return graph.opaque(operation, [left, right])
    return _summed_over(graph, left, right, [left.rank - 1], [max(right.rank - 2, 0)])


@rule(*operations("Tensordot"))
def _tensordot(graph: ChannelGraph, operation: Any, left: Any, right: Any) -> Tensor:
    left, right, axes = as_tensor(left), as_tensor(right), operation.axes
    if isinstance(axes, int):
        axes = [range(left.rank - axes, left.rank), range(axes)]
    one, two = (as_list(entry) if np.ndim(entry) == 0 else entry for entry in axes)
    return _summed_over(graph, left, right, one, two)


def _summed_over(
    graph: ChannelGraph, left: Tensor, right: Tensor, one: Sequence[int], two: Sequence[int]
) -> Tensor:
    """The products of two tensors, summed over axes `one` of the left and `two` of the right."""
    letters = [string.ascii_lowercase[: left.rank], string.ascii_uppercase[: right.rank]]
    for i, j in zip(one, two, strict=True):
        letters[1] = letters[1].replace(letters[1][j], letters[0][i])
    target = "".join(x for x in "".join(letters) if (x in letters[0]) != (x in letters[1]))
    return _contracted(graph, [left, right], letters, target)


def _contracted(
    graph: ChannelGraph, operands: Sequence[Tensor], letters: Sequence[str], target: str
) -> Tensor:
    """The einsum of several tensors: `letters` names their axes, `target` those that stay."""
    sizes = _letter_sizes([x.shape for x in operands], letters)
    lines: dict[str, list[Axis | None]] = {}
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
    # The first axis of the result is the batch.
    called = _letter_sizes([x.sizes for x in operands], letters)
    factors = [n if axes[x] is None else axes[x] for x, n in called.items() if x != target[:1]]
    if not _with_kernel(graph, operands, letters, target, axes, called):
        graph.product(*factors)
    return Tensor([sizes[name] for name in target], [axes[name] for name in target])


def _with_kernel(
    graph: ChannelGraph,
    operands: Sequence[Tensor],
    letters: Sequence[str],
    target: str,
    axes: dict[str, Axis | None],
    sizes: dict[str, int | None],
) -> bool:
    """Says how a kernel is used, if one of the operands is a variable."""
    kernels = [
        (x, names) for x, names in zip(operands, letters, strict=True) if x.variable is not None
    ]
    if len(kernels) != 1:
        return False
    [(kernel, names)] = kernels
    places = [(axes[x], n) for x, n in sizes.items() if x not in names and x != target[:1]]
    graph.weight(
        kernel.variable,
        kernel.axes,
        reads=[index for index, name in enumerate(names) if name not in target],
        uses=[(n or 1) if axis is None else axis for axis, n in places],
    )
    return True


def _letter_sizes(shapes: Sequence[Shape], letters: Sequence[str]) -> dict[str, int | None]:
    """The size that each letter stands for, with axes of size one spread over the others."""
    sizes: dict[str, int | None] = {}
    for shape, names in zip(shapes, letters, strict=True):
        for name, n in zip(names, shape, strict=True):
            sizes[name] = n if sizes.get(name, 1) in (1, None) else sizes[name]
    return sizes
