"""Which channels of which layers live and die together."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import keras
import numpy as np

import keras_hoyer.rules  # noqa: F401  its import registers the rules of Keras' layers
from keras_hoyer.channels import FROZEN, ChannelGraph, Weight, all_layers, register_rule

__all__ = ["Group", "Slice", "channel_groups", "register_rule"]


@dataclasses.dataclass(frozen=True, eq=False)
class Slice:
    """Where the channels of a group lie in one variable.

    Args:
        variable: the `keras.Variable`.
        axis: its axis that numbers the channels.
        indices: int array of shape `(channels, k)`: the `k` indices of each channel on that axis;
            `k` is more than one after a Flatten, or for the gates of an LSTM.
    """

    variable: Any
    axis: int
    indices: np.ndarray


@dataclasses.dataclass(frozen=True, eq=False)
class Group:
    """Channels that are alike: each of them lives and dies with the same slices of the tensors.

    Zeroing the `producing` slices of a channel makes it a constant; `shrink` then removes it from
    the producing, the consuming and the state slices.

    Args:
        name: the paths of the kernels that produce the channels.
        channels: how many channels the group has; any set of them can be removed.
        producing: kernels along their outputs, biases, and normalisation scales and shifts.
        consuming: kernels along their inputs.
        states: moving statistics and the like.
    """

    name: str
    channels: int
    producing: tuple[Slice, ...]
    consuming: tuple[Slice, ...]
    states: tuple[Slice, ...]


def channel_groups(
    model: keras.Model, layers: Sequence[str] | Callable[[Any], bool] | None = None
) -> list[Group]:
    """The channels of a model that can be removed, with all that goes with each.

    Args:
        model: a built Sequential or functional model, nested models included.
        layers: names of layers, or a predicate on a layer: only channels all of whose producing
            kernels belong to these. Default: all but those of embeddings.

    Returns:
        A list of `Group`, in the order of the layers.

    Raises:
        ValueError: if a name in `layers` is not a layer of the model, or the model's graph cannot
            be seen.

    Example:

    >>> import keras
    >>> model = keras.Sequential([
    ...     keras.Input((8, 8, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(),
    ...     keras.layers.Flatten(), keras.layers.Dense(10)])
    >>> [group] = channel_groups(model)
    >>> group.channels
    4
    >>> [(s.variable.name, s.axis) for s in group.producing]
    [('kernel', 3), ('bias', 0), ('gamma', 0), ('beta', 0)]
    >>> [(s.variable.name, s.axis, s.indices.shape) for s in group.consuming]
    [('kernel', 0, (4, 36))]
    """
    graph = ChannelGraph(model, values=False)
    owners = {id(v): layer for layer in all_layers(model) for v in layer.weights}
    chosen = _chosen(model, layers)
    places: dict[int, list[tuple[int, int]]] = {}  # root -> [(number of the place, index)]
    kinds: list[tuple[Weight, int]] = []
    for weight in graph.weights.values():
        for index, axis in enumerate(weight.axes):
            if axis is None:
                continue
            for position, root in enumerate(graph.roots[axis.labels].tolist()):
                if root != FROZEN:
                    places.setdefault(root, []).append((len(kinds), position))
            kinds.append((weight, index))
    alike: dict[tuple[int, ...], list[list[int]]] = {}
    for found in places.values():
        found.sort()
        numbers = tuple(number for number, _ in found)
        alike.setdefault(numbers, []).append([position for _, position in found])
    groups = []
    for numbers, rows in alike.items():
        table = np.array(rows)
        roles: dict[str, list[Slice]] = {"producing": [], "consuming": [], "states": []}
        for number in dict.fromkeys(numbers):
            weight, index = kinds[number]
            indices = table[:, [n == number for n in numbers]]
            producing = "states" if weight.state else "producing"
            role = "consuming" if index in weight.reads else producing
            roles[role].append(Slice(weight.variable, index, indices))
        kernels = [s.variable for s in roles["producing"] if len(s.variable.shape) > 1]
        if kernels and all(chosen(owners[id(v)]) for v in kernels):
            name = ", ".join(dict.fromkeys(v.path for v in kernels))
            groups.append(Group(name, len(rows), *(tuple(role) for role in roles.values())))
    return groups


def _chosen(
    model: keras.Model, layers: Sequence[str] | Callable[[Any], bool] | None
) -> Callable[[Any], bool]:
    if layers is None:
        return lambda layer: not isinstance(layer, keras.layers.Embedding)
    if callable(layers):
        return layers
    inside: dict[str, set[int]] = {}
    for layer in all_layers(model):
        inside.setdefault(layer.name, set()).update(
            id(x) for x in layer._flatten_layers(include_self=True, recursive=True)
        )
    unknown = [name for name in layers if name not in inside]
    if isinstance(layers, str) or unknown:
        raise ValueError(
            "Invalid value for argument `layers`. Expected a list of names of layers of the model, "
            f"or a predicate. Received: layers={layers}. Not layers of the model: {unknown}"
        )
    wanted = set().union(*(inside[name] for name in layers))
    return lambda layer: id(layer) in wanted
