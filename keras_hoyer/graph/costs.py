"""How many multiply-adds a model takes for one example."""

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import keras
from keras import layers, tree
from keras.src.ops import nn as nn_ops
from keras.src.ops import numpy as numpy_ops

from keras_hoyer.graph.opening import as_function, has_graph, nodes_in_order
from keras_hoyer.graph.rules.common import split_equation

_Tensors = Sequence[keras.KerasTensor]
_Uses = list[tuple[keras.Variable, int]]


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
    for path, uses, products in _walk(model):
        number = products + sum(_size(kernel.shape) * places for kernel, places in uses)
        if number:
            counts[path] = counts.get(path, 0) + number
    return counts


def kernel_uses(model: keras.Model) -> dict[int, int]:
    """Counts how often each entry of a kernel is multiplied for one example.

    The multiply-adds with a kernel are its size times its uses, so a channel costs as many as the
    entries in its slices have uses.

    Args:
        model: As for `count_flops`.

    Returns:
        A dict from the `id` of a kernel's variable to the number of uses.

    Raises:
        ValueError: If the model is not built, or its graph cannot be seen.

    >>> model = keras.Sequential([keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3)])
    >>> kernel_uses(model)[id(model.layers[0].kernel)]
    36
    """
    totals: dict[int, int] = {}
    for _, uses, _ in _walk(model):
        for kernel, places in uses:
            totals[id(kernel)] = totals.get(id(kernel), 0) + places
    return totals


def _walk(model: keras.Model) -> Iterator[tuple[str, _Uses, int]]:
    """The path of each call, the kernels it uses and how often, and products of tensors."""
    function = as_function(model)
    yield from _calls(function, function.inputs, "")


def _calls(function: Any, inputs: _Tensors, prefix: str) -> Iterator[tuple[str, _Uses, int]]:
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
        path = prefix + operation.name
        if isinstance(operation, keras.Model) and has_graph(operation):
            yield from _calls(as_function(operation), tensors, f"{path}/")
        else:
            yield path, _uses(operation, tensors, outputs), _products(operation, tensors, outputs)


def _size(shape: Iterable[int | None]) -> int:
    return math.prod(n or 1 for n in shape)


def _places(x: keras.KerasTensor, channels: int) -> int:
    """At how many places of one example a tensor has that many channels."""
    return _size(x.shape[1:]) // channels


def _uses(operation: Any, inputs: _Tensors, outputs: _Tensors) -> _Uses:  # noqa: PLR0911
    """The kernels of a layer, each with how often its entries are multiplied in this call."""
    match operation:
        case layers.DepthwiseConv1D() | layers.DepthwiseConv2D():
            kernel = operation.kernel
            return [(kernel, _places(outputs[0], _size(kernel.shape[-2:])))]
        case layers.SeparableConv1D() | layers.SeparableConv2D():
            places = _places(outputs[0], operation.filters)
            return [(operation.depthwise_kernel, places), (operation.pointwise_kernel, places)]
        case layers.Conv1DTranspose() | layers.Conv2DTranspose() | layers.Conv3DTranspose():
            return [(operation.kernel, _places(inputs[0], operation.kernel.shape[-1]))]
        case layers.Dense() | layers.Conv1D() | layers.Conv2D() | layers.Conv3D():
            return [(operation._kernel, _places(outputs[0], operation._kernel.shape[-1]))]
        case layers.EinsumDense():
            source, kernel, _ = split_equation(operation.equation, len(inputs[0].shape))
            pairs = zip(source[1:], inputs[0].shape[1:], strict=True)
            return [(operation._kernel, _size(n for letter, n in pairs if letter not in kernel))]
        case layers.MultiHeadAttention() | layers.GroupQueryAttention():
            rows, columns = _rows_and_columns(inputs)
            parts = {"query": rows, "key": columns, "value": columns, "output": rows, "gate": rows}
            parts = {getattr(operation, f"_{k}_dense", None): n for k, n in parts.items()}
            return [(dense._kernel, places) for dense, places in parts.items() if dense]
        case layers.LSTM() | layers.GRU() | layers.SimpleRNN():
            steps = inputs[0].shape[1] or 1
            return [(operation.cell.kernel, steps), (operation.cell.recurrent_kernel, steps)]
        case layers.Bidirectional():
            sides = (operation.forward_layer, operation.backward_layer)
            return [use for side in sides for use in _uses(side, inputs, outputs)]
        case layers.TimeDistributed():
            ins, outs = ([_step(x) for x in xs] for xs in (inputs, outputs))
            steps = inputs[0].shape[1] or 1
            return [(kernel, steps * n) for kernel, n in _uses(operation.layer, ins, outs)]
    return []


def _products(operation: Any, inputs: _Tensors, outputs: _Tensors) -> int:
    """The multiply-adds of tensors with each other."""
    match operation:
        case layers.MultiHeadAttention() | layers.GroupQueryAttention():
            rows, columns = _rows_and_columns(inputs)
            heads, width = operation._query_dense._kernel.shape[1:]
            return rows * columns * heads * (width + operation._value_dense._kernel.shape[2])
        case layers.Attention() | nn_ops.DotProductAttention():
            query, value = inputs[:2]
            return (_size(query.shape[1:]) + _size(outputs[0].shape[1:])) * (value.shape[1] or 1)
        case layers.Dot():
            axis = operation.axes if isinstance(operation.axes, int) else operation.axes[0]
            return _size(outputs[0].shape[1:]) * (inputs[0].shape[axis] or 1)
        case numpy_ops.Matmul():
            return _size(outputs[0].shape[1:]) * (inputs[0].shape[-1] or 1)
        case numpy_ops.Einsum():
            source, _, target = operation.subscripts.replace(" ", "").partition("->")
            sizes: dict[str, int | None] = {}
            for letters, x in zip(source.split(","), inputs, strict=False):
                sizes.update(zip(letters, x.shape, strict=False))
            return _size(n for letter, n in sizes.items() if letter != target[:1])
    return 0


def _rows_and_columns(inputs: _Tensors) -> tuple[int, int]:
    """The lengths of query and key, which is as long as the value."""
    return _size(inputs[0].shape[1:-1]), _size(inputs[1].shape[1:-1])


def _step(x: keras.KerasTensor) -> keras.KerasTensor:
    return keras.KerasTensor((x.shape[0], *x.shape[2:]))
