"""How channels are moved about: reshapes, transposes, slices, padding."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from keras import layers

from keras_hoyer._keras import operations
from keras_hoyer.graph.axes import Axis, Tensor
from keras_hoyer.graph.facts import Size
from keras_hoyer.graph.rules.common import Shape, as_list, concatenated, rule, spec_of
from keras_hoyer.graph.walk import ChannelGraph


@rule(layers.Flatten)
def _flatten(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    if layer.data_format == "channels_first" and x.rank > 2:
        order = (0, *range(2, x.rank), 1)
        x = Tensor([x.shape[i] for i in order], [x.axes[i] for i in order])
    return _reshaped(graph, x, layer.compute_output_shape(x.shape))


@rule(layers.Reshape)
def _reshape_layer(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    result = _reshaped(graph, x, layer.compute_output_shape(x.shape))
    graph.resize(
        layer, lambda size: {"target_shape": _resized(layer.target_shape, result.axes[1:], size)}
    )
    return result


@rule(*operations("Reshape"))
def _reshape(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    result = _reshaped(graph, x, operation.compute_output_spec(spec_of(x)).shape)
    shape = operation.newshape
    shape = (shape,) if isinstance(shape, int) else shape
    graph.resize(operation, lambda size: {"newshape": _resized(shape, result.axes, size)})
    return result


def _resized(shape: Shape, axes: Sequence[Axis | None], size: Size) -> tuple[int | None, ...]:
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
        while left is not None and right is not None and left != right:
            if left < right:
                start -= 1
                left = _times(left, x.shape, start)
            else:
                stop -= 1
                right = _times(right, shape, stop)
        if left is None or right is None:
            break
        # With an open size there would be no product.
        before, after = _known(x.shape[start:i]), _known(shape[stop:j])
        axes[stop:j] = _block(graph, before, x.axes[start:i], after)
        i, j = start, stop
    graph.freeze(*x.axes[:i])
    return Tensor(shape, axes)


def _known(shape: Shape) -> list[int]:
    return [n for n in shape if n is not None]


def _times(count: int, shape: Shape, index: int) -> int | None:
    """The product with a size of a shape; None if there is none, or it is open."""
    n = None if index < 0 else shape[index]
    return None if n is None else count * n


def _block(
    graph: ChannelGraph,
    before: Sequence[int],
    axes: Sequence[Axis | None],
    after: Sequence[int],
) -> list[Axis | None]:
    """Reshapes axes of sizes `before` to sizes `after`; at most one of them carries channels."""
    if len(before) == len(after) == 1:
        return list(axes)
    result: list[Axis | None] = [None] * len(after)
    pairs = enumerate(axes)
    wide = [(i, axis) for i, axis in pairs if axis is not None and len(axis) > 1]
    if not wide:
        graph.freeze(*axes)
        return result
    place, axis = wide[0]
    graph.freeze(*(other for i, other in enumerate(axes) if i != place))
    numbers = np.arange(len(axis)).reshape([-1 if i == place else 1 for i in range(len(before))])
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


@rule(layers.Permute)
def _permute(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    return _reordered(x, (0, *layer.dims))


@rule(*operations("Transpose"))
def _transpose(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    return _reordered(x, operation.axes or range(x.rank)[::-1])


@rule(*operations("Swapaxes"))
def _swapaxes(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    return _reordered(x, np.swapaxes(_index_grid(x), operation.axis1, operation.axis2).shape)


@rule(*operations("Moveaxis"))
def _moveaxis(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    moved = np.moveaxis(_index_grid(x), operation.source, operation.destination)
    return _reordered(x, moved.shape)


def _index_grid(x: Tensor) -> np.ndarray:
    """An array without storage whose axis `i` has size `i`, to see where NumPy moves it."""
    return np.broadcast_to(0, range(x.rank))


@rule(*operations("ExpandDims"))
def _expand_dims(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    indices = as_list(operation.axis)
    rank = x.rank + len(indices)
    added = {index % rank for index in indices}
    rest = iter(zip(x.shape, x.axes, strict=True))
    pairs = [(1, None) if i in added else next(rest) for i in range(rank)]
    return Tensor([n for n, _ in pairs], [axis for _, axis in pairs])


@rule(*operations("Squeeze"))
def _squeeze(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    gone = operation.axis
    if gone is None:
        gone = [i for i, n in enumerate(x.shape) if n == 1]
    gone = {index % x.rank for index in as_list(gone)}
    graph.freeze(*(x.axes[i] for i in gone))
    return _reordered(x, [i for i in range(x.rank) if i not in gone])


@rule(layers.RepeatVector)
def _repeat_vector(graph: ChannelGraph, layer: Any, x: Tensor) -> Tensor:
    return Tensor((x.shape[0], layer.n, x.shape[1]), (None, None, x.axes[1]))


@rule(*operations("Repeat"))
def _repeat(graph: ChannelGraph, operation: Any, x: Tensor) -> Any:
    if operation.axis is None or not isinstance(operation.repeats, int):
        return graph.opaque(operation, [x])
    index = operation.axis % x.rank
    axes, shape = list(x.axes), list(x.shape)
    if axes[index] is not None:
        axes[index] = axes[index].repeat(operation.repeats)
    shape[index] = None if shape[index] is None else shape[index] * operation.repeats
    return Tensor(shape, axes)


@rule(*operations("Tile"))
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


@rule(*operations("Flip"))
def _flip(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    indices = range(x.rank) if operation.axis is None else np.atleast_1d(operation.axis) % x.rank
    flipped = [
        axis.take(slice(None, None, -1)) if axis is not None and i in indices else axis
        for i, axis in enumerate(x.axes)
    ]
    return Tensor(x.shape, flipped)


@rule(*operations("BroadcastTo"))
def _broadcast_to(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    shape = operation.shape
    axes: list[Axis | None] = [None] * (len(shape) - x.rank)
    for n, before, axis in zip(shape[len(axes) :], x.shape, x.axes, strict=True):
        if axis is not None and before != n:
            graph.freeze(axis)
        axes.append(axis if before == n else None)
    graph.resize(operation, lambda size: {"shape": _resized(shape, axes, size)})
    return Tensor(shape, axes)


@rule(*operations("Split"))
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

        def update(size: Size) -> dict[str, Any]:
            sizes = [size(result.axes[index]) for result in results]
            if sizes == [len(piece) for piece in pieces]:
                return {}
            return {"indices_or_sections": np.cumsum(sizes[:-1]).tolist()}

        graph.resize(operation, update)
    return results


@rule(*operations("Unstack"))
def _unstack(graph: ChannelGraph, operation: Any, x: Tensor) -> list[Tensor]:
    index = operation.axis % x.rank
    graph.freeze(x.axes[index])
    kept = [i for i in range(x.rank) if i != index]
    return [_reordered(x, kept) for _ in graph.outputs]


@rule(*operations("GetItem"))
def _get_item(graph: ChannelGraph, operation: Any, x: Tensor, key: Any) -> Any:
    keys = list(key) if isinstance(key, tuple) else [key]
    if not all(k is None or k is Ellipsis or isinstance(k, (int, slice)) for k in keys):
        return graph.opaque(operation, [x])
    keys = _filled(keys, x.rank)
    result: list[Axis | None] = []
    cuts: dict[int, tuple[Axis, Axis]] = {}
    index = 0
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

        def change(
            size: Size, args: tuple[Any, ...], kwargs: dict[str, Any]
        ) -> tuple[tuple[Any, ...], dict[str, Any]]:
            changed = list(keys)
            for place, (skipped, kept) in cuts.items():
                first = size(skipped)
                if keys[place].step in (None, 1):
                    changed[place] = slice(first, first + size(kept))
            return (args[0], tuple(changed)), {}

        graph.rewrite(change)
    return Tensor(operation.compute_output_spec(spec_of(x), key).shape, result)


def _filled(keys: list[Any], rank: int) -> list[Any]:
    """The keys with a slice of everything for each axis that they do not name."""
    count = sum(k is not None and k is not Ellipsis for k in keys)
    fill = [slice(None)] * (rank - count)
    at = next((i for i, k in enumerate(keys) if k is Ellipsis), None)
    return keys + fill if at is None else keys[:at] + fill + keys[at + 1 :]


@rule(*operations("Pad"))
def _pad(graph: ChannelGraph, operation: Any, x: Tensor, constant_values: Any = None) -> Tensor:
    pairs = [tuple(p) for p in np.broadcast_to(operation.pad_width, (x.rank, 2)).tolist()]
    value = np.nan
    if operation.mode == "constant":
        value = 0.0 if constant_values is None else constant_values
        value = float(value) if np.ndim(value) == 0 and not isinstance(value, Tensor) else np.nan
    padded = [index for index, pair in enumerate(pairs) if any(pair)]
    shape = [None if n is None else n + sum(pair) for n, pair in zip(x.shape, pairs, strict=True)]
    axes, added = list(x.axes), {}
    for index, axis in enumerate(x.axes):
        if axis is None:
            continue
        if padded not in ([], [index]):  # the padding lies beside the channel's own values
            axis = axes[index] = axis.having(np.where(axis.constants == value, value, np.nan))
        if index in padded:
            ends = [
                graph.channels(operation, f"{end}{index}", count, optional=True).having(value)
                for end, count in zip(("before", "after"), pairs[index], strict=True)
            ]
            if operation.mode != "constant":
                graph.freeze(axis, *ends)
            added[index] = ends
            parts = [ends[0], axis, ends[1]]
            axes[index] = concatenated(parts, [len(part) for part in parts])

    def update(size: Size) -> dict[str, Any]:
        width = [list(pair) for pair in pairs]
        for index, ends in added.items():
            width[index] = [size(end) for end in ends]
        return {"pad_width": width}

    if added:
        graph.resize(operation, update)
    return Tensor(shape, axes)
