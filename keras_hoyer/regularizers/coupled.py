"""Group penalties over channels that live and die together.

A channel of a residual stream, of a depthwise pair or of a concatenation is made and read by many
kernels, and can be removed only from all of them. Its group is all those weights, but Keras calls
one regularizer for one weight. So each kernel gets a part of the penalty. Of each group, the part
of the first kernel that is being trained computes the penalty, and reads the other kernels itself:
there is nothing that one call would have to leave for another.
"""

import uuid
from collections.abc import Mapping, Sequence
from typing import Any

import keras
import numpy as np
from keras import ops

from keras_hoyer._keras import variables_whose_losses_are_read
from keras_hoyer.graph import channel_groups
from keras_hoyer.plain import LayerSelection
from keras_hoyer.regularizers.base import Penalty
from keras_hoyer.regularizers.groups import GroupPenalty
from keras_hoyer.regularizers.paths import PathNorm
from keras_hoyer.weights import Weight, find_kernels

CouplingPenalty = GroupPenalty | PathNorm

# Of a kernel, by its name within its layer: `(group, axis, indices, side)`, where `indices[c]` on
# `axis` belong to channel `c` of the group; the side is 1 where a penalty with two sides finds what
# reads a channel, else 0.
Slices = list[tuple[int, int, list[list[int]], int]]

_ADVICE = (
    "Call `keras_hoyer.regularize(model, ..., groups='coupled')` on the model as it is now, or "
    "`keras_hoyer.strip(model)` to go on without the penalty."
)


@keras.saving.register_keras_serializable(package="keras_hoyer")
class CoupledPart(Penalty):
    """One kernel's part of a penalty over coupled channels; made by `regularize`.

    A part that comes from a config knows no kernels yet. It finds them when the losses of the model
    that holds them all are read for the first time.

    Args:
        penalty: The penalty that couples, whose measure is taken of each group's channel norms.
        key: String that the parts of one penalty share.
        kernels: Int, how many kernels the penalty has.
        slices: Dict from a kernel's name within its layer to its slices. The parts of an attention
            layer share one config, which names several kernels.

    Raises:
        ValueError: When called, if the other kernels cannot be found.
    """

    can_be_steered = True  # if its penalty can

    def __init__(
        self,
        penalty: CouplingPenalty | dict[str, Any],
        key: str,
        kernels: int,
        slices: Mapping[str, Slices],
    ) -> None:
        self.penalty: GroupPenalty = (
            keras.saving.deserialize_keras_object(penalty) if isinstance(penalty, dict) else penalty
        )
        super().__init__(self.penalty.factor)
        self.steered = self.penalty.steered
        self.key = key
        self.kernels = kernels
        self.slices = dict(slices)
        self._variable: keras.Variable | None = None
        self._coupling: _Coupling | None = None

    def __call__(self, x: Any) -> Any:
        """Returns the penalty of the groups that this kernel speaks for, a scalar tensor."""
        if self._coupling is None:
            return self._bind()(x)
        return self.penalty.weigh(self._coupling.measure(self, ops.convert_to_tensor(x)))

    def __deepcopy__(self, memo: dict[int, Any]) -> "CoupledPart":
        """A part without kernels: a copy of a layer has no copies of the other layers."""
        return type(self)(**self._arguments())

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), tuple(self._arguments().values())

    def __repr__(self) -> str:
        return f"CoupledPart({self.penalty!r}, of {self.kernels} kernels)"

    def get_config(self) -> dict[str, Any]:
        """Returns the constructor's arguments as JSON values."""
        return {
            **self._arguments(),
            "penalty": keras.saving.serialize_keras_object(self.penalty),
        }

    def bind(self, variable: keras.Variable, coupling: "_Coupling") -> None:
        """Tells the part which kernel it is of, and what the others are."""
        self._variable = variable
        self._coupling = coupling

    @property
    def active(self) -> bool:
        """Whether Keras calls the part: its kernel is being trained and still has it."""
        variable = self._variable
        return variable is not None and bool(variable.trainable) and variable.regularizer is self

    def _arguments(self) -> dict[str, Any]:
        names = ("penalty", "key", "kernels", "slices")
        return {name: getattr(self, name) for name in names}

    def _bind(self) -> "CoupledPart":
        """Finds all kernels of the penalty; returns the part of the kernel that is asked for."""
        variables, asked = variables_whose_losses_are_read()
        found = [v for v in variables if getattr(v.regularizer, "key", None) == self.key]
        parts = [variable.regularizer._part_of(variable) for variable in found]
        if len(found) != self.kernels or None in parts or asked is None:
            raise ValueError(
                f"A penalty over coupled channels reaches over {self.kernels} kernels, of which "
                f"{len(found)} are in what was asked for its losses. It was loaded or copied, and "
                f"finds its kernels when the losses of the whole model are read. {_ADVICE}"
            )
        for variable, part in zip(found, parts, strict=True):
            variable.regularizer = part
        _Coupling(self.penalty, parts, found)
        mine: CoupledPart = asked.regularizer
        return mine

    def _part_of(self, variable: keras.Variable) -> "CoupledPart | None":
        """A part for one kernel of those that a config names; `None` if it does not name it."""
        path = f"/{variable.path}"
        named = [name for name in self.slices if path.endswith(f"/{name}")]
        if not named:
            return None
        slices = {named[0]: self.slices[named[0]]}
        return type(self)(self.penalty, self.key, self.kernels, slices)


class _Coupling:
    """What the parts of one penalty have in common: which slices make each group.

    Args:
        penalty: the group penalty.
        parts: the part of each kernel, which is bound to it.
        variables: the kernels.
    """

    def __init__(
        self,
        penalty: CouplingPenalty,
        parts: Sequence[CoupledPart],
        variables: Sequence[keras.Variable],
    ) -> None:
        self.penalty = penalty
        self.groups: dict[int, list[tuple[CoupledPart, int, np.ndarray | None, int]]] = {}
        for part, variable in zip(parts, variables, strict=True):
            part.bind(variable, self)
            [slices] = part.slices.values()
            for group, axis, indices, *sides in slices:
                size = variable.shape[axis]
                whole = np.array_equal(np.ravel(indices), np.arange(size)) and len(indices) == size
                table = None if whole else np.asarray(indices, "int32")
                side = sides[0] if sides else 0  # files of version 0.1 have none
                self.groups.setdefault(group, []).append((part, axis, table, side))

    def measure(self, speaker: CoupledPart, weights: Any) -> Any:
        """The measure of the groups whose first active part is `speaker`, a float32 scalar.

        Args:
            speaker: the part that was called.
            weights: its kernel as it was handed to it.
        """
        total = ops.zeros((), "float32")
        read: dict[int, Any] = {id(speaker): weights}
        sums: dict[tuple[int, int], Any] = {}
        for slices in self.groups.values():
            if next((part for part, *_ in slices if part.active), None) is not speaker:
                continue
            squares = [0.0] * self.penalty.sides
            for part, axis, indices, side in slices:
                if (id(part), axis) not in sums:
                    sums[id(part), axis] = _sums_of_squares(read, part, axis)
                found = sums[id(part), axis]
                if indices is not None:
                    found = ops.sum(ops.take(found, indices, axis=0), axis=-1)
                squares[side] = squares[side] + found
            total = total + self.penalty.measure_of_squares(*squares)
        return total


def _sums_of_squares(read: dict[int, Any], part: CoupledPart, axis: int) -> Any:
    """Sum of squares of each slice of a kernel along `axis`; `read` keeps what was read of them."""
    if id(part) not in read:
        read[id(part)] = ops.convert_to_tensor(part._variable)
    weights = ops.cast(read[id(part)], "float32")
    others = tuple(i for i in range(len(weights.shape)) if i != axis)
    return ops.sum(ops.square(weights), axis=others)


def couple(
    model: keras.Model, penalty: object, layers: LayerSelection
) -> list[tuple[Weight, CoupledPart]]:
    """Divides a penalty over the model's coupled channels into a part for each kernel.

    Raises:
        ValueError: If the penalty cannot be coupled, or no channels can be seen.
    """
    if not isinstance(penalty, CouplingPenalty) or not penalty.couples:
        raise ValueError(
            "Invalid value for argument `regularizer`. With groups='coupled' the groups are those "
            "of the model's graph: expected a group penalty without `axis` and `pattern`, such as "
            f"`GroupHoyerSquare(1e-4)`. Received: regularizer={penalty!r}"
        )
    groups = channel_groups(model, layers)
    kernels = {id(kernel.variable): kernel for kernel in find_kernels(model, lambda layer: True)}
    slices: dict[int, Slices] = {}
    for number, group in enumerate(groups):
        if penalty.sides > 1 and not _has_kernels(group.consuming, kernels):
            continue  # nothing reads it: all its paths weigh nothing
        for side, found in enumerate((group.producing, group.consuming)):
            for part in found:
                kernel = kernels.get(id(part.variable))
                if kernel is not None and kernel.is_kernel:
                    entry = (number, part.axis, part.indices.tolist(), side % penalty.sides)
                    slices.setdefault(id(part.variable), []).append(entry)
    if not slices:
        raise ValueError(
            f"Model '{model.name}' has no channels that could be removed, so there is nothing for "
            "a penalty over coupled channels to act on."
        )
    key = uuid.uuid4().hex
    chosen = [kernels[variable] for variable in slices]
    parts = [
        CoupledPart(penalty, key, len(slices), {kernel.name: entries})
        for kernel, entries in zip(chosen, slices.values(), strict=True)
    ]
    _Coupling(penalty, parts, [kernel.variable for kernel in chosen])
    return list(zip(chosen, parts, strict=True))


def _has_kernels(parts: Sequence[Any], kernels: Mapping[int, Weight]) -> bool:
    """Whether slices are of a kernel, not of biases and scales alone."""
    found = (kernels.get(id(part.variable)) for part in parts)
    return any(kernel is not None and kernel.is_kernel for kernel in found)


def keep_in_configs(chosen: Sequence[tuple[Weight, CoupledPart]]) -> None:
    """Puts the parts of layers that have one config for several kernels together into it."""
    shared: dict[tuple[int, str], list[tuple[Weight, CoupledPart]]] = {}
    for kernel, part in chosen:
        if len(kernel.carriers) > 1:
            shared.setdefault((id(kernel.carriers[0][0]), kernel.carriers[0][1]), []).append(
                (kernel, part)
            )
    for found in shared.values():
        kernel, part = found[0]
        slices = {name: entry for _, each in found for name, entry in each.slices.items()}
        layer, prefix = kernel.carriers[0]
        whole = CoupledPart(part.penalty, part.key, part.kernels, slices)
        setattr(layer, f"{prefix}_regularizer", whole)
