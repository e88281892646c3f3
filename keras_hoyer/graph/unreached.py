"""Which kernels no cut of channels can reach, and why."""

import math
from collections.abc import Sequence

import keras
import numpy as np

from keras_hoyer.graph.axes import FROZEN, Axis, Unknown
from keras_hoyer.graph.groups import Group
from keras_hoyer.graph.unknown import has_kernels
from keras_hoyer.graph.walk import ChannelGraph
from keras_hoyer.weights import Weight


class Unreached:
    """The kernels of a model that have no channel that could be removed.

    Args:
        graph: The channels of the model.
        kernels: The kernels in question.
        groups: The channels that can be removed. Defaults to all that are not fixed.
        chosen: Whether these were asked for by name, so that others are of no interest. Defaults to
            `False`.

    Attributes:
        reasons: For each such kernel what fixes its channels, for messages and reports.
    """

    def __init__(
        self,
        graph: ChannelGraph,
        kernels: Sequence[Weight],
        groups: Sequence[Group] | None = None,
        chosen: bool = False,
    ) -> None:
        self._graph = graph
        self._free = graph.roots != FROZEN
        if groups is not None:
            self._free = np.isin(graph.roots, [root for group in groups for root in group.roots])
        self._without_rule = {id(call.operation): call for call in graph.calls.unknown}
        reasons = {kernel: self._reason(kernel) for kernel in kernels}
        self.reasons = {kernel: reason for kernel, reason in reasons.items() if reason}
        # Layers without a rule that fix others, or have kernels that go by other names.
        fixing = {id(by) for by in graph.labels.fixed_by()}
        self._also = [
            self._no_rule(call)
            for key, call in self._without_rule.items()
            if not chosen and (key in fixing or has_kernels(call.operation))
        ]

    def __bool__(self) -> bool:
        return bool(self.reasons or self._also)

    @property
    def share(self) -> float:
        """Share of the model's parameters that is in these kernels."""
        size = sum(math.prod(kernel.shape) for kernel in self.reasons)
        return float(size / max(self._graph.model.count_params(), 1))

    def describe(self) -> str:
        """The layers by what fixes them."""
        layers: dict[str, list[str]] = {reason: [] for reason in self._also}
        for kernel, reason in self.reasons.items():
            layers.setdefault(reason, []).append(f"'{kernel.path.removesuffix(kernel.name)[:-1]}'")
        parts = []
        for reason, names in layers.items():
            named = ", ".join(dict.fromkeys(names))
            parts.append(f"{named} ({reason})" if named else reason)
        return "; ".join(parts)

    def message(self) -> str:
        """A warning's text that names all of them."""
        text = f"No cut can reach the channels of: {self.describe()}."
        if self.reasons:
            text += f" These kernels hold {self.share:.1%} of the model's parameters."
        if self._without_rule:
            text += (
                " All channels that touch a layer without a rule are kept. To let them be removed, "
                "register one with `keras_hoyer.graph.register_rule`."
            )
        return text

    def _reason(self, kernel: Weight) -> str | None:
        graph = self._graph
        known = graph.weights.get(id(kernel.variable))
        if known is None:
            for call in self._without_rule.values():
                if any(variable is kernel.variable for variable in _variables(call)):
                    return self._no_rule(call)
            return "it takes no part in the model's outputs"
        # What fixes the channels that it makes says more than what fixes those that it reads.
        order = sorted(range(len(known.axes)), key=lambda index: index in known.reads)
        return self._reason_of([known.axes[i] for i in order])

    def reason_of_outputs(self, kernel: Weight) -> str | None:
        """What fixes the channels that a kernel makes, whatever those are that it reads."""
        known = self._graph.weights.get(id(kernel.variable))
        if known is None:
            return self._reason(kernel)
        made = [a for i, a in enumerate(known.axes) if a is not None and i not in known.reads]
        return self._reason_of(made) if made else None

    def _reason_of(self, axes: Sequence[Axis | None]) -> str | None:
        """What fixes the channels along all of these axes; `None` if one is free."""
        graph = self._graph
        labels = [axis.labels for axis in axes if axis is not None]
        if any(self._free[graph.roots[line]].any() for line in labels):
            return None
        for line in labels:
            for by in graph.labels.reasons(line):
                if by is not None:
                    found = self._without_rule.get(id(by))
                    return self._no_rule(found) if found else f"fixed by {graph.title(by)}"
        if any((graph.roots[line] != FROZEN).any() for line in labels):
            return "its channels are made by layers that are not to be cut"
        return "what it reads is fixed"

    def _no_rule(self, call: Unknown) -> str:
        return f"no rule for {self._graph.title(call.operation)}{call.why}"


def _variables(call: Unknown) -> list[keras.Variable]:
    return call.operation.weights if isinstance(call.operation, keras.Layer) else []
