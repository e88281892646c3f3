"""Channels and their labels: what lies along the axes of tensors and of weights."""

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

FROZEN = 0  # the label of every channel that has to stay


@dataclasses.dataclass(frozen=True, eq=False)
class Axis:
    """The channels along one axis of a tensor.

    Args:
        labels: int64 array of shape `(size,)`: the label of each channel.
        constants: float64 array of shape `(size,)`: the value that the channel has for every
            input of the model, at every position; NaN where it is not known to have one.
    """

    labels: np.ndarray
    constants: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def take(self, index: Any) -> "Axis":
        """The axis indexed like an array, labels and constants together."""
        return Axis(self.labels[index], self.constants[index])

    def repeat(self, count: int) -> "Axis":
        """Each channel `count` times in a row."""
        return Axis(np.repeat(self.labels, count), np.repeat(self.constants, count))

    def tile(self, count: int) -> "Axis":
        """The whole axis `count` times over."""
        return Axis(np.tile(self.labels, count), np.tile(self.constants, count))

    def forget(self) -> "Axis":
        """The same channels, none of them known to be constant."""
        return self.having(np.nan)

    def having(self, constants: np.ndarray | float) -> "Axis":
        """The same channels with other constants."""
        constants = np.broadcast_to(np.asarray(constants, "float64"), self.labels.shape)
        return Axis(self.labels, constants)


class Tensor:
    """A tensor of the model as a rule sees it.

    Args:
        shape: tuple of ints and None, the batch axis included.
        axes: one `Axis` or None for each axis; None where no channel can be removed.
        sizes: the shape in this call, where the model that is walked was built for another one.
            Defaults to `shape`.
        variable: the variable that it is the value of, if it is one.
    """

    def __init__(
        self,
        shape: Sequence[int | None],
        axes: Sequence[Axis | None] = (),
        sizes: Sequence[int | None] | None = None,
        variable: Any = None,
    ) -> None:
        self.shape = tuple(shape)
        self.axes = tuple(axes) or (None,) * len(self.shape)
        self.sizes = self.shape if sizes is None else tuple(sizes)
        self.variable = variable
        if len(self.axes) != len(self.shape):
            raise ValueError(
                "Invalid value for argument `axes`. Expected one entry for each axis of shape "
                f"{self.shape}. Received: {len(self.axes)} entries"
            )

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def labelled(self) -> list[Axis]:
        """The axes that carry channels."""
        return [axis for axis in self.axes if axis is not None]

    def places(self, *without: int) -> list[Axis | int]:
        """What numbers the places of one example: all axes but the batch and those `without`.

        An axis of unknown size counts as one place.
        """
        left_out = {0, *(index % self.rank for index in without)}
        pairs = enumerate(zip(self.sizes, self.axes, strict=True))
        return [
            (n or 1) if axis is None else axis
            for index, (n, axis) in pairs
            if index not in left_out
        ]

    def replace(self, index: int, axis: Axis | None) -> "Tensor":
        """The tensor with another axis at `index`, and constants forgotten along the others."""
        index %= self.rank
        axes = [None if a is None else a.forget() for a in self.axes]
        axes[index] = axis
        shape = list(self.shape)
        if axis is not None:
            shape[index] = len(axis)
        return Tensor(shape, axes)


@dataclasses.dataclass(frozen=True, eq=False)
class WeightAxes:
    """A variable and the channels along its axes.

    Args:
        variable: the `keras.Variable`.
        axes: for each axis its `Axis`, or None.
        reads: the axes along which the variable reads channels that others produce.
        state: whether it is kept by the layer and not trained (moving statistics).
    """

    variable: Any
    axes: tuple[Axis | None, ...]
    reads: tuple[int, ...]
    state: bool

    @property
    def sizes(self) -> tuple[Axis | int, ...]:
        """For each axis its `Axis`, or how long it is."""
        pairs = zip(self.variable.shape, self.axes, strict=True)
        return tuple(n if axis is None else axis for n, axis in pairs)


@dataclasses.dataclass(frozen=True, eq=False)
class Cost:
    """Multiply-adds for one example.

    Args:
        path: the layer or operation, within the model.
        uses: how often each entry of the kernel is multiplied, or how many entries tensors have
            that are multiplied with each other; as factors, of which an `Axis` stands for the
            channels along it.
        kernel: the variable that takes part, or None for a product of tensors with each other.
        sizes: the sizes of the kernel, or the `Axis` for those that number channels.
    """

    path: str
    uses: tuple[Axis | int, ...]
    kernel: Any = None
    sizes: tuple[Axis | int, ...] = ()

    @property
    def number(self) -> int:
        """The number before anything is removed."""
        factors = (*self.sizes, *self.uses)
        return math.prod(len(f) if isinstance(f, Axis) else f for f in factors)


@dataclasses.dataclass(frozen=True, eq=False)
class Unknown:
    """A call without a rule.

    Args:
        path: the layer or operation, within the model.
        operation: itself.
        why: what its rule cannot do, for messages; empty if it has none.
        args: its arguments, with symbolic tensors of the sizes of this call.
        kwargs: likewise.
        outputs: the shapes of its outputs.
        repeats: how many times it is called for one example.
    """

    path: str
    operation: Any
    why: str
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    outputs: Sequence[tuple[int | None, ...]]
    repeats: int


@dataclasses.dataclass(frozen=True, eq=False)
class Read:
    """A place where the channels of an axis are used up.

    Args:
        axis: the channels that are read.
        used: bool array whose first axis is `axis` and whose others are `outputs`: whether the
            output depends on the channel. None: it always does.
        outputs: the `Axis` or None of the further axes of `used`.
        shift: gets a constant for each channel and returns what these add to the outputs, if that
            is the same everywhere. None: only a zero can be left out.
        layer: the layer whose bias takes up constants.
        bias: its bias variable, or None if it has none yet and can have one.
    """

    axis: Axis
    used: np.ndarray | None = None
    outputs: tuple[Axis | None, ...] = ()
    shift: Callable[[np.ndarray], np.ndarray] | None = None
    layer: Any = None
    bias: Any = None


def along(values: np.ndarray, axis: int) -> np.ndarray:
    """The value of each slice along `axis` that has one value only, NaN for the others."""
    rows = np.moveaxis(values, axis, 0).reshape(values.shape[axis], -1)
    return np.where((rows == rows[:, :1]).all(axis=1), rows[:, 0], np.nan)
