"""Which channels of which layers live and die together."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

from keras_hoyer.graph.axes import FROZEN, Axis, WeightAxes
from keras_hoyer.graph.walk import ChannelGraph
from keras_hoyer.weights import Weight, find_weights


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
        roots: int array of shape `(channels,)`: the label of each channel in the graph.
    """

    name: str
    channels: int
    producing: tuple[Slice, ...]
    consuming: tuple[Slice, ...]
    states: tuple[Slice, ...]
    roots: np.ndarray


def groups_of(graph: ChannelGraph, kernels: Sequence[Weight]) -> list[Group]:
    """The channels that can be removed and all of whose producing kernels are among `kernels`."""
    known = {
        id(w.variable): w.path
        for w in find_weights(graph.model)
        if w.is_kernel or w.name == "embeddings"
    }
    known.update((id(w.variable), w.path) for w in kernels)
    chosen = {id(w.variable) for w in kernels}
    kinds = _kinds(graph)
    places: dict[int, list[tuple[int, int]]] = {}  # root -> [(number of the place, index)]
    for number, (_, _, axis) in enumerate(kinds):
        for position, root in enumerate(graph.roots[axis.labels].tolist()):
            if root != FROZEN:
                places.setdefault(root, []).append((number, position))
    alike: dict[tuple[int, ...], list[tuple[int, list[int]]]] = {}
    for root, found in places.items():
        found.sort()
        numbers = tuple(number for number, _ in found)
        alike.setdefault(numbers, []).append((root, [position for _, position in found]))
    groups = []
    for numbers, members in alike.items():
        table = np.array([positions for _, positions in members])
        roles: dict[str, list[Slice]] = {"producing": [], "consuming": [], "states": []}
        for number in dict.fromkeys(numbers):
            weight, index, _ = kinds[number]
            if weight is None:
                continue
            indices = table[:, [n == number for n in numbers]]
            producing = "states" if weight.state else "producing"
            role = "consuming" if index in weight.reads else producing
            roles[role].append(Slice(weight.variable, index, indices))
        made_by = [id(s.variable) for s in roles["producing"] if id(s.variable) in known]
        if made_by and chosen.issuperset(made_by):
            name = ", ".join(dict.fromkeys(known[kernel] for kernel in made_by))
            roots = np.array([root for root, _ in members])
            made, read, kept = map(tuple, roles.values())
            groups.append(Group(name, len(members), made, read, kept, roots))
    return groups


def _kinds(graph: ChannelGraph) -> list[tuple[WeightAxes | None, int, Axis]]:
    """The places where channels can lie: along an axis of a weight, or as a factor of a cost."""
    kinds: list[tuple[WeightAxes | None, int, Axis]] = []
    for weight in graph.weights.values():
        axes = enumerate(weight.axes)
        kinds.extend((weight, index, axis) for index, axis in axes if axis is not None)
    for cost in graph.calls.costs:
        # Channels that are alike cost alike.
        kinds.extend((None, 0, axis) for axis in cost.uses if isinstance(axis, Axis))
    return kinds
