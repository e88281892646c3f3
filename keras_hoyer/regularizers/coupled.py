"""Group penalties over channels that live and die together.

A channel of a residual stream, of a depthwise pair or of a concatenation is made and read by many
kernels, and can be removed only from all of them. Its group is all those weights, but Keras calls
one regularizer for one weight. So each kernel gets a part of the penalty: the parts hand in the
squared norms of their slices, and the last one to be called returns the penalty of them all.
"""

import uuid
import warnings
import weakref
from collections.abc import Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hoyer.graph import channel_groups
from keras_hoyer.regularizers import GroupPenalty, Penalty
from keras_hoyer.weights import LayerSelection, Weight, find_kernels

Slices = list[tuple[int, int, list[list[int]]]]


class _Round:
    """What the parts of one penalty have handed in since it was last computed."""

    def __init__(self) -> None:
        self.sums = {}
        self.warned = False


_rounds: weakref.WeakValueDictionary[str, _Round] = weakref.WeakValueDictionary()


@keras.saving.register_keras_serializable(package="keras_hoyer")
class CoupledPart(Penalty):
    """One kernel's part of a penalty over coupled channels; made by `regularize`.

    Args:
        penalty: The group penalty, whose measure is taken of each group's channel norms.
        key: String that the parts of one penalty share.
        part: Int, the number of this part.
        parts: Int, how many there are.
        sizes: List of ints: the number of channels of each group.
        slices: List of `(group, axis, indices)`: the kernel's `indices[c]` on `axis` belong to
            channel `c` of the group.
    """

    def __init__(
        self,
        penalty: GroupPenalty,
        key: str,
        part: int,
        parts: int,
        sizes: Sequence[int],
        slices: Slices,
    ) -> None:
        if isinstance(penalty, dict):
            penalty = keras.saving.deserialize_keras_object(penalty)
        super().__init__(penalty.factor)
        self.penalty = penalty
        self.key = key
        self.part = part
        self.parts = parts
        self.sizes = list(sizes)
        self.slices = slices
        self._round = _rounds.setdefault(key, _Round())

    def __call__(self, x: Any) -> Any:
        """Returns the whole penalty for the last part, and 0 for the others."""
        sums = self._round.sums
        if self.part in sums:
            self._warn_of_incomplete(len(sums))
            sums.clear()
        sums[self.part] = self._sums_of_squares(ops.cast(x, "float32"))
        if len(sums) < self.parts:
            return ops.zeros((), "float32")
        total = ops.zeros((), "float32")
        for group in range(len(self.sizes)):
            added = [part[group] for _, part in sorted(sums.items()) if group in part]
            total = total + self.penalty.measure_of_squares(sum(added[1:], added[0]))
        sums.clear()
        return self.factor * total

    def __repr__(self) -> str:
        return f"CoupledPart({self.penalty!r}, part {self.part + 1} of {self.parts})"

    def get_config(self) -> dict:
        """Returns the constructor's arguments as JSON values."""
        return {
            "penalty": keras.saving.serialize_keras_object(self.penalty),
            "key": self.key,
            "part": self.part,
            "parts": self.parts,
            "sizes": self.sizes,
            "slices": self.slices,
        }

    def _sums_of_squares(self, weights: Any) -> dict[int, Any]:
        """Sum of squares of each channel's weights in this kernel, by group."""
        squares = ops.square(weights)
        by_axis, sums = {}, {}
        for group, axis, indices in self.slices:
            if axis not in by_axis:
                others = tuple(i for i in range(len(weights.shape)) if i != axis)
                by_axis[axis] = ops.sum(squares, axis=others)
            slices = ops.take(by_axis[axis], np.asarray(indices, "int32"), axis=0)
            sums[group] = sums.get(group, 0.0) + ops.sum(slices, axis=-1)
        return sums

    def _warn_of_incomplete(self, received: int) -> None:
        if not self._round.warned:
            self._round.warned = True
            warnings.warn(
                f"The penalty over coupled channels saw {received} of its {self.parts} kernels and "
                "counts as zero: the other layers are frozen, or were left out when the model was "
                "saved. Call `regularize(..., groups='coupled')` again.",
                stacklevel=3,
            )


def couple(
    model: keras.Model, penalty: GroupPenalty, layers: LayerSelection
) -> list[tuple[Weight, CoupledPart]]:
    """Divides a penalty over the model's coupled channels into a part for each kernel.

    Raises:
        ValueError: If the penalty is no group penalty, or no channels can be seen.
    """
    if not isinstance(penalty, GroupPenalty) or penalty.pattern is not None or penalty.axis != -1:
        raise ValueError(
            "Invalid value for argument `regularizer`. With groups='coupled' the groups are those "
            "of the model's graph: expected a group penalty without `axis` and `pattern`, such as "
            f"`GroupHoyerSquare(1e-4)`. Received: regularizer={penalty!r}"
        )
    groups = channel_groups(model, layers)
    kernels = {id(kernel.variable): kernel for kernel in find_kernels(model, lambda layer: True)}
    slices: dict[int, Slices] = {}
    for number, group in enumerate(groups):
        for part in (*group.producing, *group.consuming):
            kernel = kernels.get(id(part.variable))
            if kernel is not None and kernel.is_kernel and part.variable.trainable:
                entry = (number, part.axis, part.indices.tolist())
                slices.setdefault(id(part.variable), []).append(entry)
    if not slices:
        raise ValueError(
            f"Model '{model.name}' has no channels that could be removed, so there is nothing for "
            "a penalty over coupled channels to act on."
        )
    key = uuid.uuid4().hex
    sizes = [group.channels for group in groups]
    return [
        (kernels[variable], CoupledPart(penalty, key, number, len(slices), sizes, entries))
        for number, (variable, entries) in enumerate(slices.items())
    ]
