"""How many multiply-adds a model takes for one example, and how many are left without channels."""

import math
from collections.abc import Iterable, Sequence

import keras
import numpy as np

from keras_hoyer._checks import warn
from keras_hoyer.graph.axes import Axis, Cost
from keras_hoyer.graph.facts import title
from keras_hoyer.graph.groups import Group
from keras_hoyer.graph.unknown import costs_inside, has_kernels
from keras_hoyer.graph.walk import ChannelGraph


def count_flops(model: keras.Model) -> dict[str, int]:
    """Counts the multiply-adds of each layer for one example.

    Counted are products with kernels and of tensors with each other: dense, convolutional,
    recurrent and attention layers, and `keras.ops` like `matmul`. Biases, normalisation, pooling
    and activations are not. An axis of unknown length counts as one step. A layer that is called
    several times counts each call. A layer of your own counts as its rule says, see
    `graph.register_rule`, and without a rule as what it calls; where that cannot be seen, each
    entry of its kernels counts once and a warning names the layer.

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
    costs = Costs(ChannelGraph(model, values=False))
    notes = []
    if costs.without_rule:
        named = ", ".join(costs.without_rule)
        notes.append(f"No cut of channels can reach {named}: keras_hoyer has no rule for it.")
    if costs.at_least:
        notes.append(f"These multiply-adds are the least there can be. {costs.at_least}")
    if notes:
        warn(" ".join(notes))
    counts: dict[str, int] = {}
    for cost in costs.all:
        counts[cost.path] = counts.get(cost.path, 0) + cost.number
    return {path: number for path, number in counts.items() if number}


class Costs:
    """The account of a model's multiply-adds, as they follow from the channels that are left.

    Args:
        graph: The channels of the model, walked with `values=False`.
        groups: The groups of channels that may go. Defaults to none.

    Attributes:
        all: The multiply-adds of each call.
        without_rule: Layers with kernels that have no rule.
        at_least: What is left out, in words; empty if nothing is.
    """

    def __init__(self, graph: ChannelGraph, groups: Sequence[Group] = ()) -> None:
        self.all: list[Cost] = list(graph.calls.costs)
        unseen: list[str] = []
        without_rule: list[str] = []
        for call in graph.calls.unknown:
            costs, complete = costs_inside(call)
            self.all += costs
            if not complete:
                unseen.append(title(call.operation))
            if has_kernels(call.operation):
                without_rule.append(title(call.operation))
        self.without_rule = list(dict.fromkeys(without_rule))
        self.at_least = _at_least(unseen)
        self._channels = [group.channels for group in groups]
        group_of = np.full(len(graph.roots), -1)
        for number, group in enumerate(groups):
            group_of[group.roots] = number
        owners = group_of[graph.roots]
        self._sizes = _Products([cost.sizes for cost in self.all], owners, self._channels)
        self._uses = _Products([cost.uses for cost in self.all], owners, self._channels)

    @property
    def total(self) -> int:
        """The multiply-adds of the whole model."""
        return sum(cost.number for cost in self.all)

    def uses(self, channels: Sequence[int] | None = None) -> np.ndarray:
        """The product of each cost's `uses` where so many channels of each group are left."""
        return self._uses(self._channels if channels is None else channels)

    def counted_in_uses(self) -> np.ndarray:
        """Whether each group's channels number places of a kernel, or tensors' products."""
        counted: np.ndarray = np.any(self._uses.per_channel, axis=0)
        return counted

    def share(self, channels: Sequence[int]) -> float:
        """Share of the model's multiply-adds that is left where so many channels are."""
        left = (self._sizes(channels) * self._uses(channels)).sum()
        return float(left / self.total) if self.total else 1.0


class _Products:
    """Products of sizes, as they follow from how many channels of each group are left.

    Args:
        rows: The factors of each product; an `Axis` is as long as what is left of it.
        owners: The number of the group of each label, -1 for what stays.
        channels: How many channels each group has.
    """

    def __init__(
        self, rows: Sequence[Sequence[Axis | int]], owners: np.ndarray, channels: Sequence[int]
    ) -> None:
        self._fixed = np.array(
            [math.prod(n for n in row if not isinstance(n, Axis)) for row in rows], float
        )
        # For each axis how many of its places stay, and how many go with the channels of a group.
        known: dict[bytes, int] = {}
        lengths: list[np.ndarray] = []
        index: list[list[int]] = []
        for row in rows:
            index.append([])
            for axis in (factor for factor in row if isinstance(factor, Axis)):
                length = np.bincount(owners[axis.labels] + 1, minlength=len(channels) + 1)
                if length.tobytes() not in known:
                    known[length.tobytes()] = len(lengths)
                    lengths.append(length)
                index[-1].append(known[length.tobytes()])
        table = np.array(lengths).reshape(len(lengths), len(channels) + 1)
        self._stays = table[:, 0]
        self.per_channel = table[:, 1:] / np.maximum(channels, 1)
        width = max(map(len, index), default=0)
        # All rows are made as long as the longest with an axis of length one.
        padded = [row + [len(lengths)] * (width - len(row)) for row in index]
        self._index = np.array(padded, int).reshape(len(rows), width)

    def __call__(self, channels: Sequence[int]) -> np.ndarray:
        """The products where so many channels of each group are left."""
        lengths = self._stays + self.per_channel @ np.asarray(channels, float)
        factors = np.append(lengths, 1.0)[self._index]
        products: np.ndarray = self._fixed * factors.prod(axis=1)
        return products


def _at_least(unseen: Iterable[str]) -> str:
    names = ", ".join(dict.fromkeys(unseen))
    if not names:
        return ""
    return (
        f"What {names} does cannot be seen, so each entry of its kernels counts once. To have it "
        "counted in full, register a rule with `keras_hoyer.graph.register_rule`."
    )
