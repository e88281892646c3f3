"""How channels are picked by an index, shifted round, and exchanged with places of an image."""

from typing import Any, cast

import numpy as np
from keras import ops

from keras_hoyer._keras import operations
from keras_hoyer.graph.axes import Axis, Tensor, along
from keras_hoyer.graph.facts import Size
from keras_hoyer.graph.rules.common import (
    as_list,
    as_tensor,
    forgetting,
    image_channels,
    image_tensor,
    rule,
)
from keras_hoyer.graph.walk import ChannelGraph


@rule(*operations("Roll"))
def _roll(graph: ChannelGraph, operation: Any, x: Tensor) -> Any:
    shifts, axes = operation.shift, operation.axis
    if axes is None:  # it goes on from row to row
        graph.freeze(*x.axes)
        return forgetting(x)
    if not all(isinstance(n, int) for n in as_list(shifts)):
        return graph.opaque(operation, [x])
    shifts, axes = np.broadcast_arrays(as_list(shifts), np.asarray(as_list(axes)) % x.rank)
    pairs = list(zip(shifts.tolist(), axes.tolist(), strict=True))
    before = {i: axis for i in dict.fromkeys(axes.tolist()) if (axis := x.axes[i]) is not None}
    last: dict[int, Axis] = {}  # the channels that come to the front
    rolled = list(x.axes)
    for index, axis in before.items():
        # NumPy adds the shifts of an axis that is named several times.
        shift = sum(n for n, i in pairs if i == index) % max(len(axis), 1)
        last[index] = axis.take(slice(len(axis) - shift, None))
        rolled[index] = axis.take(np.roll(np.arange(len(axis)), shift))

    def update(size: Size) -> dict[str, Any]:
        if all(size(axis) == len(axis) for axis in before.values()):
            return {}
        left = [n for n, i in pairs if i not in last] + [size(axis) for axis in last.values()]
        return {"shift": left, "axis": [i for _, i in pairs if i not in last] + list(last)}

    graph.resize(operation, update)
    return Tensor(x.shape, rolled)


@rule(*operations("Take"))
def _take(graph: ChannelGraph, operation: Any, x: Tensor, indices: Any) -> Tensor:
    indices = as_tensor(indices)
    graph.freeze(*indices.axes)
    if operation.axis is None:
        graph.freeze(*x.axes)
        return Tensor(indices.shape)
    place = operation.axis % x.rank
    graph.freeze(x.axes[place])
    return Tensor(
        (*x.shape[:place], *indices.shape, *x.shape[place + 1 :]),
        (*x.axes[:place], *indices.axes, *x.axes[place + 1 :]),
    )


@rule(*operations("TakeAlongAxis"))
def _take_along_axis(graph: ChannelGraph, operation: Any, x: Tensor, indices: Any) -> Tensor:
    indices = as_tensor(indices)
    if operation.axis is None:
        graph.freeze(*x.axes, *indices.axes)
        return Tensor(graph.output_sizes[0])
    place = operation.axis % x.rank
    graph.freeze(x.axes[place], indices.axes[place])
    shape, axes = [*indices.shape], [*indices.axes]
    axes[place] = None
    for index, (n, axis) in enumerate(zip(x.shape, x.axes, strict=True)):
        if index == place or n == 1 != indices.shape[index]:
            continue
        shape[index] = n
        if indices.shape[index] != 1 or n == 1:
            # What is picked of a constant is this constant.
            joined = graph.join(axis, indices.axes[index])
            axis = joined if axis is None or joined is None else joined.having(axis.constants)
        axes[index] = axis
    return Tensor(shape, axes)


@rule(*operations("DepthToSpace"))
def _depth_to_space(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    index, axis = image_channels(graph, operation, x)
    width = x.shape[index] // operation.block_size**2
    if axis is None:
        return image_tensor(operation, x, index, None, width)
    # What comes to lie in one channel goes as a whole.
    rows = _numbered(operation, x, index, 1).reshape(width, -1)
    groups = np.empty(len(axis), "int64")
    groups[rows] = np.arange(width)[:, None]
    graph.merge(axis, groups)
    axis = Axis(axis.labels[rows[:, 0]], along(axis.constants[rows], 0))
    return image_tensor(operation, x, index, axis, width)


@rule(*operations("SpaceToDepth"))
def _space_to_depth(graph: ChannelGraph, operation: Any, x: Tensor) -> Tensor:
    index, axis = image_channels(graph, operation, x)
    numbers = _numbered(operation, x, index, operation.block_size).reshape(-1)
    axis = None if axis is None else axis.take(numbers)
    return image_tensor(operation, x, index, axis, len(numbers))


def _numbered(operation: Any, x: Tensor, index: int, side: int) -> np.ndarray:
    """The channels of an image, given their numbers, as the operation arranges them.

    Args:
        operation: the operation, which is run.
        x: the image.
        index: the axis of its channels, which comes first in the result.
        side: the height and width of the image that is arranged.
    """
    channels = cast("int", x.shape[index])  # the operation works on no other
    shape = [1 if i == 0 else side for i in range(x.rank)]
    shape[index] = -1
    image = np.arange(channels, dtype="float32").reshape(
        [n if i == index else 1 for i, n in enumerate(shape)]
    )
    shape[index] = channels
    result = operation.call(ops.convert_to_tensor(np.broadcast_to(image, shape)))
    numbers: np.ndarray = np.moveaxis(ops.convert_to_numpy(result), index, 0).astype("int64")
    return numbers
