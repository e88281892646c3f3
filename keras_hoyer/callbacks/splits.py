"""The units of a model as what a proximal operator is applied to.

A *piece* is what an operator sees of one weight: a kernel as it is, or, of coupled channels, a
matrix with a row for each channel. Channels of neighbouring layers overlap, since a kernel belongs
to those that it makes and to those that it reads: it then has two pieces.
"""

from collections.abc import Sequence
from typing import Any, Protocol, cast

import keras
import numpy as np
from keras import ops

from keras_hoyer.graph import Slice
from keras_hoyer.proximal.choice import Chosen
from keras_hoyer.units import ChannelUnits, ModelUnits
from keras_hoyer.weights import Weight, find_weights

Pieces = list[Any]


class Splits(Protocol):
    """All units of a model, for a proximal operator.

    Attributes:
        kernels: The kernels that have pieces.
        counts: For each, an array that broadcasts to it: how many pieces each weight is in.
    """

    kernels: list[Weight]
    counts: list[np.ndarray]

    def read(self) -> Pieces:
        """The pieces of the kernels as they are now."""

    def shrink(self, pieces: Pieces, strength: float) -> Pieces:
        """The operator of the penalty times `strength`, of each piece or group of pieces."""

    def mean(self, pieces: Pieces) -> list[Any]:
        """For each kernel the mean over the pieces that a weight is in; 0 where it is in none."""

    def step(self, strength: float) -> None:
        """Shrinks the kernels themselves."""

    def alive(self, pieces: Pieces) -> list[np.ndarray]:
        """For each entry of the units, which of them are not zero."""


def find_splits(model: keras.Model, units: ModelUnits, penalty: Chosen) -> Splits:
    """The pieces of the units of a model.

    Raises:
        ValueError: If a kernel that has pieces is frozen.
    """
    splits: Splits
    if units.pattern.whole_channels:
        splits = ChannelSplits(units, penalty, find_weights(model))
    else:
        splits = KernelSplits(units, penalty)
    frozen = [kernel for kernel in splits.kernels if not kernel.variable.trainable]
    if frozen:
        free = sorted({k.layer.name for k in units.kernels} - {k.layer.name for k in frozen})
        raise ValueError(
            "There is nothing to gain by a penalty on kernels that are frozen: "
            f"{', '.join(kernel.path for kernel in frozen)}. "
            + (f"Choose the layers that train: layers={free}" if free else "Unfreeze them first.")
        )
    return splits


class KernelSplits:
    """Each kernel by itself, for the patterns that divide kernels."""

    def __init__(self, units: ModelUnits, penalty: Chosen) -> None:
        self.kernels = list(units.kernels)
        self.counts: list[np.ndarray] = [np.ones((1,) * len(k.shape)) for k in self.kernels]
        self._pattern: Any = units.pattern
        self._penalty = penalty
        self._units: dict[int, np.ndarray | None] = {}

    def read(self) -> Pieces:
        """The kernels."""
        return [_on_device(kernel) for kernel in self.kernels]

    def shrink(self, pieces: Pieces, strength: float) -> Pieces:
        """The operator, of each kernel."""
        return [self._shrink(number, piece, strength) for number, piece in enumerate(pieces)]

    def mean(self, pieces: Pieces) -> list[Any]:
        """The pieces: each kernel has one."""
        return pieces

    def step(self, strength: float) -> None:
        """Shrinks the kernels themselves."""
        for kernel, piece in zip(self.kernels, self.shrink(self.read(), strength), strict=True):
            kernel.variable.assign(piece)

    def alive(self, pieces: Pieces) -> list[np.ndarray]:
        """For each kernel, which of its units are not zero."""
        return [self._pattern.scores(_to_numpy(piece)) > 0 for piece in pieces]

    def _shrink(self, number: int, piece: Any, strength: float) -> Any:
        if self._pattern.has_groups:
            return self._penalty(piece, strength, pattern=self._pattern)
        unit = self._unit_of(number)
        if unit is None and self._pattern.max_sparsity >= 1:
            return self._penalty(piece, strength)
        values = _to_numpy(piece)
        scores = self._pattern.scores(values.copy()).reshape(-1)
        unit = np.arange(scores.size).reshape(values.shape) if unit is None else unit
        squares = np.bincount(unit.reshape(-1), np.square(values, dtype="float64").reshape(-1))
        norms = np.sqrt(squares)
        # Units that the pattern keeps stand outside of the penalty.
        free = np.isfinite(scores)
        shrunk = _to_numpy(self._penalty(np.where(free, norms, 0).astype("float32"), strength))
        factors = np.divide(shrunk, norms, out=np.zeros_like(norms), where=norms > 0)
        factors = np.where(free, factors, 1.0)[unit]
        return ops.convert_to_tensor(
            np.where(factors > 0, values * factors, 0).astype(values.dtype)
        )

    def _unit_of(self, number: int) -> np.ndarray | None:
        """The unit of each weight of a kernel; `None` where each weight is one, in order."""
        if number not in self._units:
            shape = self.kernels[number].shape
            scores = self._pattern.scores(np.ones(shape, "float32"))
            numbers = np.arange(scores.size).reshape(scores.shape)
            unit = np.zeros(shape, "int64")
            # A pattern expands what is true or false, so bit by bit.
            for bit in range(max(scores.size - 1, 1).bit_length()):
                on = (numbers >> bit & 1).astype(bool)
                unit |= self._pattern.expand(on, shape).astype("int64") << bit
            self._units[number] = None if scores.size == unit.size else unit
        return self._units[number]


class ChannelSplits:
    """Channels that live and die together, over all kernels that make or read them."""

    def __init__(self, units: ModelUnits, penalty: Chosen, weights: Sequence[Weight]) -> None:
        known = {id(weight.variable): weight for weight in weights if weight.is_kernel}
        self._pattern: Any = units.pattern
        self._penalty = penalty
        self._groups: list[list[Slice]] = [
            [
                part
                for part in (*entry.group.producing, *entry.group.consuming)
                if id(part.variable) in known
            ]
            for entry in cast("Sequence[ChannelUnits]", units)
        ]
        self._slices = [part for group in self._groups for part in group]
        found = dict.fromkeys(id(part.variable) for part in self._slices)
        self.kernels = [known[variable] for variable in found]
        counts = {id(kernel.variable): np.zeros(kernel.shape) for kernel in self.kernels}
        for part in self._slices:
            np.moveaxis(counts[id(part.variable)], part.axis, 0)[part.indices.reshape(-1)] += 1
        self.counts: list[np.ndarray] = list(counts.values())

    def read(self) -> Pieces:
        """For each channel group, a matrix of each of its kernels."""
        values = self._values()
        return [_take(values[id(part.variable)], part) for part in self._slices]

    def shrink(self, pieces: Pieces, strength: float) -> Pieces:
        """The operator, of the joint norms of each channel group."""
        left = iter(pieces)
        return [
            new
            for group in self._groups
            for new in self._shrink([next(left) for _ in group], strength)
        ]

    def mean(self, pieces: Pieces) -> list[Any]:
        """For each kernel the mean over the pieces that a weight is in."""
        totals = {id(kernel.variable): np.zeros(kernel.shape) for kernel in self.kernels}
        for part, piece in zip(self._slices, pieces, strict=True):
            total = totals[id(part.variable)]
            _put(total, part, _take(total, part) + piece)
        pairs = zip(totals.values(), self.counts, strict=True)
        return [total / np.maximum(count, 1) for total, count in pairs]

    def step(self, strength: float) -> None:
        """Shrinks the kernels themselves, one channel group after the other."""
        values = self._values()
        for group in self._groups:
            pieces = [_take(values[id(part.variable)], part) for part in group]
            for part, old, new in zip(group, pieces, self._shrink(pieces, strength), strict=True):
                factors = np.divide(new, old, out=np.zeros_like(old), where=old != 0)
                # As a factor, since a recurrent kernel has two pieces in the same group.
                found = values[id(part.variable)]
                _put(found, part, _take(found, part) * factors)
        for kernel in self.kernels:
            kernel.variable.assign(values[id(kernel.variable)])

    def alive(self, pieces: Pieces) -> list[np.ndarray]:
        """For each channel group, which of its channels are not zero."""
        left = iter(pieces)
        return [
            np.logical_or.reduce([(next(left) != 0).any(axis=1) for _ in group])
            for group in self._groups
        ]

    def _shrink(self, pieces: Pieces, strength: float) -> Pieces:
        shrunk = self._penalty(pieces, strength, axis=[0] * len(pieces))
        new = [_to_numpy(piece) for piece in shrunk]
        squares = [np.square(piece, dtype="float64").sum(axis=1) for piece in pieces]
        norms = sum(squares[1:], squares[0])
        least = self._pattern.count_kept(0, norms.size)
        if np.count_nonzero(np.any([piece.any(axis=1) for piece in new], axis=0)) < least:
            kept = np.argsort(-norms, kind="stable")[:least]
            for one, piece in zip(new, pieces, strict=True):
                one[kept] = piece[kept]
        return new

    def _values(self) -> dict[int, np.ndarray]:
        return {id(kernel.variable): _in_float(kernel.read()) for kernel in self.kernels}


def _take(values: np.ndarray, part: Slice) -> np.ndarray:
    """The matrix of a kernel's slices, a row for each channel."""
    rows: np.ndarray = np.moveaxis(values, part.axis, 0)[part.indices.reshape(-1)]
    return rows.reshape(len(part.indices), -1)


def _put(values: np.ndarray, part: Slice, matrix: np.ndarray) -> None:
    """Writes such a matrix back."""
    moved = np.moveaxis(values, part.axis, 0)
    moved[part.indices.reshape(-1)] = matrix.reshape(-1, *moved.shape[1:])


def _on_device(kernel: Weight) -> Any:
    values = ops.stop_gradient(ops.convert_to_tensor(kernel.variable))
    dtype = keras.backend.standardize_dtype(values.dtype)
    return ops.cast(values, "float64" if dtype == "float64" else "float32")


def _in_float(values: np.ndarray) -> np.ndarray:
    return values if values.dtype == np.float64 else values.astype("float32")


def _to_numpy(piece: Any) -> np.ndarray:
    return np.array(ops.convert_to_numpy(piece))
