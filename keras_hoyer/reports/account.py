"""What kernels cost, what is left of that, and which of them no cut of channels can reach."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import keras
import numpy as np

from keras_hoyer.graph import Group, Slice
from keras_hoyer.graph.channels import find_channels
from keras_hoyer.graph.costs import Costs
from keras_hoyer.weights import Weight, find_kernels, find_weights


@dataclass(frozen=True)
class GroupReport:
    """Channels that live and die together.

    Attributes:
        channels: How many there are; `shrink` can remove any of them.
        zero_channels: How many are zero, in all kernels that make them or in all that read them.
        made_by: Names of the layers that make them. Several have their outputs added up, or are
            otherwise bound to have the same channels.
        along: Names of layers with a weight for each channel, such as normalizations.
        read_by: Names of the layers that read them.
    """

    channels: int
    zero_channels: int
    made_by: tuple[str, ...]
    along: tuple[str, ...]
    read_by: tuple[str, ...]


class Account:
    """The multiply-adds of a model, as a report tells them.

    Args:
        model: A built Keras model.

    Raises:
        ValueError: If the model's graph cannot be seen.
    """

    def __init__(self, model: keras.Model) -> None:
        kernels = find_kernels(model, lambda layer: True)
        channels = find_channels(model, kernels)
        self._groups = channels.groups
        self._known: dict[tuple[int, int], np.ndarray] = {}
        self._weights = {id(w.variable): w for w in find_weights(model)}
        self._costs = Costs(channels.graph, channels.groups)
        self.at_least = self._costs.at_least
        self._fixed = {id(k.variable): why for k, why in channels.unreached.reasons.items()}
        self.outputs_fixed = channels.unreached.reason_of_outputs
        self._uses = self._costs.uses()
        self._alive = [self._count_alive(group, kernels) for group in channels.groups]
        counted = self._costs.counted_in_uses()
        left = zip(channels.groups, self._alive, counted, strict=True)
        self._uses_left = self._costs.uses([n if c else g.channels for g, n, c in left])

    def fixed(self, kernel: Weight) -> str | None:
        """Why no channel of a kernel can be removed, or `None` if some can."""
        return self._fixed.get(id(kernel.variable))

    def uses(self, kernel: Weight) -> tuple[int, int] | None:
        """How often each entry is multiplied, and how often where zero channels are gone."""
        mine = [cost.kernel is kernel.variable for cost in self._costs.all]
        if not any(mine) and "no rule" in (self.fixed(kernel) or ""):
            return None
        return round(self._uses[mine].sum()), round(self._uses_left[mine].sum())

    def rest(self, kernels: Sequence[Weight], everything: bool) -> tuple[int, int]:
        """The multiply-adds with anything but these kernels, and those that are left.

        Args:
            kernels: The kernels.
            everything: Whether to count those of the whole model, or only of these layers.
        """
        known = {id(kernel.variable) for kernel in kernels}
        paths = {f"{kernel.path.removesuffix(kernel.name)}" for kernel in kernels}
        whole, left = 0, 0
        for cost, uses, uses_left in zip(self._costs.all, self._uses, self._uses_left, strict=True):
            inside = everything or any(path.startswith(f"{cost.path}/") for path in paths)
            if id(cost.kernel) not in known and inside:
                whole += cost.number
                left += round(cost.number * uses_left / uses) if uses else 0
        return whole, left

    def groups(self, kernels: Sequence[Weight]) -> list[GroupReport]:
        """The channels that can be removed and that one of these kernels makes or reads."""
        asked = {id(kernel.variable) for kernel in kernels}
        return [
            self._describe(group, alive)
            for group, alive in zip(self._groups, self._alive, strict=True)
            if any(id(part.variable) in asked for part in (*group.producing, *group.consuming))
        ]

    def _describe(self, group: Group, alive: int) -> GroupReport:
        kernels = [part for part in group.producing if self._is_kernel(part)]
        made_by = self._layers(kernels)
        others = self._layers((*group.producing, *group.states))
        read_by = self._layers(group.consuming)
        along = tuple(name for name in others if name not in made_by)
        return GroupReport(group.channels, group.channels - alive, made_by, along, read_by)

    def _is_kernel(self, part: Slice) -> bool:
        weight = self._weights.get(id(part.variable))
        return weight is not None and weight.role != "other"

    def _layers(self, parts: Iterable[Slice]) -> tuple[str, ...]:
        names = []
        for part in parts:
            weight = self._weights.get(id(part.variable))
            if weight is None:
                names.append(part.variable.path.rpartition("/")[0])
            else:
                names.append(weight.path.removesuffix(weight.name).rstrip("/"))
        return tuple(dict.fromkeys(names))

    def _count_alive(self, group: Group, kernels: Sequence[Weight]) -> int:
        """How many channels are made and read by something that is not zero."""
        weights = {id(kernel.variable): kernel for kernel in kernels}
        stay = np.ones(group.channels, bool)
        for slices in (group.producing, group.consuming):
            parts = [part for part in slices if id(part.variable) in weights]
            found = [
                self._nonzero(weights[id(part.variable)], part.axis)[part.indices].any(axis=1)
                for part in parts
            ]
            if found:
                stay &= np.logical_or.reduce(found)
        return int(stay.sum())

    def _nonzero(self, kernel: Weight, axis: int) -> np.ndarray:
        """Which slices along an axis are not all zero; looked up once for all groups."""
        key = (id(kernel.variable), axis)
        if key not in self._known:
            values = kernel.read() != 0
            others = tuple(i for i in range(values.ndim) if i != axis)
            self._known[key] = values.any(axis=others)
        return self._known[key]
