"""How channels go through attention."""

import dataclasses
import functools
import math
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import layers

from keras_hoyer._keras import operations, projections
from keras_hoyer.graph.axes import Axis, Tensor, along
from keras_hoyer.graph.facts import Size
from keras_hoyer.graph.rules.common import (
    added_constants,
    constants_of,
    linear_constants,
    only_zeros,
    rule,
)
from keras_hoyer.graph.walk import ChannelGraph


def _rows(graph: ChannelGraph, x: Tensor) -> Axis | None:
    """The feature axis of a sequence; attention over the other axes fixes them."""
    graph.freeze(*x.axes[:-1])
    return x.axes[-1]


def _attended(layer: Any, x: Tensor) -> Sequence[int]:
    """The axes along which attention looks about."""
    return getattr(layer, "attention_axes", None) or range(1, x.rank - 1)


def _projection(
    graph: ChannelGraph, dense: Any, x: Tensor, heads: Axis, width: Axis
) -> np.ndarray | None:
    """A projection `(in, heads, width)`; returns the constants it gives, `(heads, width)`."""
    source = x.axes[-1]
    graph.weight(dense.kernel, (source, heads, width), reads=(0,), uses=x.places(-1))
    graph.weight(dense.bias, (heads, width))
    values = graph.value(dense.kernel)
    if values is None:
        return None
    shift = None if dense.bias is None else functools.partial(added_constants, values[None])
    graph.read(source, values != 0, (heads, width), shift, dense, dense.bias)
    return linear_constants(
        values[None], constants_of(source, len(values)), graph.value(dense.bias)
    )


@dataclasses.dataclass(frozen=True, eq=False)
class _Inside:
    """The channels inside an attention layer.

    Args:
        heads: those of the query.
        shared: those of key and value, each for as many heads of the query.
        query: the width of a head in query and key.
        value: the width of a head in the value.
        out: what the output projection makes.
    """

    heads: Axis
    shared: Axis
    query: Axis
    value: Axis
    out: Axis | None


def _attend(
    graph: ChannelGraph,
    layer: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    inside: _Inside,
    scores: bool,
) -> Tensor | tuple[Tensor, Tensor]:
    """From query, key and value to what an attention layer gives."""
    parts = projections(layer)
    known = [
        _projection(graph, parts[name], x, heads, width)
        for name, x, heads, width in (
            ("query", query, inside.heads, inside.query),
            ("key", key, inside.shared, inside.query),
            ("value", value, inside.shared, inside.value),
        )
    ]
    if "gate" in parts:
        _projection(graph, parts["gate"], query, inside.heads, inside.value)
    rows, columns = query.places(-1), [key.sizes[i] for i in _attended(layer, key)]
    for width in (inside.query, inside.value):
        graph.product(*rows, *columns, inside.heads, width)

    def scale(size: Size) -> float:
        # The scores are divided by the root of the width.
        return math.sqrt(size(inside.query) / len(inside.query))

    graph.scale(parts["query"].kernel, scale)
    graph.scale(parts["query"].bias, scale)
    out = _output(graph, parts["output"], inside, rows, known)
    width = parts["output"].kernel.shape[-1]
    return _sequence_outputs(query, key, inside.heads, out, width=width, scores=scores)


def _output(
    graph: ChannelGraph,
    dense: Any,
    inside: _Inside,
    rows: Sequence[Axis | int],
    known: Sequence[np.ndarray | None],
) -> Axis | None:
    """The output projection; `known` are the constants of the projected query, key and value."""
    heads, out = inside.heads, inside.out
    graph.weight(dense.kernel, (heads, inside.value, out), reads=(0, 1), uses=rows)
    graph.weight(dense.bias, (out,))
    values = graph.value(dense.kernel)
    if values is None:
        return out
    constants = [np.repeat(x, len(heads) // len(x), axis=0) for x in known if x is not None]
    query, key, content = constants  # with the values of one kernel those of all are known
    silent = (along(query, 1) == 0) | (along(key, 1) == 0)
    graph.read(inside.query.having(np.where(silent, 0, np.nan)))
    content = np.where(content == 0, 0, np.nan)  # zeros stay zeros however they are averaged
    # Heads and widths are summed over together, so neither can count on the other to go.
    used = (values != 0) & (content != 0)[..., None]
    graph.read(heads.having(along(content, 0)), used, (None, out))
    graph.read(inside.value.having(along(content, 1)), used.swapaxes(0, 1), (None, out))
    if out is None:
        return None
    flat = values.reshape(1, -1, values.shape[-1])
    return out.having(linear_constants(flat, content.reshape(-1), graph.value(dense.bias)))


def _sequence_outputs(
    query: Tensor, key: Tensor, heads: Axis, out: Axis | None, *, width: int, scores: bool
) -> Tensor | tuple[Tensor, Tensor]:
    result = Tensor((*query.shape[:-1], width), (*(None for _ in query.shape[:-1]), out))
    if not scores:
        return result
    shape = [query.shape[0], len(heads), *query.shape[1:-1], *key.shape[1:-1]]
    axes = (None, heads.forget(), *(None for _ in shape[2:]))
    return result, Tensor(shape, axes)


def _freeze_masked(graph: ChannelGraph, heads: Axis | None, *masks: Any) -> None:
    """A mask for each head fixes the heads; what masks are made of stays."""
    for mask in masks:
        if isinstance(mask, Tensor):
            graph.freeze(*mask.axes)
        shape: tuple[Any, ...] = getattr(mask, "shape", ())
        if len(shape) > 3 and shape[1] != 1:
            graph.freeze(heads)


@rule(layers.MultiHeadAttention)
def multi_head_attention(
    graph: ChannelGraph,
    layer: Any,
    query: Tensor,
    value: Tensor,
    key: Tensor | None = None,
    attention_mask: Any = None,
    return_attention_scores: bool = False,
    **kwargs: Any,
) -> Any:
    """Heads, and the widths of keys and values in each of them, are channels of the layer."""
    key = value if key is None else key
    kernel = projections(layer)["output"].kernel
    if len(kernel.shape) > 3:
        return graph.opaque(layer, (query, key, value))
    heads = graph.channels(layer, "num_heads", layer.num_heads)
    widths = [graph.channels(layer, n, getattr(layer, n)) for n in ("key_dim", "value_dim")]
    if keras.backend.backend() == "jax" and layer.key_dim == layer.value_dim:
        # JAX's attention takes only values that are as wide as the keys.
        graph.join(*widths)
    out = graph.channels(layer, "output", kernel.shape[-1])
    inside = _Inside(heads, heads, widths[0], widths[1], out)
    _freeze_masked(graph, heads, attention_mask)
    source, *_ = [_rows(graph, x) for x in (query, key, value)]

    def update(size: Size) -> dict[str, Any]:
        sizes = [size(axis) for axis in (heads, *widths)]
        changes: dict[str, Any] = dict(
            zip(("num_heads", "key_dim", "value_dim"), sizes, strict=True)
        )
        row = query.shape[-1] if source is None else size(source)
        if layer.get_config()["output_shape"] or size(out) != row:
            changes["output_shape"] = (size(out),)
        return changes

    graph.resize(layer, update)
    return _attend(graph, layer, query, key, value, inside, return_attention_scores)


@rule(layers.GroupQueryAttention)
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
    # The output is as wide as the query, and Keras wants the value to be so as well.
    out = graph.channels(layer, "output", layer.feature_dim)
    out = graph.join(out, sources[0], sources[2])
    graph.resize(
        layer,
        lambda size: {
            "num_query_heads": size(heads),
            "num_key_value_heads": size(shared),
            "head_dim": size(width),
        },
    )
    inside = _Inside(heads, shared, width, width, out)
    return _attend(graph, layer, query, key, value, inside, return_attention_scores)


@rule(layers.Attention, layers.AdditiveAttention)
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
    _freeze_masked(graph, None, *(mask or ()))
    left, right, content = (_rows(graph, x) for x in (query, key, value))
    graph.join(left, right)
    rows, columns = query.places(-1), value.places(-1)
    graph.product(*rows, *columns, value.shape[-1] if content is None else content)
    if isinstance(layer, layers.AdditiveAttention) or layer.score_mode == "concat":
        # The scores are sums of tanh(query + key), to which what is zero in both adds nothing.
        if isinstance(layer, layers.AdditiveAttention):
            graph.weight(layer.scale, (left,), state=True)
        combined = _sum_of
    else:
        graph.product(*rows, *columns, query.shape[-1] if left is None else left)
        combined = _product_of
    for axis, other in ((left, right), (right, left)):
        graph.read(combined(axis, other))
    content = only_zeros(content)
    result = Tensor((*query.shape[:-1], value.shape[-1]), (*(None,) * (query.rank - 1), content))
    if not return_attention_scores:
        return result
    return result, Tensor((*query.shape[:-1], key.shape[-2]))


def _sum_of(axis: Axis | None, other: Axis | None) -> Axis | None:
    """The channels of `axis` with the constants of a sum of which no more than zeros is known."""
    if axis is None or other is None:
        return None if axis is None else axis.forget()
    return axis.having(np.where((axis.constants == 0) & (other.constants == 0), 0, np.nan))


def _product_of(axis: Axis | None, other: Axis | None) -> Axis | None:
    """The channels of `axis` with the constants of a product: zero where either side is."""
    if axis is None:
        return None
    zero = axis.constants == 0
    if other is not None:
        zero |= other.constants == 0
    return axis.having(np.where(zero, 0, np.nan))


@rule(*operations("DotProductAttention"))
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
    tensors = (query, key, value)
    for x in tensors:
        graph.freeze(x.axes[1])
    shared = _same_axis(graph, [x.axes[2] for x in tensors], [x.shape[2] for x in tensors])
    _freeze_masked(graph, shared, bias, mask)
    for x in (query, value):  # the width of the scores, and that of what they weigh
        graph.product(*query.places(-1), key.sizes[1], x.places()[-1])
    # Keras says that the output is as wide as the query, so the values follow the keys.
    width = _same_axis(graph, [x.axes[3] for x in tensors], [x.shape[3] for x in tensors])
    if width is None:
        return Tensor(query.shape, (None, None, shared, None))
    graph.read(_product_of(query.axes[3], key.axes[3]))

    def keep_scale(
        size: Size, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> tuple[tuple[Any, ...], dict[str, Any]]:
        if size(width) == len(width) or kwargs.get("scale") is not None or len(args) > 5:
            return args, kwargs
        return args, {**kwargs, "scale": 1 / math.sqrt(len(width))}

    graph.rewrite(keep_scale)
    return Tensor(query.shape, (None, None, shared, width))


def _same_axis(
    graph: ChannelGraph, axes: Sequence[Axis | None], sizes: Sequence[int | None]
) -> Axis | None:
    """The joined axis of query, key and value, with no more known than zeros of the values."""
    labelled = [axis for axis in axes if axis is not None]
    if len(labelled) < len(axes) or len(set(sizes)) > 1:
        graph.freeze(*axes)
        return None
    return graph.join(*labelled).having(only_zeros(labelled[2]).constants)
