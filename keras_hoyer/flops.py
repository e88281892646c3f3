"""How many multiply-adds a model takes for one example."""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import keras
from keras import layers, tree
from keras.src.ops import nn as nn_ops
from keras.src.ops import numpy as numpy_ops

from keras_hoyer.channels import as_function, has_graph, nodes_in_order
from keras_hoyer.rules import split_equation

_Tensors = Sequence[keras.KerasTensor]


def count_flops(model: keras.Model) -> dict[str, int]:
    """Counts the multiply-adds of each layer for one example.

    Counted are products with kernels and of tensors with each other: dense, convolutional,
    recurrent and attention layers, and `keras.ops` like `matmul`. Biases, normalisation, pooling
    and activations are not, nor are layers of your own. An axis of unknown length counts as one
    step. A layer that is called several times counts each call.

    Args:
        model: A built Sequential or functional model, nested models included, or a subclassed one
            that can be called on symbolic inputs.

    Returns:
        A dict from the path of a layer, such as `"backbone/conv1"`, to its multiply-adds. Layers
        that have none are left out.

    Raises:
        ValueError: If the model is not built, or its graph cannot be seen.

    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3, name="conv"),
    ...     keras.layers.GlobalMaxPooling2D(), keras.layers.Dense(10, name="head")])
    >>> count_flops(model)
    {'conv': 3888, 'head': 40}
    """
    counts: dict[str, int] = {}
    function = as_function(model)
    _count(function, function.inputs, "", counts)
    return counts


def _count(function: Any, inputs: _Tensors, prefix: str, counts: dict[str, int]) -> None:
    known = {id(x): y for x, y in zip(function.inputs, inputs, strict=True)}
    same = all(x.shape == y.shape for x, y in zip(function.inputs, inputs, strict=True))
    for node in nodes_in_order(function):
        operation = node.operation
        args, kwargs = node.arguments.fill_in(known)
        outputs = node.outputs
        if not same:  # a nested model that is called on other sizes than it was built for
            outputs = tree.flatten(operation.compute_output_spec(*args, **kwargs))
        known.update((id(x), y) for x, y in zip(node.outputs, outputs, strict=True))
        tensors = [x for x in tree.flatten((args, kwargs)) if isinstance(x, keras.KerasTensor)]
        if isinstance(operation, keras.Model) and has_graph(operation):
            _count(as_function(operation), tensors, f"{prefix}{operation.name}/", counts)
            continue
        number = _flops(operation, tensors, outputs)
        if number:
            path = prefix + operation.name
            counts[path] = counts.get(path, 0) + number


def _flops(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    for classes, count in _COUNTERS:
        if isinstance(operation, classes):
            return count(operation, inputs, outputs)
    return 0


def _size(shape: Iterable[int | None]) -> int:
    return math.prod(n or 1 for n in shape)


def _numbers(x: keras.KerasTensor) -> int:
    """The numbers of one example."""
    return _size(x.shape[1:])


def _per_output(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    """Each output takes one column of the kernel."""
    kernel = operation._kernel
    return _numbers(outputs[0]) * _size(kernel.shape[:-1])


def _transposed(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    """Each input takes one column of the kernel."""
    return _numbers(inputs[0]) * _size(operation.kernel.shape[:-1])


def _depthwise(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    return _numbers(outputs[0]) * _size(operation.kernel_size)


def _separable(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    places = _numbers(outputs[0]) // operation.filters
    return places * (
        _size(operation.depthwise_kernel.shape) + _size(operation.pointwise_kernel.shape)
    )


def _einsum_dense(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    source, kernel, _ = split_equation(operation.equation, len(inputs[0].shape))
    sizes = dict(zip(source[1:], inputs[0].shape[1:], strict=True))
    sizes.update(zip(kernel, operation._kernel.shape, strict=True))
    return _size(sizes.values())


def _attention(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    query, value = inputs[:2]
    key = inputs[2] if len(inputs) > 2 and inputs[2].shape[:-1] == value.shape[:-1] else value
    rows, columns = _size(query.shape[1:-1]), _size(key.shape[1:-1])
    total = 0
    for dense, places in (
        (operation._query_dense, rows),
        (operation._key_dense, columns),
        (operation._value_dense, columns),
        (operation._output_dense, rows),
        (getattr(operation, "_gate_dense", None), rows),
    ):
        if dense is not None:
            total += places * _size(dense._kernel.shape)
    heads, width = operation._query_dense._kernel.shape[1:]
    return total + rows * columns * heads * (width + operation._value_dense._kernel.shape[2])


def _dot_attention(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    query, value = inputs[:2]
    return query.shape[-1] * _size(query.shape[1:-1]) * (value.shape[1] or 1) + _numbers(
        outputs[0]
    ) * (value.shape[1] or 1)


def _recurrent(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    cell = operation.cell
    steps = inputs[0].shape[1] or 1
    return steps * (_size(cell.kernel.shape) + _size(cell.recurrent_kernel.shape))


def _bidirectional(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    sides = (operation.forward_layer, operation.backward_layer)
    return sum(_flops(side, inputs, outputs) for side in sides)


def _time_distributed(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    step = [[keras.KerasTensor((x.shape[0], *x.shape[2:])) for x in xs] for xs in (inputs, outputs)]
    return (inputs[0].shape[1] or 1) * _flops(operation.layer, *step)


def _matmul(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    return _size(outputs[0].shape[1:]) * (inputs[0].shape[-1] or 1)


def _einsum(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    source, _, target = operation.subscripts.replace(" ", "").partition("->")
    sizes: dict[str, int | None] = {}
    for letters, x in zip(source.split(","), inputs, strict=False):
        sizes.update(zip(letters, x.shape, strict=False))
    return _size([n for letter, n in sizes.items() if letter != target[:1]])


def _dot(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    axes = operation.axes if isinstance(operation.axes, int) else operation.axes[0]
    return _numbers(outputs[0]) * (inputs[0].shape[axes] or 1)


_COUNTERS: list[tuple[tuple[type, ...], Callable[[Any, _Tensors, _Tensors], int]]] = [
    ((layers.DepthwiseConv1D, layers.DepthwiseConv2D), _depthwise),
    ((layers.SeparableConv1D, layers.SeparableConv2D), _separable),
    ((layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose), _transposed),
    ((layers.Dense, layers.Conv1D, layers.Conv2D, layers.Conv3D), _per_output),
    ((layers.EinsumDense,), _einsum_dense),
    ((layers.MultiHeadAttention, layers.GroupQueryAttention), _attention),
    ((layers.Attention,), _dot_attention),
    ((nn_ops.DotProductAttention,), _dot_attention),
    ((layers.LSTM, layers.GRU, layers.SimpleRNN), _recurrent),
    ((layers.Bidirectional,), _bidirectional),
    ((layers.TimeDistributed,), _time_distributed),
    ((layers.Dot,), _dot),
    ((numpy_ops.Matmul,), _matmul),
    ((numpy_ops.Einsum,), _einsum),
]
