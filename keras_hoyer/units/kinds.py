"""The units of one kernel, and those that are coupled channels: scores and masks."""

import math
import re
from collections.abc import Iterable

import numpy as np

from keras_hoyer.criteria import UnitScores
from keras_hoyer.graph import Group, Slice
from keras_hoyer.patterns import Channel, KernelPattern
from keras_hoyer.scores import Magnitude, Score
from keras_hoyer.weights import Weight

BY_MAGNITUDE = Magnitude()

# What tells equal layers apart, in the paths of their kernels.
_NUMBERS = re.compile(r"_?\d+")

# The least that a unit scores which is not cut: more than the zero of those that are.
_LEAST = np.finfo("float32").tiny


class KernelUnits:
    """The units of one kernel, for the patterns that divide each kernel by itself."""

    def __init__(self, kernel: Weight, pattern: KernelPattern) -> None:
        self.name = kernel.path
        self._kernel = kernel
        self._pattern = pattern

    def score(self, score: Score = BY_MAGNITUDE) -> UnitScores:
        """Scores the units; raises a `ValueError` if the kernel is not finite."""
        importance = _importance(self._kernel, score)
        std = _std(self.name, [importance])
        alive = None if score.marks_zeros else self._reduce((importance != 0).astype("float32")) > 0
        if score.additive:
            # A root mean square of roots is the root of a mean.
            values = np.square(self._reduce(np.sqrt(np.abs(importance))))
        else:
            values = self._reduce(importance)
        if alive is not None:
            values = score.of_units(values, self.name)
            values = np.asarray(np.where(alive, np.maximum(values, _LEAST), values), "float32")
        return UnitScores(self.name, values, std)

    def _reduce(self, importance: np.ndarray) -> np.ndarray:
        return np.ascontiguousarray(self._pattern.scores(importance), "float32")

    def restrict(self, keep: np.ndarray, scores: np.ndarray) -> np.ndarray:
        """The decision itself: every unit of a kernel may go."""
        return keep

    def masks(self, keep: np.ndarray) -> dict[Weight, np.ndarray]:
        """Mask of each weight that the units are made of, false where it is cut."""
        mask = self._pattern.expand(keep, self._kernel.shape)
        if mask.shape != self._kernel.shape:
            raise ValueError(
                f"`{type(self._pattern).__name__}.expand` gave a mask of shape {mask.shape} for "
                f"kernel '{self.name}' of shape {self._kernel.shape}."
            )
        return {self._kernel: mask}

    def kernels(self, of_outputs: bool = False) -> list[Weight]:
        """The kernel."""
        return [self._kernel]

    def penalties(self) -> list[object]:
        """The regularizers of the kernels."""
        return [self._kernel.get("regularizer")]


class CoupledWeights:
    """Channels that live and die together, with their slices of all kernels, biases and scales."""

    def __init__(self, group: Group, weights: dict[int, Weight]) -> None:
        self.name = group.name
        self.group = group
        self._weights = weights

    def kernels(self, of_outputs: bool = False) -> list[Weight]:
        """The kernels that make or read the channels, or only those that make them, each once."""
        parts = (*self.group.producing, *(() if of_outputs else self.group.consuming))
        found = {id(p.variable): self._weights[id(p.variable)] for p in parts if self._is_kernel(p)}
        return list(found.values())

    def alive(self) -> np.ndarray:
        """Which channels have a weight that is not zero, be it of a kernel, a bias or a scale."""
        alive = np.zeros(self.group.channels, bool)
        for part in (*self.group.producing, *self.group.consuming):
            weight = self._weights.get(id(part.variable))
            if weight is not None:
                values = np.moveaxis(weight.read(), part.axis, 0)
                nonzero = np.any(values != 0, axis=tuple(range(1, values.ndim)))
                alive |= nonzero[part.indices].any(axis=1)
        return alive

    def masks(self, keep: np.ndarray) -> dict[Weight, np.ndarray]:
        """Mask of each weight that the channels are made of, false where it is cut."""
        masks: dict[Weight, np.ndarray] = {}
        for part in (*self.group.producing, *self.group.consuming):
            weight = self._weights.get(id(part.variable))
            if weight is not None:
                mask = masks.setdefault(weight, np.ones(weight.shape, bool))
                np.moveaxis(mask, part.axis, 0)[part.indices[~keep]] = False
        return masks

    def penalties(self) -> list[object]:
        """The regularizers of the kernels; of one over coupled channels, that which it couples."""
        parts = [part.variable for part in self.group.producing if self._is_kernel(part)]
        found = [self._weights[id(variable)].get("regularizer") for variable in parts]
        return [getattr(regularizer, "penalty", regularizer) for regularizer in found]

    def _is_kernel(self, part: Slice) -> bool:
        weight = self._weights.get(id(part.variable))
        return weight is not None and weight.is_kernel


class ChannelUnits(CoupledWeights):
    """Coupled channels as the units of a pattern."""

    def __init__(self, group: Group, pattern: Channel, weights: dict[int, Weight]) -> None:
        super().__init__(group, weights)
        self._pattern = pattern
        # What the same channels of a stack of equal layers have in common.
        self.stack: tuple[str, int] = _NUMBERS.sub("", self.name), group.channels

    def score(self, score: Score = BY_MAGNITUDE) -> UnitScores:
        """Scores the channels over their slices of the kernels that make or read them.

        A channel that is not made, or not read, any more scores zero: it costs nothing to cut.
        """
        total, count = np.zeros(self.group.channels), 0
        alive = np.ones(self.group.channels, bool)
        read: dict[int, np.ndarray] = {}
        beside = BY_MAGNITUDE if score.of_outputs else score
        for slices, by in ((self.group.producing, score), (self.group.consuming, beside)):
            found = []
            for part in filter(self._is_kernel, slices):
                if id(part.variable) not in read:
                    read[id(part.variable)] = _importance(self._weights[id(part.variable)], by)
                values = read[id(part.variable)]
                roots = np.sqrt(np.abs(values, dtype="float64")) if by.additive else values
                strength = self._pattern.strength(roots, part.axis)[part.indices]
                found.append(strength.any(axis=1))
                if by is score:
                    total = self._pattern.join(total, strength)
                    count += part.indices.shape[1] * values.size // values.shape[part.axis]
            if found:
                alive &= np.logical_or.reduce(found)
        scores = self._pattern.finish(total, count)
        # A root mean square of roots is the root of a mean.
        scores = np.where(alive, np.square(scores) if score.additive else scores, 0)
        if not score.marks_zeros:
            scores = score.of_units(scores, self.name)
            scores = np.where(alive, np.maximum(scores, _LEAST), 0)
        # Wide layers have small weights: compared as they are, their channels would all go first.
        reference = float(scores[alive].mean()) if alive.any() else 1.0
        std = _std(self.name, read.values())
        return UnitScores(self.name, scores.astype("float32"), std, reference)

    def count_kept(self, wanted: int) -> int:
        """How many channels stay where so many are wanted."""
        return self._pattern.count_kept(int(wanted), self.group.channels)

    def restrict(
        self, keep: np.ndarray, scores: np.ndarray, wanted: int | None = None
    ) -> np.ndarray:
        """Keeps more of the best channels, up to the least number and multiple of the pattern.

        Args:
            keep: Whether each channel is to stay.
            scores: What each scores.
            wanted: How many are to stay. Defaults to as many as `keep` says.
        """
        wanted = self.count_kept(int(np.count_nonzero(keep)) if wanted is None else wanted)
        # Stable, so that of equal channels those of the lower indices are cut, as criteria do.
        order = np.argsort(np.where(keep, np.inf, scores), kind="stable")
        restricted = np.zeros(keep.shape, bool)
        restricted[order[keep.size - wanted :]] = True
        return restricted


Units = KernelUnits | ChannelUnits


def _importance(weight: Weight, score: Score) -> np.ndarray:
    """What each entry of a kernel matters: zero where it is zero, and nowhere else."""
    importance = np.asarray(score.importance(weight))
    if importance.shape != weight.shape:
        raise ValueError(
            f"`{type(score).__name__}.importance` gave an array of shape {importance.shape} for "
            f"kernel '{weight.path}' of shape {weight.shape}."
        )
    if importance.dtype != np.float64:
        importance = np.asarray(importance, "float32")
    if score.marks_zeros:
        return importance
    weights = weight.read()
    if np.isfinite(weights).all() and not np.isfinite(importance).all():
        raise ValueError(
            f"`{type(score).__name__}` gives NaN or infinity for kernel '{weight.path}', whose "
            "weights are finite. Look at the data, and at the loss of the model on them."
        )
    alive = weights != 0
    # As what is cut goes on to be ranked first, nothing else may score as low.
    return np.where(alive, np.where(np.abs(importance) < _LEAST, _LEAST, importance), 0)


def _std(name: str, kernels: Iterable[np.ndarray]) -> float:
    """Standard deviation in float64, in pieces, so that a large kernel needs no second copy."""
    flat = [kernel.reshape(-1) for kernel in kernels]
    pieces = [f[start : start + (1 << 20)] for f in flat for start in range(0, f.size, 1 << 20)]
    size = sum(piece.size for piece in pieces)
    with np.errstate(invalid="ignore"):  # infinity becomes NaN
        mean = sum(piece.sum(dtype="float64") for piece in pieces) / size
        std = math.sqrt(sum(np.square(piece - mean).sum() for piece in pieces) / size)
    if not math.isfinite(std):
        raise ValueError(
            f"Kernel '{name}' holds NaN or infinity, so nothing can be said about which of its "
            "weights matter. Lower the learning rate or the penalty's factor and train again."
        )
    return std
