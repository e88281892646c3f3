"""The channels of a model: those that can be removed, and what stays."""

import dataclasses
from collections.abc import Sequence

import keras

from keras_hoyer._checks import warn
from keras_hoyer.graph.groups import Group, groups_of
from keras_hoyer.graph.unreached import Unreached
from keras_hoyer.graph.walk import ChannelGraph
from keras_hoyer.plain import LayerSelection
from keras_hoyer.weights import Weight, find_kernels


def channel_groups(model: keras.Model, layers: LayerSelection = None) -> list[Group]:
    """The channels of a model that can be removed, with all that goes with each.

    Args:
        model: a built Sequential or functional model, nested models included.
        layers: List of layer names (a nested model's name stands for all its layers), or a
            function from a layer to a bool: only channels all of whose producing kernels belong to
            these. Defaults to `None`: all but those of embeddings.

    Returns:
        A list of `Group`, in the order of the layers. A warning names the layers that have no
        channel that could be removed, and why.

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
    channels = find_channels(model, find_kernels(model, layers), chosen=layers is not None)
    if channels.unreached:
        warn(channels.unreached.message())
    return channels.groups


@dataclasses.dataclass(frozen=True, eq=False)
class Channels:
    """The channels of a model.

    Args:
        graph: which live and die together.
        groups: those that can be removed.
        unreached: the kernels that have none of these.
    """

    graph: ChannelGraph
    groups: list[Group]
    unreached: Unreached


def find_channels(model: keras.Model, kernels: Sequence[Weight], chosen: bool = False) -> Channels:
    """The channels of a model, and which of the kernels have none that could be removed.

    Args:
        model: a built model.
        kernels: those that may be cut.
        chosen: whether these were asked for by name, so that others are of no interest.
    """
    graph = ChannelGraph(model, values=False)
    groups = groups_of(graph, kernels)
    return Channels(graph, groups, Unreached(graph, kernels, groups, chosen))
