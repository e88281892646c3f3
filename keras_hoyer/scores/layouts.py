"""Along which axis of a kernel the channels of its layer's input lie."""

import dataclasses
from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from keras import ops, tree

from keras_hoyer.weights import Weight

Fit = Callable[[np.ndarray], np.ndarray]


@dataclasses.dataclass(frozen=True)
class Read:
    """What a kernel is multiplied with in one call.

    Attributes:
        tensor: The input.
        axes: The axes of it that number what the kernel tells apart.
        fit: From an array along these axes to one that broadcasts to the kernel's shape.
        counts: In place of a tensor: how often each index of a table was looked up.
    """

    tensor: Any
    axes: tuple[int, ...]
    fit: Fit
    counts: np.ndarray | None = None


def reads_of(weight: Weight, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Iterator[Read]:
    """What a call of the kernel's layer multiplies it with; nothing where that is not known.

    Args:
        weight: The kernel.
        args: Positional arguments of the call of `weight.owner`.
        kwargs: Its other arguments.
    """
    layer = weight.owner
    given = [*args, *kwargs.values()]
    if not given:
        return
    x = given[0]
    if isinstance(layer, keras.layers.Embedding):
        reverse = kwargs.get("reverse", len(args) > 1 and args[1])
        yield from _of_table(weight, x, bool(reverse))
    elif isinstance(layer, keras.layers.EinsumDense):
        yield _of_einsum(layer, x)
    elif weight.variable.name == "recurrent_kernel":
        states = args[1] if len(args) > 1 else kwargs["states"]
        yield from _of_channels(weight, tree.flatten(states)[0])
    elif weight.variable.name == "pointwise_kernel":
        # What lies between the two kernels of the layer is the input of no layer.
        between = ops.depthwise_conv(
            x,
            layer.depthwise_kernel,
            strides=layer.strides,
            padding=layer.padding,
            data_format=layer.data_format,
            dilation_rate=layer.dilation_rate,
        )
        yield from _of_channels(weight, between)
    else:
        yield from _of_channels(weight, x)


def _of_channels(weight: Weight, x: Any) -> Iterator[Read]:
    """A kernel one of whose last two axes numbers the channels of its input."""
    layer, shape = weight.owner, weight.shape
    rank = len(getattr(x, "shape", ()))
    first = getattr(layer, "data_format", None) == "channels_first"
    axis = 1 if first else rank - 1
    if rank < 2 or len(shape) < 2:
        return
    channels, groups = x.shape[axis], getattr(layer, "groups", 1)
    transposed = (
        keras.layers.Conv1DTranspose,
        keras.layers.Conv2DTranspose,
        keras.layers.Conv3DTranspose,
    )
    if isinstance(layer, transposed):
        yield Read(x, (axis,), lambda r: r)
    elif shape[-2] == channels:
        yield Read(x, (axis,), lambda r: r[:, None])
    elif isinstance(groups, int) and shape[-2] * groups == channels:
        # Each group of outputs reads a group of inputs of its own.
        each = shape[-1] // groups
        yield Read(x, (axis,), lambda r: np.repeat(r.reshape(groups, -1).T, each, axis=1))


def _of_einsum(layer: Any, x: Any) -> Read:
    inputs, kernel = layer.equation.replace(" ", "").split("->")[0].split(",")
    before, _, after = inputs.partition("...")
    if "..." not in inputs:
        before, after = inputs, ""
    places = {label: index for index, label in enumerate(before)}
    places |= {label: index - len(after) for index, label in enumerate(after)}
    axes = tuple(places[label] for label in kernel if label in places)
    wide = tuple(slice(None) if label in places else None for label in kernel)
    return Read(x, axes, lambda r: r[wide])


def _of_table(weight: Weight, x: Any, reverse: bool) -> Iterator[Read]:
    """A table: as if multiplied with vectors that are one at the index and zero elsewhere."""
    name = weight.variable.name
    if reverse:  # the same table, or another one, makes logits
        if name == "reverse_embeddings":
            yield Read(x, (-1,), lambda r: r[:, None])
        elif not any(v.name == "reverse_embeddings" for v in weight.owner.variables):
            yield Read(x, (-1,), lambda r: r)
    elif name == "embeddings":
        indices = ops.convert_to_numpy(x).astype("int64").ravel()
        counts = np.bincount(indices, minlength=weight.shape[0])[: weight.shape[0]].astype(
            "float64"
        )
        yield Read(x, (), lambda r: r[:, None], counts)
