"""How channels go through the layers and operations of Keras.

A rule is called like its layer and returns the labelled outputs; see `channels.register_rule`.
"""

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np
from keras import layers, ops, tree
from keras.src.applications.convnext import LayerScale, StochasticDepth
from keras.src.applications.inception_resnet_v2 import CustomScaleLayer
from keras.src.ops import core as core_ops
from keras.src.ops import nn as nn_ops
from keras.src.ops import numpy as numpy_ops

from keras_hoyer.channels import Axis, ChannelGraph, Tensor, register_rule

Shape = Sequence[int | None]
_rule = functools.partial(register_rule, follows_constants=True)


def _existing(module: Any, *names: str) -> list[type]:
    """Those of the named classes that this version of Keras has."""
    return [getattr(module, name) for name in names if hasattr(module, name)]


# Kernels.


def _responses(
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
    mixed = _used(kernel)[varies].any(axis=0)
    total = _shift(kernel, np.where(varies, 0, inputs))
    return np.where(mixed, np.nan, total if bias is None else total + bias)


def _used(kernel: np.ndarray) -> np.ndarray:
    """Which outputs of a kernel `(taps, inputs, *outputs)` depend on which inputs."""
    return kernel.any(axis=0)


def _shift(kernel: np.ndarray, constants: np.ndarray) -> np.ndarray:
    """What constant inputs add to the outputs of a kernel `(taps, inputs, *outputs)`."""
    rows = constants.nonzero()[0]
    return np.tensordot(constants[rows], kernel[:, rows].sum(axis=0, dtype="float64"), axes=(0, 0))


def _along(values: np.ndarray, axis: int) -> np.ndarray:
    """The value of each slice along `axis` that has one value only, NaN for the others."""
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    return np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], np.nan)


def _zeros(axis: Axis | None) -> Axis | None:
    """The axis with only its zeros known."""
    return None if axis is None else axis.having(np.where(axis.constants == 0, 0, np.nan))


def _constants(axis: Axis | None, size: int) -> np.ndarray:
    return np.full(size, np.nan) if axis is None else axis.constants


def _linear(
    graph: ChannelGraph,
    layer: Any,
    kernel: Any,
    source: Axis | None,
    out: Axis,
    *,
    border: bool = False,
    swapped: bool = False,
) -> Axis:
    """Reads `source` through a kernel `(*window, in, out)` and makes `out`.

    Args:
        graph: the graph.
        layer: the layer, with `bias`, `use_bias` and `activation`.
        kernel: the variable.
        source: the input channels.
        out: the output channels.
        border: whether some outputs see only a part of the window.
        swapped: whether the kernel is `(*window, out, in)`.
    """
    window = (None,) * (len(kernel.shape) - 2)
    last = len(window)
    ends = (out, source) if swapped else (source, out)
    graph.weight(kernel, (*window, *ends), reads=(last + swapped,))
    graph.weight(layer.bias, (out,))
    graph.resize(
        layer,
        lambda size: {("units" if hasattr(layer, "units") else "filters"): size(out)},
    )
    values = graph.value(kernel)
    if values is None:
        return graph.activated(out, layer.activation)
    values = values.reshape(-1, *values.shape[-2:])
    if swapped:
        values = values.swapaxes(1, 2)
    shift = None if border else functools.partial(_shift, values)
    graph.read(source, _used(values), (out,), shift, layer, layer.bias)
    inputs = _constants(source, values.shape[1])
    out = out.having(_responses(values, inputs, graph.value(layer.bias), border))
    return graph.activated(out, layer.activation)


@_rule(layers.Dense)
def _dense(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    out = graph.channels(layer, "units", layer.units)
    return x.replace(-1, _linear(graph, layer, layer._kernel, x.axes[-1], out))


def _channel_index(layer: Any, rank: int) -> int:
    return 1 if layer.data_format == "channels_first" else rank - 1


def _image(graph: ChannelGraph, layer: Any, x: Tensor) -> tuple[int, Axis | None]:
    """The channel axis of an image-like input; a layer with a window fixes the other axes."""
    index = _channel_index(layer, x.rank)
    graph.freeze(*(axis for i, axis in enumerate(x.axes) if i != index))
    return index, x.axes[index]


def _images(layer: Any, x: Tensor, index: int, axis: Axis | None, width: int) -> Tensor:
    """The output of a windowed layer: its spatial sizes play no part."""
    axes: list[Axis | None] = [None] * x.rank
    axes[index] = axis
    shape: list[int | None] = [None] * x.rank
    shape[index] = width
    return Tensor(shape, axes)


def _padded(layer: Any) -> bool:
    return layer.padding != "valid" and any(n > 1 for n in layer.kernel_size)


@_rule(layers.Conv1D, layers.Conv2D, layers.Conv3D)
def _conv(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    index, source = _image(graph, layer, x)
    out = graph.channels(layer, "filters", layer.filters)
    if layer.groups == 1:
        out = _linear(graph, layer, layer._kernel, source, out, border=_padded(layer))
        return _images(layer, x, index, out, layer.filters)
    return _images(layer, x, index, _grouped(graph, layer, source, out), layer.filters)


def _grouped(graph: ChannelGraph, layer: Any, source: Axis | None, out: Axis) -> Axis:
    """A grouped convolution loses whole groups: their inputs together with their outputs."""
    width = layer.filters // layer.groups
    group = np.arange(layer.filters) // width
    graph.merge(out, group)
    if source is None:
        graph.freeze(out)
    else:
        fan_in = len(source) // layer.groups
        graph.merge(source, np.arange(len(source)) // fan_in)
        graph.join(source.take(slice(None, None, fan_in)), out.take(slice(None, None, width)))
    window = (None,) * (len(layer._kernel.shape) - 1)
    graph.weight(layer._kernel, (*window, out))
    graph.weight(layer.bias, (out,))
    graph.resize(layer, lambda size: {"filters": size(out), "groups": max(size(out) // width, 1)})
    values = graph.value(layer._kernel)
    if values is not None:
        bias = graph.value(layer.bias)
        values = values.reshape(-1, *values.shape[-2:])
        results = np.empty(layer.filters)
        inputs = _constants(source, values.shape[1] * layer.groups).reshape(layer.groups, -1)
        for number in range(layer.groups):
            part = slice(number * width, (number + 1) * width)
            results[part] = _responses(
                values[..., part],
                inputs[number],
                None if bias is None else bias[part],
                _padded(layer),
            )
        out = out.having(results)
    return graph.activated(out, layer.activation)


@_rule(layers.Conv1DTranspose, layers.Conv2DTranspose, layers.Conv3DTranspose)
def _conv_transpose(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    index, source = _image(graph, layer, x)
    out = graph.channels(layer, "filters", layer.filters)
    # How many taps meet in an output differs from place to place.
    border = any(n > 1 for n in (*layer.kernel_size, *layer.strides))
    out = _linear(graph, layer, layer.kernel, source, out, border=border, swapped=True)
    return _images(layer, x, index, out, layer.filters)


def _depthwise(
    graph: ChannelGraph, layer: Any, kernel: Any, bias: Any, source: Axis | None
) -> Axis | None:
    """Each channel on its own, through a kernel `(*window, in, multiplier)`."""
    channels, multiplier = kernel.shape[-2:]
    window = (None,) * (len(kernel.shape) - 2)
    graph.weight(kernel, (*window, source, None))
    if source is None:
        return None
    out = source.repeat(multiplier)
    graph.weight(bias, (out,))
    values = graph.value(kernel)
    if values is None:
        return out.having(np.nan)
    values = values.reshape(-1, channels * multiplier)
    constants = out.constants
    if _padded(layer):
        constants = np.where(constants == 0, 0, np.nan)
    constants = np.where((values == 0).all(axis=0), 0, constants * values.sum(axis=0))
    return out.having(constants if bias is None else constants + graph.value(bias))


@_rule(layers.DepthwiseConv1D, layers.DepthwiseConv2D)
def _depthwise_conv(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    index, source = _image(graph, layer, x)
    out = _depthwise(graph, layer, layer.kernel, layer.bias, source)
    out = out if out is None else graph.activated(out, layer.activation)
    return _images(layer, x, index, out, x.shape[index] * layer.depth_multiplier)


@_rule(layers.SeparableConv1D, layers.SeparableConv2D)
def _separable_conv(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    index, source = _image(graph, layer, x)
    between = _depthwise(graph, layer, layer.depthwise_kernel, None, source)
    out = graph.channels(layer, "filters", layer.filters)
    out = _linear(graph, layer, layer.pointwise_kernel, between, out)
    return _images(layer, x, index, out, layer.filters)


@_rule(layers.Embedding)
def _embedding(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    graph.freeze(*x.axes)
    out = graph.channels(layer, "output_dim", layer.output_dim)
    graph.weight(layer._embeddings, (None, out))
    graph.resize(layer, lambda size: {"output_dim": size(out)})
    table = graph.value(layer._embeddings)
    if table is not None:
        out = out.having(_along(table, 1))
    return Tensor((*x.shape, layer.output_dim), (*(None for _ in x.shape), out))


@_rule(layers.EinsumDense)
def _einsum_dense(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    source, weights, target = split_equation(layer.equation, x.rank)
    axes = dict(zip(source, x.axes, strict=True))
    sizes = dict(zip(source, x.shape, strict=True))
    sizes.update(zip(weights, layer._kernel.shape, strict=True))
    summed = [letter for letter in weights if letter not in target]
    made = [letter for letter in weights if letter not in source]
    for letter in made:
        axes[letter] = graph.channels(layer, letter, sizes[letter])
    for letter in set(source) - set(weights) - set(target):
        graph.read(axes[letter])
    kernel_axes = [axes[letter] for letter in weights]
    graph.weight(layer._kernel, kernel_axes, reads=[weights.index(letter) for letter in summed])
    bias_letters = layer.bias_axes or ""
    if layer.bias is not None:
        graph.weight(
            layer.bias,
            # The bias has an axis of size one for each output axis it spans but does not number.
            [
                axes[letter] if letter in bias_letters else None
                for letter in target[len(target) - len(layer.bias.shape) :]
            ],
        )

    def update(size: Callable) -> dict:
        partial = list(layer.partial_output_shape)
        for number in range(1, len(partial) + 1):
            axis = axes[target[-number]]
            if partial[-number] is not None and axis is not None:
                partial[-number] = size(axis)
        return {"output_shape": tuple(partial)}

    graph.resize(layer, update)
    values = graph.value(layer._kernel)
    if values is not None:
        plain = len(summed) == 1 and bias_letters == "".join(x for x in weights if x not in summed)
        plain = plain and layer.bias is not None
        used = values != 0
        for index, letter in enumerate(weights):
            if letter in summed and axes[letter] is not None:
                zero = (axes[letter].constants == 0).nonzero()[0]
                np.moveaxis(used, index, 0)[zero] = False
        for letter in summed:
            index = weights.index(letter)
            # What is summed over together cannot count on the other to go.
            others = [None if x in summed else axes[x] for x in weights if x != letter]
            kernel = np.moveaxis(values, index, 0)[None]
            shift = functools.partial(_shift, kernel) if plain else None
            moved = np.moveaxis(used, index, 0)
            graph.read(axes[letter], moved, others, shift, layer, layer.bias)
        _einsum_constants(
            graph, layer, values, axes, weights=weights, summed=summed, made=made, target=target
        )
    for letter in made:
        axes[letter] = graph.activated(axes[letter], layer.activation)
    shape = [sizes[letter] for letter in target]
    result = [axes[x] if x in made or axes[x] is None else axes[x].having(np.nan) for x in target]
    return Tensor(shape, result)


def _einsum_constants(
    graph: ChannelGraph,
    layer: Any,
    values: np.ndarray,
    axes: dict[str, Axis | None],
    *,
    weights: str,
    summed: list[str],
    made: list[str],
    target: str,
) -> None:
    """Puts into `axes` the constants of the channels that an EinsumDense makes."""
    if set(weights) != set(summed) | set(made):
        return  # a kernel for each position: nothing is known to be constant
    values = values.transpose([weights.index(letter) for letter in [*summed, *made]])
    inputs = np.full(values.shape[: len(summed)], np.nan)
    for number, letter in enumerate(summed):
        line = _constants(axes[letter], values.shape[number])
        line = line.reshape([-1 if i == number else 1 for i in range(len(summed))])
        inputs = np.where(np.isnan(inputs), line, inputs)
    shape = values.shape[len(summed) :]
    bias = graph.value(layer.bias)
    if bias is not None:
        spanned = target[len(target) - bias.ndim :]
        if not set(spanned) <= set(made):
            extra = tuple(i for i, letter in enumerate(spanned) if letter not in made)
            if any(bias.shape[i] != 1 for i in extra):
                return
            bias, spanned = bias.squeeze(extra), "".join(x for x in spanned if x in made)
        order = [spanned.index(letter) for letter in made if letter in spanned]
        wide = [bias.shape[spanned.index(x)] if x in spanned else 1 for x in made]
        bias = bias.transpose(order).reshape(wide)
    results = _responses(values.reshape(1, inputs.size, *shape), inputs.reshape(-1), bias)
    for number, letter in enumerate(made):
        axes[letter] = axes[letter].having(_along(results, number))


def split_equation(equation: str, rank: int) -> list[str]:
    """The letters of an equation `a,b->c`, with `...` written out for a first operand of `rank`."""
    source, weights, target = equation.replace("->", ",").replace(" ", "").split(",")
    if "..." in equation:
        free = [c for c in "zyxwvutsrqponmlkjihgfedcba" if c not in equation]
        count = rank - len(source.replace("...", "")) if "..." in source else 0
        filled = "".join(free[:count])
        source, target = source.replace("...", filled), target.replace("...", filled)
    return [source, weights, target]


# Attention.


def _rows(graph: ChannelGraph, x: Tensor) -> Axis | None:
    """The feature axis of a sequence; attention over the other axes fixes them."""
    graph.freeze(*x.axes[:-1])
    return x.axes[-1]


def _projection(
    graph: ChannelGraph, dense: Any, source: Axis | None, heads: Axis, width: Axis
) -> np.ndarray | None:
    """A projection `(in, heads, width)`; returns the constants it gives, `(heads, width)`."""
    graph.weight(dense._kernel, (source, heads, width), reads=(0,))
    graph.weight(dense.bias, (heads, width))
    values = graph.value(dense._kernel)
    if values is None:
        return None
    shift = None if dense.bias is None else functools.partial(_shift, values[None])
    graph.read(source, values != 0, (heads, width), shift, dense, dense.bias)
    return _responses(values[None], _constants(source, len(values)), graph.value(dense.bias))


def _attend(
    graph: ChannelGraph,
    layer: Any,
    *,
    scores: tuple[np.ndarray | None, np.ndarray | None],
    content: np.ndarray | None,
    heads: Axis,
    query_width: Axis,
    value_width: Axis,
    out: Axis | None,
) -> Axis | None:
    """From the projected query, key and value to the output projection of an attention layer."""
    dense = layer._output_dense
    graph.weight(dense._kernel, (heads, value_width, out), reads=(0, 1))
    graph.weight(dense.bias, (out,))

    def scale(size: Callable) -> float:
        # The scores are divided by the root of the width.
        return math.sqrt(size(query_width) / len(query_width))

    graph.scale(layer._query_dense._kernel, scale)
    graph.scale(layer._query_dense.bias, scale)
    values = graph.value(dense._kernel)
    if values is None:
        return out
    query, key = scores
    silent = (_along(query, 1) == 0) | (_along(key, 1) == 0)
    graph.read(query_width.having(np.where(silent, 0, np.nan)))
    content = np.where(content == 0, 0, np.nan)  # zeros stay zeros however they are averaged
    # Heads and widths are summed over together, so neither can count on the other to go.
    used = (values != 0) & (content != 0)[..., None]
    graph.read(heads.having(_along(content, 0)), used, (None, out))
    graph.read(value_width.having(_along(content, 1)), used.swapaxes(0, 1), (None, out))
    if out is None:
        return None
    flat = values.reshape(1, -1, values.shape[-1])
    return out.having(_responses(flat, content.reshape(-1), graph.value(dense.bias)))


def _sequence_outputs(
    query: Tensor, key: Tensor, heads: Axis, out: Axis | None, *, width: int, scores: bool
) -> Tensor | tuple[Tensor, Tensor]:
    result = Tensor((*query.shape[:-1], width), (*(None for _ in query.shape[:-1]), out))
    if not scores:
        return result
    shape = (query.shape[0], len(heads), *query.shape[1:-1], *key.shape[1:-1])
    axes = (None, heads.having(np.nan), *(None for _ in shape[2:]))
    return result, Tensor(shape, axes)


def _freeze_masked(graph: ChannelGraph, heads: Axis, mask: Any) -> None:
    """A mask for each head fixes the heads."""
    shape = getattr(mask, "shape", ())
    if len(shape) > 3 and shape[1] != 1:
        graph.freeze(heads)


@_rule(layers.MultiHeadAttention)
def _multi_head_attention(
    graph: ChannelGraph,
    layer: Any,
    query: Tensor,
    value: Tensor,
    key: Tensor | None = None,
    attention_mask: Any = None,
    return_attention_scores: bool = False,
    **kwargs: Any,
) -> Any:
    key = value if key is None else key
    heads = graph.channels(layer, "num_heads", layer._num_heads)
    query_width = graph.channels(layer, "key_dim", layer._key_dim)
    value_width = graph.channels(layer, "value_dim", layer._value_dim)
    if keras.backend.backend() == "jax" and layer._key_dim == layer._value_dim:
        # JAX's attention takes only values that are as wide as the keys.
        graph.join(query_width, value_width)
    _freeze_masked(graph, heads, attention_mask)
    sources = [_rows(graph, x) for x in (query, key, value)]
    width = layer._output_dense._kernel.shape[-1]
    if len(layer._output_dense._kernel.shape) > 3:
        return graph.opaque(layer, (query, key, value))
    out = graph.channels(layer, "output", width)

    def update(size: Callable) -> dict:
        changes = {
            "num_heads": size(heads),
            "key_dim": size(query_width),
            "value_dim": size(value_width),
        }
        row = query.shape[-1] if sources[0] is None else size(sources[0])
        if layer._output_shape or size(out) != row:
            changes["output_shape"] = (size(out),)
        return changes

    graph.resize(layer, update)
    projected = [
        _projection(graph, dense, source, heads, axis)
        for dense, source, axis in (
            (layer._query_dense, sources[0], query_width),
            (layer._key_dense, sources[1], query_width),
            (layer._value_dense, sources[2], value_width),
        )
    ]
    if getattr(layer, "_use_gate", False):
        _projection(graph, layer._gate_dense, sources[0], heads, value_width)
    result = _attend(
        graph,
        layer,
        scores=projected[:2],
        content=projected[2],
        heads=heads,
        query_width=query_width,
        value_width=value_width,
        out=out,
    )
    return _sequence_outputs(query, key, heads, result, width=width, scores=return_attention_scores)


@_rule(layers.GroupQueryAttention)
def _grouped_query_attention(
    graph: ChannelGraph,
    layer: Any,
    query: Tensor,
    value: Tensor,
    key: Tensor | None = None,
    attention_mask: Any = None,
    return_attention_scores: bool = False,
    **kwargs: Any,
) -> Any:
    key = value if key is None else key
    shared = graph.channels(layer, "num_key_value_heads", layer.num_key_value_heads)
    heads = shared.repeat(layer.num_repeats)
    width = graph.channels(layer, "head_dim", layer.head_dim)
    _freeze_masked(graph, heads, attention_mask)
    sources = [_rows(graph, x) for x in (query, key, value)]
    # The output is as wide as the query.
    out = graph.channels(layer, "output", layer.feature_dim)
    out = graph.join(out, sources[0])
    graph.resize(
        layer,
        lambda size: {
            "num_query_heads": size(heads),
            "num_key_value_heads": size(shared),
            "head_dim": size(width),
        },
    )
    projected = [
        _projection(graph, dense, source, axis, width)
        for dense, source, axis in (
            (layer._query_dense, sources[0], heads),
            (layer._key_dense, sources[1], shared),
            (layer._value_dense, sources[2], shared),
        )
    ]
    if getattr(layer, "use_gate", False):
        _projection(graph, layer._gate_dense, sources[0], heads, width)
    if projected[0] is not None:
        projected[1:] = [np.repeat(x, layer.num_repeats, axis=0) for x in projected[1:]]
    result = _attend(
        graph,
        layer,
        scores=projected[:2],
        content=projected[2],
        heads=heads,
        query_width=width,
        value_width=width,
        out=out,
    )
    return _sequence_outputs(
        query, key, heads, result, width=layer.feature_dim, scores=return_attention_scores
    )


@_rule(layers.Attention)
def _attention(
    graph: ChannelGraph,
    layer: Any,
    inputs: Sequence[Tensor],
    mask: Any = None,
    return_attention_scores: bool = False,
    **kwargs: Any,
) -> Any:
    query, value = inputs[:2]
    key = inputs[2] if len(inputs) > 2 else value
    if layer.score_mode != "dot":
        return graph.opaque(layer, inputs)
    left, right, content = (_rows(graph, x) for x in (query, key, value))
    graph.join(left, right)
    for axis, other in ((left, right), (right, left)):
        graph.read(_product_of(axis, other))
    content = _zeros(content)
    result = Tensor((*query.shape[:-1], value.shape[-1]), (*(None,) * (query.rank - 1), content))
    if not return_attention_scores:
        return result
    return result, Tensor((*query.shape[:-1], key.shape[-2]))


def _product_of(axis: Axis | None, other: Axis | None) -> Axis | None:
    """The channels of `axis` with the constants of a product: zero where either side is."""
    if axis is None:
        return None
    zero = axis.constants == 0
    if other is not None:
        zero |= other.constants == 0
    return axis.having(np.where(zero, 0, np.nan))


# Recurrence.


@_rule(layers.LSTM, layers.GRU, layers.SimpleRNN)
def _recurrent(
    graph: ChannelGraph, layer: Any, x: Tensor, initial_state: Any = None, **kwargs: Any
) -> Any:
    cell, units = layer.cell, layer.units
    out = graph.channels(layer, "units", units)
    gates = cell.kernel.shape[-1] // units
    wide = out.tile(gates)
    graph.freeze(*x.axes[:-1])
    source = x.axes[-1]
    states = [s for s in tree.flatten(initial_state) if isinstance(s, Tensor)]
    graph.join(out, *(s.axes[-1] for s in states))
    graph.weight(cell.kernel, (source, wide), reads=(0,))
    graph.weight(cell.recurrent_kernel, (out, wide), reads=(0,))
    if cell.bias is not None:
        graph.weight(cell.bias, (*(None,) * (len(cell.bias.shape) - 1), wide))
    graph.resize(layer, lambda size: {"units": size(out)})
    kernel = graph.value(cell.kernel)
    if kernel is not None:
        graph.read(source, kernel != 0, (wide,))
        if not layer.stateful:
            out = out.having(_silent_units(graph, layer, source, states))
        graph.read(out, graph.value(cell.recurrent_kernel) != 0, (wide,))
    sequence = Tensor((*x.shape[:-1], units), (None, None, out))
    last = Tensor((x.shape[0], units), (None, out))
    result = sequence if layer.return_sequences else last
    if not layer.return_state:
        return result
    return [result] + [last] * (2 if isinstance(layer, layers.LSTM) else 1)


def _silent_units(
    graph: ChannelGraph, layer: Any, source: Axis | None, states: Sequence[Tensor]
) -> np.ndarray:
    """Zero for the units that start at zero and are never given anything else."""
    cell, units = layer.cell, layer.units
    # The candidate is the third of the four gates of an LSTM, the last of a GRU's three.
    candidate = 0 if isinstance(layer, layers.SimpleRNN) else 2 * units
    part = slice(candidate, candidate + units)
    origin = float(ops.convert_to_numpy(cell.activation(ops.zeros((1, 1))))[0, 0])
    if origin != 0 or not graph.is_pointwise(cell.activation):
        return np.full(units, np.nan)
    kernel = graph.value(cell.kernel)[:, part]
    recurrent = graph.value(cell.recurrent_kernel)[:, part]
    driven = (kernel[_constants(source, len(kernel)) != 0] != 0).any(axis=0)
    for state in states:
        driven |= _constants(state.axes[-1], units) != 0
    if cell.bias is not None:
        bias = graph.value(cell.bias)[..., part].reshape(-1, units)
        driven |= (bias != 0).any(axis=0)
    while True:
        reached = driven | (recurrent[driven] != 0).any(axis=0)
        if (reached == driven).all():
            return np.where(driven, np.nan, 0)
        driven = reached


@_rule(layers.Bidirectional)
def _bidirectional(
    graph: ChannelGraph, layer: Any, x: Tensor, initial_state: Any = None, **kwargs: Any
) -> Any:
    sides = (layer.forward_layer, layer.backward_layer)
    if not all(isinstance(s, (layers.LSTM, layers.GRU, layers.SimpleRNN)) for s in sides):
        return graph.opaque(layer, [x])
    given = list(initial_state or ())
    half = len(given) // 2
    results = [
        _recurrent(graph, side, x, initial_state=states)
        for side, states in zip(sides, (given[:half], given[half:]), strict=True)
    ]
    results = [r if isinstance(r, list) else [r] for r in results]
    forward, backward = (r[0] for r in results)
    # The wrapper takes both sides to be equally wide.
    graph.join(forward.axes[-1], backward.axes[-1])
    graph.resize(
        layer,
        lambda size: {
            "layer": graph.resized_object(layer.forward_layer, size),
            "backward_layer": graph.resized_object(layer.backward_layer, size),
        },
    )
    one, two = forward.axes[-1], backward.axes[-1]
    if layer.merge_mode is None:
        merged = [forward, backward]
    elif layer.merge_mode == "concat":
        merged = [forward.replace(-1, _concatenated([one, two], [len(one), len(two)]))]
    else:
        if layer.merge_mode == "mul":
            constants = np.where((one.constants == 0) | (two.constants == 0), 0, np.nan)
        else:
            constants = np.where((one.constants == 0) & (two.constants == 0), 0, np.nan)
        merged = [forward.replace(-1, one.having(constants))]
    merged += [*results[0][1:], *results[1][1:]]
    return merged if len(merged) > 1 else merged[0]


@_rule(layers.TimeDistributed)
def _time_distributed(graph: ChannelGraph, layer: Any, x: Tensor, **kwargs: Any) -> Tensor:
    inner = layer.layer
    if not graph.has_rule(inner) and not graph.is_pointwise(inner):
        return graph.opaque(layer, [x])
    graph.freeze(x.axes[1])
    step = Tensor((x.shape[0], *x.shape[2:]), (x.axes[0], *x.axes[2:]))
    [out] = tree.flatten(graph.call(inner, step))
    graph.resize(layer, lambda size: {"layer": graph.resized_object(inner, size)})
    return Tensor((out.shape[0], x.shape[1], *out.shape[1:]), (out.axes[0], None, *out.axes[1:]))


# Normalisation.


def _forgetting(x: Tensor) -> Tensor:
    """The tensor with its channels, none of them known to be constant."""
    return Tensor(x.shape, [a if a is None else a.having(np.nan) for a in x.axes])


@_rule(layers.BatchNormalization)
def _batch_normalization(graph: ChannelGraph, layer: Any, x: Tensor, **kwargs: Any) -> Tensor:
    axis = x.axes[layer.axis]
    for variable, state in (
        (layer.gamma, False),
        (layer.beta, False),
        (layer.moving_mean, True),
        (layer.moving_variance, True),
    ):
        graph.weight(variable, (axis,), state=state)
    if axis is None:
        return _forgetting(x)
    if graph.values:
        gamma, beta = graph.value(layer.gamma), graph.value(layer.beta)
        mean, variance = graph.value(layer.moving_mean), graph.value(layer.moving_variance)
        constants = (axis.constants - mean) / np.sqrt(variance.astype("float64") + layer.epsilon)
        if gamma is not None:
            constants = np.where(gamma == 0, 0, constants * gamma)
        axis = axis.having(constants if beta is None else constants + beta)
    return x.replace(layer.axis, axis)


@_rule(layers.GroupNormalization)
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
        whole = _along(axis.constants.reshape(-1, width), 0)
        still = np.repeat(~np.isnan(whole), width)
        if gamma is not None:
            still |= gamma == 0
        axis = axis.having(np.where(still, 0 if beta is None else beta, np.nan))
    return x.replace(layer.axis, axis)


@_rule(layers.RMSNormalization)
def _rms_normalization(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    [index, *more] = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    axis = x.axes[index]
    if more or axis is None:
        graph.freeze(*x.axes)
        return Tensor(x.shape)
    graph.weight(layer.scale, (axis,))
    # A zero adds nothing to the sum of squares, but the mean divides by the width.
    graph.read(_zeros(axis))
    graph.scale(layer.scale, lambda size: math.sqrt(len(axis) / size(axis)))
    graph.resize(layer, lambda size: {"epsilon": layer.epsilon * len(axis) / size(axis)})
    if graph.values:
        zero = (axis.constants == 0) | (graph.value(layer.scale) == 0)
        return x.replace(index, axis.having(np.where(zero, 0, np.nan)))
    return _forgetting(x)


@_rule(layers.UnitNormalization)
def _unit_normalization(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    axes = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    return _sum_of_squares(graph, x, axes)


@_rule(*_existing(nn_ops, "Normalize"))
def _normalize(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    axes = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
    return _sum_of_squares(graph, x, axes)


def _sum_of_squares(graph: ChannelGraph, x: Tensor, indices: Sequence[int]) -> Tensor:
    """A division by a norm over `indices`, to which zeros add nothing."""
    axes = [_zeros(axis) for axis in x.axes]
    for index in indices:
        graph.read(axes[index])
    return Tensor(x.shape, axes)


@_rule(layers.LayerNormalization)
def _layer_normalization(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    # A zero channel moves the mean and the variance of the others: all of them have to stay.
    indices = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    graph.freeze(*(x.axes[index] for index in indices))
    return _forgetting(x)


@_rule(layers.PReLU)
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


@_rule(LayerScale)
def _layer_scale(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    axis = x.axes[-1]
    graph.weight(layer.gamma, (axis,))
    if axis is None:
        return _forgetting(x)
    graph.resize(layer, lambda size: {"projection_dim": size(axis)})
    if graph.values:
        gamma = graph.value(layer.gamma)
        axis = axis.having(np.where(gamma == 0, 0, axis.constants * gamma))
    return x.replace(-1, axis)


# What leaves each channel as it is.


@_rule(
    layers.Dropout,
    layers.SpatialDropout1D,
    layers.SpatialDropout2D,
    layers.SpatialDropout3D,
    layers.AlphaDropout,
    layers.GaussianDropout,
    layers.GaussianNoise,
    layers.ActivityRegularization,
    layers.Identity,
    StochasticDepth,
    *_existing(core_ops, "StopGradient", "Cast"),
)
def _unchanged(graph: ChannelGraph, layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    return x


@_rule(layers.Masking)
def _masking(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    # Whether a step is masked depends on all of its features.
    graph.freeze(*x.axes)
    return _forgetting(x)


@_rule(layers.Activation)
def _activation(graph: ChannelGraph, layer: Any, x: Tensor, **kwargs: Any) -> Tensor:
    axes = list(x.axes)
    if not graph.is_pointwise(layer.activation):
        # Keras' activations that mix channels do so along the last axis.
        graph.freeze(*axes)
        return _forgetting(x)
    return Tensor(x.shape, [a if a is None else graph.activated(a, layer.activation) for a in axes])


@_rule(layers.Softmax, nn_ops.Softmax, nn_ops.LogSoftmax, *_existing(nn_ops, "Sparsemax"))
def _softmax(graph: ChannelGraph, layer: Any, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    indices = layer.axis if isinstance(layer.axis, (list, tuple)) else [layer.axis]
    graph.freeze(*(x.axes if None in indices else [x.axes[index] for index in indices]))
    masks = [mask for mask in tree.flatten((args, kwargs)) if isinstance(mask, Tensor)]
    for mask in masks:
        graph.freeze(*_lined_up(x, mask))
    sizes = [None if index is None else x.shape[index] for index in indices]
    if masks or None in sizes or not isinstance(layer, (layers.Softmax, nn_ops.Softmax)):
        return _forgetting(x)
    share = 1 / math.prod(sizes)
    known = [
        a if a is None else a.having(np.where(np.isnan(a.constants), np.nan, share)) for a in x.axes
    ]
    return Tensor(x.shape, known)


def _lined_up(x: Tensor, other: Tensor) -> list[Axis | None]:
    """The axes of `x` on which `other`, broadcast to it, has entries of its own."""
    pairs = zip(reversed(x.axes), reversed(other.shape), strict=False)
    return [axis for axis, n in pairs if n != 1]


@_rule(
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
    *_existing(
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
        index, axis = _image(graph, layer, x)
    pads = "ZeroPadding" in type(layer).__name__ or getattr(layer, "padding", "valid") == "same"
    if pads or isinstance(layer, layers.Resizing):
        axis = _zeros(axis)
    if axis is not None and getattr(layer, "fill_value", 0) != 0:
        axis = axis.having(np.nan)
    return _images(layer, x, index, axis, x.shape[index])


@_rule(
    layers.GlobalAveragePooling1D,
    layers.GlobalAveragePooling2D,
    layers.GlobalAveragePooling3D,
    layers.GlobalMaxPooling1D,
    layers.GlobalMaxPooling2D,
    layers.GlobalMaxPooling3D,
)
def _global_pooling(graph: ChannelGraph, layer: Any, x: Tensor, **kwargs: Any) -> Tensor:
    index, axis = _image(graph, layer, x)
    if layer.keepdims:
        axes = [axis if i == index else None for i in range(x.rank)]
        return Tensor([n if i in (0, index) else 1 for i, n in enumerate(x.shape)], axes)
    return Tensor((x.shape[0], x.shape[index]), (None, axis))


# Several tensors.


_ELEMENTWISE = _existing(
    numpy_ops,
    *("Add", "Subtract", "Multiply", "Divide", "TrueDivide", "Maximum", "Minimum", "Power"),
    *("Arctan2", "Mod", "FloorDivide", "Equal", "NotEqual", "Greater", "GreaterEqual", "Less"),
    *("LessEqual", "LogicalAnd", "LogicalOr", "LogicalXor", "Where", "SquaredDifference"),
    *("Hypot", "Logaddexp", "DivideNoNan"),
)


@_rule(*_ELEMENTWISE)
def _elementwise(graph: ChannelGraph, operation: Any, *operands: Any) -> Tensor:
    zero = isinstance(operation, numpy_ops.Multiply)
    return _combined(graph, operands, operation.call, zero)


@_rule(
    layers.Add,
    layers.Subtract,
    layers.Multiply,
    layers.Average,
    layers.Maximum,
    layers.Minimum,
)
def _merge(graph: ChannelGraph, layer: Any, inputs: Sequence[Tensor]) -> Tensor:
    if len({x.rank for x in inputs}) > 1:
        return graph.opaque(layer, inputs)
    zero = isinstance(layer, layers.Multiply)
    return _combined(graph, inputs, lambda *values: layer._merge_function(list(values)), zero)


@_rule(CustomScaleLayer)
def _custom_scale(graph: ChannelGraph, layer: Any, inputs: Sequence[Tensor]) -> Tensor:
    return _combined(graph, inputs, lambda *values: layer.call(list(values)))


def _combined(
    graph: ChannelGraph, operands: Sequence[Any], function: Callable, zero: bool = False
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
    return _constants(axis if axis is None or len(axis) == size else None, size)


def _computed(values: list, function: Callable, zero: bool, size: int) -> np.ndarray:
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


def _concatenated(axes: Sequence[Axis | None], sizes: Shape) -> Axis | None:
    if all(axis is None for axis in axes):
        return None
    parts = [
        Axis(np.zeros(n, "int64"), np.full(n, np.nan)) if axis is None else axis
        for axis, n in zip(axes, sizes, strict=True)
    ]
    return Axis(
        np.concatenate([p.labels for p in parts]), np.concatenate([p.constants for p in parts])
    )


@_rule(layers.Concatenate, numpy_ops.Concatenate)
def _concatenate(graph: ChannelGraph, operation: Any, inputs: Sequence[Any]) -> Tensor:
    inputs = [x if isinstance(x, Tensor) else Tensor(x.shape) for x in inputs]
    index = operation.axis % inputs[0].rank
    sizes = [x.shape[index] for x in inputs]
    shape = list(inputs[0].shape)
    axes: list[Axis | None] = []
    for i in range(inputs[0].rank):
        line = [x.axes[i] for x in inputs]
        if i == index:
            axes.append(_concatenated(line, sizes))
            shape[i] = None if None in sizes else sum(sizes)
            continue
        axes.append(_shared(graph, line))
    return Tensor(shape, axes)


def _shared(graph: ChannelGraph, axes: Sequence[Axis | None]) -> Axis | None:
    """The joined axis of tensors that are laid side by side along another one."""
    axis = graph.join(*axes)
    if axis is None:
        return None
    return axis.having(_along(np.stack([_constants(a, len(axis)) for a in axes]), 1))


@_rule(numpy_ops.Stack)
def _stack(graph: ChannelGraph, operation: Any, inputs: Sequence[Any]) -> Tensor:
    inputs = [x if isinstance(x, Tensor) else Tensor(x.shape) for x in inputs]
    first = inputs[0]
    axes = [_shared(graph, [x.axes[i] for x in inputs]) for i in range(first.rank)]
    index = operation.axis % (first.rank + 1)
    shape = list(first.shape)
    shape.insert(index, len(inputs))
    axes.insert(index, None)
    return Tensor(shape, axes)


@_rule(layers.Dot)
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


@_rule(numpy_ops.Einsum)
def _einsum(graph: ChannelGraph, operation: Any, *operands: Any, **kwargs: Any) -> Any:
    equation = operation.subscripts.replace(" ", "")
    operands = [x if isinstance(x, Tensor) else Tensor(x.shape) for x in operands]
    if "..." in equation or "->" not in equation:
        return graph.opaque(operation, operands)
    source, target = equation.split("->")
    return _contracted(graph, operands, source.split(","), target)


@_rule(numpy_ops.Matmul)
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


@_rule(nn_ops.DotProductAttention)
def _dot_product_attention(
    graph: ChannelGraph,
    operation: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Any = None,
    mask: Any = None,
    scale: Any = None,
) -> Tensor:
    # The width of query and key sets the scale of the scores.
    graph.freeze(query.axes[-1], key.axes[-1])
    for x in (query, key, value):
        graph.freeze(x.axes[1])
    heads = [x.axes[2] for x in (query, key, value)]
    if len({x.shape[2] for x in (query, key, value)}) > 1:
        graph.freeze(*heads)
        shared = None
    else:
        shared = graph.join(*heads)
    for extra in (bias, mask):
        if shared is not None and len(getattr(extra, "shape", ())) > 3 and extra.shape[1] != 1:
            graph.freeze(shared)
    content = _zeros(value.axes[-1])
    if shared is not None and heads[2] is not None:
        shared = shared.having(np.where(heads[2].constants == 0, 0, np.nan))
    return Tensor((*query.shape[:-1], value.shape[-1]), (None, None, shared, content))


# Moving channels about.


@_rule(layers.Flatten)
def _flatten(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    if layer.data_format == "channels_first" and x.rank > 2:
        order = (0, *range(2, x.rank), 1)
        x = Tensor([x.shape[i] for i in order], [x.axes[i] for i in order])
    return _reshaped(graph, x, layer.compute_output_shape(x.shape))


@_rule(layers.Reshape)
def _reshape_layer(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    result = _reshaped(graph, x, layer.compute_output_shape(x.shape))
    graph.resize(
        layer, lambda size: {"target_shape": _resized(layer.target_shape, result.axes[1:], size)}
    )
    return result


@_rule(numpy_ops.Reshape)
def _reshape(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    result = _reshaped(graph, x, operation.compute_output_spec(_spec(x)).shape)
    shape = operation.newshape
    shape = (shape,) if isinstance(shape, int) else shape
    graph.resize(operation, lambda size: {"newshape": _resized(shape, result.axes, size)})
    return result


def _spec(x: Tensor) -> keras.KerasTensor:
    return keras.KerasTensor(x.shape)


def _resized(shape: Shape, axes: Sequence[Axis | None], size: Callable) -> tuple:
    return tuple(
        n if axis is None or n is None or n < 0 else size(axis)
        for n, axis in zip(shape, axes, strict=True)
    )


def _reshaped(graph: ChannelGraph, x: Tensor, shape: Shape) -> Tensor:
    """The tensor in another shape, matched from the right in blocks of equal size."""
    axes: list[Axis | None] = [None] * len(shape)
    i, j = x.rank, len(shape)
    while i > 0 and j > 0:
        if None in x.shape[:i] and x.shape[:i] == tuple(shape[:j]) and x.shape[i - 1] is None:
            axes[:j] = x.axes[:i]
            i = j = 0
            break
        start, stop = i - 1, j - 1
        left, right = x.shape[start], shape[stop]
        while None not in (left, right) and left != right:
            if left < right:
                start -= 1
                left = None if start < 0 or x.shape[start] is None else left * x.shape[start]
            else:
                stop -= 1
                right = None if stop < 0 or shape[stop] is None else right * shape[stop]
        if left is None or right is None:
            break
        axes[stop:j] = _block(graph, x.shape[start:i], x.axes[start:i], shape[stop:j])
        i, j = start, stop
    graph.freeze(*x.axes[:i])
    return Tensor(shape, axes)


def _block(
    graph: ChannelGraph, before: Shape, axes: Sequence[Axis | None], after: Shape
) -> list[Axis | None]:
    """Reshapes axes of sizes `before` to sizes `after`; at most one of them carries channels."""
    if len(before) == len(after) == 1:
        return list(axes)
    result: list[Axis | None] = [None] * len(after)
    wide = [i for i, axis in enumerate(axes) if axis is not None and len(axis) > 1]
    graph.freeze(*(axis for i, axis in enumerate(axes) if i not in wide[:1]))
    if not wide:
        return result
    axis = axes[wide[0]]
    numbers = np.arange(len(axis)).reshape([-1 if i == wide[0] else 1 for i in range(len(before))])
    numbers = np.broadcast_to(numbers, before).reshape(after)
    best = 1
    for index, n in enumerate(after):
        rows = np.moveaxis(numbers, index, 0).reshape(n, -1)
        groups = _components(rows, len(axis))
        count = len(np.unique(groups))
        if count > best:
            best, chosen = count, (index, rows, groups)
    if best == 1:
        graph.freeze(axis)
        return result
    index, rows, groups = chosen
    graph.merge(axis, groups)
    values = axis.constants[rows]
    constants = np.where((values == values[:, :1]).all(axis=1), values[:, 0], np.nan)
    result[index] = Axis(axis.labels[rows[:, 0]], constants)
    return result


def _components(rows: np.ndarray, size: int) -> np.ndarray:
    """Numbers channels so that those that share a row have the same number."""
    groups = np.arange(size)
    while True:
        lowest = groups[rows].min(axis=1)
        merged = groups.copy()
        np.minimum.at(merged, rows, np.broadcast_to(lowest[:, None], rows.shape))
        merged = merged[merged]
        if (merged == groups).all():
            return groups
        groups = merged


def _reordered(x: Tensor, order: Sequence[int]) -> Tensor:
    return Tensor([x.shape[i] for i in order], [x.axes[i] for i in order])


@_rule(layers.Permute)
def _permute(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    return _reordered(x, (0, *layer.dims))


@_rule(numpy_ops.Transpose)
def _transpose(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    return _reordered(x, operation.axes or range(x.rank)[::-1])


@_rule(numpy_ops.Swapaxes)
def _swapaxes(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    return _reordered(x, np.swapaxes(_index_grid(x), operation.axis1, operation.axis2).shape)


@_rule(numpy_ops.Moveaxis)
def _moveaxis(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    moved = np.moveaxis(_index_grid(x), operation.source, operation.destination)
    return _reordered(x, moved.shape)


def _index_grid(x: Tensor) -> np.ndarray:
    """An array without storage whose axis `i` has size `i`, to see where NumPy moves it."""
    return np.broadcast_to(0, range(x.rank))


@_rule(numpy_ops.ExpandDims)
def _expand_dims(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    indices = operation.axis if isinstance(operation.axis, (list, tuple)) else [operation.axis]
    rank = x.rank + len(indices)
    added = {index % rank for index in indices}
    rest = iter(zip(x.shape, x.axes, strict=True))
    pairs = [(1, None) if i in added else next(rest) for i in range(rank)]
    return Tensor([n for n, _ in pairs], [axis for _, axis in pairs])


@_rule(numpy_ops.Squeeze)
def _squeeze(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    gone = operation.axis
    if gone is None:
        gone = [i for i, n in enumerate(x.shape) if n == 1]
    gone = {index % x.rank for index in (gone if isinstance(gone, (list, tuple)) else [gone])}
    graph.freeze(*(x.axes[i] for i in gone))
    return _reordered(x, [i for i in range(x.rank) if i not in gone])


@_rule(layers.RepeatVector)
def _repeat_vector(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    return Tensor((x.shape[0], layer.n, x.shape[1]), (None, None, x.axes[1]))


@_rule(numpy_ops.Repeat)
def _repeat(graph: ChannelGraph, operation: Any, x: Tensor) -> Any:
    if operation.axis is None or not isinstance(operation.repeats, int):
        return graph.opaque(operation, [x])
    index = operation.axis % x.rank
    axes, shape = list(x.axes), list(x.shape)
    if axes[index] is not None:
        axes[index] = axes[index].repeat(operation.repeats)
    shape[index] = None if shape[index] is None else shape[index] * operation.repeats
    return Tensor(shape, axes)


@_rule(numpy_ops.Tile)
def _tile(graph: ChannelGraph, operation: Any, x: Tensor) -> Any:
    repeats = operation.repeats
    repeats = [repeats] if isinstance(repeats, int) else list(repeats)
    if len(repeats) > x.rank:
        return graph.opaque(operation, [x])
    repeats = [1] * (x.rank - len(repeats)) + repeats
    pairs = list(zip(x.shape, x.axes, repeats, strict=True))
    return Tensor(
        [None if n is None else n * count for n, _, count in pairs],
        [axis if axis is None else axis.tile(count) for _, axis, count in pairs],
    )


@_rule(numpy_ops.Flip)
def _flip(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    indices = range(x.rank) if operation.axis is None else np.atleast_1d(operation.axis) % x.rank
    flipped = [
        axis.take(slice(None, None, -1)) if axis is not None and i in indices else axis
        for i, axis in enumerate(x.axes)
    ]
    return Tensor(x.shape, flipped)


@_rule(numpy_ops.BroadcastTo)
def _broadcast_to(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    shape = operation.shape
    axes: list[Axis | None] = [None] * (len(shape) - x.rank)
    for n, before, axis in zip(shape[len(axes) :], x.shape, x.axes, strict=True):
        if axis is not None and before != n:
            graph.freeze(axis)
        axes.append(axis if before == n else None)
    graph.resize(operation, lambda size: {"shape": _resized(shape, axes, size)})
    return Tensor(shape, axes)


@_rule(numpy_ops.Split)
def _split(graph: ChannelGraph, operation: Any, x: Tensor) -> list[Tensor]:
    index, where = operation.axis % x.rank, operation.indices_or_sections
    pieces = np.split(np.arange(x.shape[index] or 0), where)
    if x.shape[index] is None:
        return graph.opaque(operation, [x])
    axis = x.axes[index]
    results = []
    for piece in pieces:
        axes, shape = list(x.axes), list(x.shape)
        axes[index] = axis if axis is None else axis.take(piece)
        shape[index] = len(piece)
        results.append(Tensor(shape, axes))
    if axis is not None:

        def update(size: Callable) -> dict:
            sizes = [size(result.axes[index]) for result in results]
            if sizes == [len(piece) for piece in pieces]:
                return {}
            return {"indices_or_sections": np.cumsum(sizes[:-1]).tolist()}

        graph.resize(operation, update)
    return results


@_rule(numpy_ops.GetItem)
def _get_item(graph: ChannelGraph, operation: Any, x: Tensor, key: Any) -> Any:
    keys = list(key) if isinstance(key, tuple) else [key]
    if not all(k is None or k is Ellipsis or isinstance(k, (int, slice)) for k in keys):
        return graph.opaque(operation, [x])
    count = sum(k is not None and k is not Ellipsis for k in keys)
    fill = [slice(None)] * (x.rank - count)
    at = next((i for i, k in enumerate(keys) if k is Ellipsis), None)
    keys = keys + fill if at is None else keys[:at] + fill + keys[at + 1 :]
    result, cuts, index = [], {}, 0
    for place, entry in enumerate(keys):
        if entry is None:
            result.append(None)
            continue
        axis = x.axes[index]
        index += 1
        if isinstance(entry, int):
            graph.freeze(axis)
            continue
        if axis is None or entry == slice(None):
            result.append(axis)
            continue
        if entry.step not in (None, 1):
            graph.freeze(axis)
        start, stop, _ = entry.indices(len(axis))
        cuts[place] = (axis.take(slice(0, start)), axis.take(slice(start, stop)))
        result.append(axis.take(entry))
    if cuts:

        def change(size: Callable, args: tuple, kwargs: dict) -> tuple[tuple, dict]:
            changed = list(keys)
            for place, (skipped, kept) in cuts.items():
                first = size(skipped)
                if keys[place].step in (None, 1):
                    changed[place] = slice(first, first + size(kept))
            return (args[0], tuple(changed)), {}

        graph.rewrite(change)
    return Tensor(operation.compute_output_spec(_spec(x), key).shape, result)


@_rule(numpy_ops.Pad)
def _pad(graph: ChannelGraph, operation: Any, x: Tensor, constant_values: Any = None) -> Tensor:
    pairs = [tuple(p) for p in np.broadcast_to(operation.pad_width, (x.rank, 2)).tolist()]
    value = np.nan
    if operation.mode == "constant":
        value = 0.0 if constant_values is None else float(constant_values)
    padded = [index for index, pair in enumerate(pairs) if any(pair)]
    shape = [None if n is None else n + sum(pair) for n, pair in zip(x.shape, pairs, strict=True)]
    axes, added = list(x.axes), {}
    for index, axis in enumerate(x.axes):
        if axis is None:
            continue
        if padded not in ([], [index]):  # the padding lies beside the channel's own values
            axes[index] = axis.having(np.where(axis.constants == value, value, np.nan))
        if index in padded:
            ends = [
                graph.channels(operation, f"{end}{index}", count, optional=True).having(value)
                for end, count in zip(("before", "after"), pairs[index], strict=True)
            ]
            if operation.mode != "constant":
                graph.freeze(axis, *ends)
            added[index] = ends
            parts = [ends[0], axes[index], ends[1]]
            axes[index] = _concatenated(parts, [len(part) for part in parts])

    def update(size: Callable) -> dict:
        width = [list(pair) for pair in pairs]
        for index, ends in added.items():
            width[index] = [size(end) for end in ends]
        return {"pad_width": width}

    if added:
        graph.resize(operation, update)
    return Tensor(shape, axes)


# Reductions.


@_rule(
    *_existing(
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
