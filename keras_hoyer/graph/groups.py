"""Which channels of which layers live and die together."""

import dataclasses
from typing import Any

import keras
import numpy as np

from keras_hoyer.graph.axes import FROZEN, WeightAxes
from keras_hoyer.graph.walk import ChannelGraph
from keras_hoyer.weights import LayerSelection, find_kernels, find_weights


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
        name: the layers and names of the kernels that produce the channels.
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


def channel_groups(model: keras.Model, layers: LayerSelection = None) -> list[Group]:
    """The channels of a model that can be removed, with all that goes with each.

    Args:
        model: a built Sequential or functional model, nested models included.
        layers: List of layer names (a nested model's name stands for all its layers), or a
            function from a layer to a bool: only channels all of whose producing kernels belong to
            these. Defaults to `None`: all but those of embeddings.

    Returns:
        A list of `Group`, in the order of the layers.

    Raises:
        ValueError: If a layer name does not exist, the model is not built, or its graph cannot be
            seen.

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
    known = {
        id(w.variable): w.path for w in find_weights(model) if w.is_kernel or w.name == "embeddings"
    }
    chosen = {id(w.variable) for w in find_kernels(model, layers)}
    places: dict[int, list[tuple[int, int]]] = {}  # root -> [(number of the place, index)]
    kinds: list[tuple[WeightAxes, int]] = []
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
        kernels = [id(s.variable) for s in roles["producing"] if id(s.variable) in known]
        if kernels and chosen.issuperset(kernels):
            name = ", ".join(dict.fromkeys(known[kernel] for kernel in kernels))
            groups.append(Group(name, len(rows), *(tuple(role) for role in roles.values())))
    return groups
