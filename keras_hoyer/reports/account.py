"""What kernels cost, what is left of that, and which of them no cut of channels can reach."""

from collections.abc import Sequence

import keras
import numpy as np

from keras_hoyer.graph import Group
from keras_hoyer.graph.channels import find_channels
from keras_hoyer.graph.costs import Costs
from keras_hoyer.weights import Weight, find_kernels


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
        self._costs = Costs(channels.graph, channels.groups)
        self.at_least = self._costs.at_least
        self._fixed = {id(k.variable): why for k, why in channels.unreached.reasons.items()}
        self._uses = self._costs.uses()
        self._uses_left = self._costs.uses(self._alive(channels.groups, kernels))

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

    def _alive(self, groups: Sequence[Group], kernels: Sequence[Weight]) -> list[int]:
        """How many channels of each group are made and read by something that is not zero."""
        weights = {id(kernel.variable): kernel for kernel in kernels}
        counted = self._costs.counted_in_uses()
        alive = []
        for group, matters in zip(groups, counted, strict=True):
            stay = np.ones(group.channels, bool)
            for slices in (group.producing, group.consuming) if matters else ():
                parts = [part for part in slices if id(part.variable) in weights]
                found = [
                    _nonzero(weights[id(part.variable)], part.axis)[part.indices].any(axis=1)
                    for part in parts
                ]
                if found:
                    stay &= np.logical_or.reduce(found)
            alive.append(int(stay.sum()))
        return alive


def _nonzero(kernel: Weight, axis: int) -> np.ndarray:
    """Which slices along an axis are not all zero."""
    values = kernel.read() != 0
    others = tuple(i for i in range(values.ndim) if i != axis)
    alive: np.ndarray = values.any(axis=others)
    return alive
