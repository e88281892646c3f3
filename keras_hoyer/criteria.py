"""How much to cut: from unit scores to the units that stay.

A criterion sees one `UnitScores` a kernel (or group of kernels that are cut together) and returns
a boolean array for each, true where a unit stays. `progress` is the schedule's part of the way.
"""

import bisect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from keras_hoyer import measures
from keras_hoyer.patterns import Channel, NByM, Pattern

__all__ = [
    "Criterion",
    "HoyerThreshold",
    "StdThreshold",
    "TargetFlops",
    "TargetSparsity",
    "Threshold",
    "UnitScores",
]


def __dir__() -> list[str]:
    return __all__


FlopsLeft = Callable[[Sequence[int]], float]


@dataclass(frozen=True)
class UnitScores:
    """Scores of the units of one kernel.

    Attributes:
        name: The kernel's name, for messages.
        values: Float32 array, at least 0; infinite where a unit must stay.
        std: Standard deviation of the kernel's weights.
        reference: What the values are divided by before those of different layers are compared.
            Defaults to 1: weights compare by their magnitudes.
    """

    name: str
    values: np.ndarray
    std: float
    reference: float = 1.0

    @property
    def relative(self) -> np.ndarray:
        """The values as they compare with those of other layers."""
        if self.reference == 1:
            return self.values
        return self.values / np.float32(self.reference)


class Criterion:
    """Base class of the criteria.

    Attributes:
        counts_flops: Whether it goes by the multiply-adds that are left.
    """

    counts_flops = False

    def keep(
        self, units: Sequence[UnitScores], progress: float = 1.0, flops: FlopsLeft | None = None
    ) -> list[np.ndarray]:
        """Returns a boolean array for each entry of `units`, true where a unit stays.

        Args:
            units: Scores of the units.
            progress: Part of the way to go, from 0 to 1.
            flops: For channels, a function from how many of each entry are left to the share of
                the multiply-adds that is left.
        """
        raise NotImplementedError

    def target(self, progress: float) -> float | None:
        """The share of the units that is to be cut, or `None` where that follows from the scores.

        Args:
            progress: Part of the way to go, from 0 to 1.
        """
        return None

    def check(self, pattern: Pattern) -> None:
        """Raises a `ValueError` if the criterion cannot be met with `pattern`."""


class _LayerThreshold(Criterion):
    """Cuts what scores below a threshold that is computed kernel by kernel."""

    def threshold(self, units: UnitScores) -> float:
        raise NotImplementedError

    def keep(
        self, units: Sequence[UnitScores], progress: float = 1.0, flops: FlopsLeft | None = None
    ) -> list[np.ndarray]:
        # Zeros go even below a threshold of zero, so that what was cut once stays cut.
        return [
            (entry.values >= np.float32(self.threshold(entry) * progress)) & (entry.values > 0)
            for entry in units
        ]


@dataclass(frozen=True)
class Threshold(_LayerThreshold):
    """Cuts units whose root mean square (a weight's magnitude) is below a value.

    Args:
        value: Positive float, in the unit of the weights.

    Raises:
        ValueError: If `value` is not a positive finite number.

    >>> units = UnitScores("kernel", np.array([0.1, 0.5, 2.0], "float32"), std=1.0)
    >>> Threshold(0.5).keep([units])
    [array([False,  True,  True])]
    """

    value: float

    def __post_init__(self) -> None:
        _check_positive("value", self.value)

    def threshold(self, units: UnitScores) -> float:
        """The value."""
        return self.value


@dataclass(frozen=True)
class StdThreshold(_LayerThreshold):
    """Cuts units whose root mean square is below `ratio` standard deviations of their kernel.

    Source: the element-wise pruning of Yang, Wen and Li, "DeepHoyer" (ICLR 2020).

    Args:
        ratio: Positive float, without unit.

    Raises:
        ValueError: If `ratio` is not a positive finite number.

    >>> units = UnitScores("kernel", np.array([0.1, 0.5, 2.0], "float32"), std=2.0)
    >>> StdThreshold(0.2).keep([units])
    [array([False,  True,  True])]
    """

    ratio: float

    def __post_init__(self) -> None:
        _check_positive("ratio", self.ratio)

    def threshold(self, units: UnitScores) -> float:
        """`ratio` standard deviations, zeros counted in."""
        return self.ratio * units.std


@dataclass(frozen=True)
class HoyerThreshold(_LayerThreshold):
    """Cuts units below `ratio` times the trimming threshold of their kernel.

    The trimming threshold, `L2**2 / L1` of the units' scores, separates what Hoyer-Square shrinks
    from what it lets grow; see `measures.trimming_threshold`.

    Source: Yang, Wen and Li, "DeepHoyer" (ICLR 2020), section 3.1.

    Args:
        ratio: Positive float, without unit. Defaults to 1.

    Raises:
        ValueError: If `ratio` is not a positive finite number.

    >>> units = UnitScores("kernel", np.array([1.0, 3.0], "float32"), std=1.0)
    >>> HoyerThreshold().keep([units])  # the trimming threshold is 2.5
    [array([False,  True])]
    """

    ratio: float = 1.0

    def __post_init__(self) -> None:
        _check_positive("ratio", self.ratio)

    def threshold(self, units: UnitScores) -> float:
        """`ratio` times the trimming threshold; units that must stay do not count."""
        free = np.isfinite(units.values)
        values = units.values if free.all() else units.values[free]
        return self.ratio * measures.trimming_threshold(values) if values.size else 0.0


@dataclass(frozen=True)
class TargetSparsity(Criterion):
    """Cuts the units of the smallest scores until a share of all units is zero.

    Exactly `round(sparsity * units)` units are cut. Of units that score the same, those of earlier
    layers and lower indices are cut first, so that a run can be repeated. Where some units have to
    stay, or some of the kernels that were asked for have no channels that can be removed, a warning
    says what was reached.

    Args:
        sparsity: Float in `[0, 1)`: share of the pattern's units (weights, blocks, channels).
        scope: `"global"` compares the units of all layers, `"layer"` cuts the same share of each.
            Defaults to `"global"`.

    Raises:
        ValueError: If an argument is out of its range.

    >>> units = UnitScores("kernel", np.array([0.5, 0.1, 0.1, 0.7], "float32"), std=1.0)
    >>> TargetSparsity(0.25).keep([units])
    [array([ True, False,  True,  True])]
    """

    sparsity: float
    scope: str = "global"

    def __post_init__(self) -> None:
        valid = isinstance(self.sparsity, (int, float, np.number))
        if isinstance(self.sparsity, bool) or not valid or not 0 <= self.sparsity < 1:
            raise ValueError(
                "Invalid value for argument `sparsity`. Expected a number in [0, 1). "
                f"Received: sparsity={self.sparsity!r}"
            )
        _check_scope(self.scope)

    def check(self, pattern: Pattern) -> None:
        """Refuses an N:M pattern that leaves more weights than the target."""
        if isinstance(pattern, NByM) and self.sparsity > pattern.max_sparsity + 1e-12:
            raise ValueError(
                f"Invalid value for argument `sparsity`. {pattern} cuts at most "
                f"{pattern.max_sparsity:.4g} of the weights. Received: sparsity={self.sparsity}"
            )

    def target(self, progress: float) -> float:
        """The sparsity, as far as the way has been gone."""
        return self.sparsity * progress

    def keep(
        self, units: Sequence[UnitScores], progress: float = 1.0, flops: FlopsLeft | None = None
    ) -> list[np.ndarray]:
        """Returns what stays when `progress` of the way to the target has been gone."""
        scores = [entry.relative for entry in units]
        sparsity = self.target(progress)
        if self.scope == "layer":
            return [_keep_largest([values], sparsity)[0] for values in scores]
        return _keep_largest(scores, sparsity)


@dataclass(frozen=True)
class TargetFlops(Criterion):
    """Cuts the channels of the smallest scores until a share of the multiply-adds is left.

    Of the channels in the order of their scores, as few are cut as reach the target; those among
    them that still fit within it come back, the best first. Equal scores are cut as
    `TargetSparsity` cuts them. The multiply-adds are those of the whole model, as `count_flops`
    counts them. Goes with `patterns.Channel`.

    Args:
        fraction: Float in `(0, 1)`: share of the model's multiply-adds that is left.
        scope: `"global"` ranks all channels together; `"layer"` takes the same share of each set
            of coupled channels, which is the safer choice for a small share. Defaults to
            `"global"`.

    Raises:
        ValueError: If an argument is out of its range, or the pattern is not `Channel`; when
            cutting, if the target cannot be reached without emptying a layer.

    >>> import keras_hoyer as kh
    >>> model = keras.Sequential(
    ...     [keras.Input((8,)), keras.layers.Dense(64), keras.layers.Dense(64),
    ...      keras.layers.Dense(4)])
    >>> report = kh.prune(model, kh.criteria.TargetFlops(0.5), kh.patterns.Channel())
    >>> small = kh.shrink(model)
    >>> 0.45 < sum(kh.count_flops(small).values()) / sum(kh.count_flops(model).values()) <= 0.5
    True
    """

    fraction: float
    scope: str = "global"

    counts_flops = True

    def __post_init__(self) -> None:
        _check_scope(self.scope)
        valid = isinstance(self.fraction, (int, float, np.number))
        if isinstance(self.fraction, bool) or not valid or not 0 < self.fraction < 1:
            raise ValueError(
                "Invalid value for argument `fraction`. Expected a number between 0 and 1. "
                f"Received: fraction={self.fraction!r}"
            )

    def check(self, pattern: Pattern) -> None:
        """Refuses patterns whose units can be cut without any multiply-add less."""
        if not isinstance(pattern, Channel):
            raise ValueError(
                "`TargetFlops` counts the multiply-adds that go with whole channels. Expected "
                f"pattern=Channel(). Received: pattern={pattern!r}"
            )

    def keep(
        self, units: Sequence[UnitScores], progress: float = 1.0, flops: FlopsLeft | None = None
    ) -> list[np.ndarray]:
        """Returns what stays when `progress` of the way to the target has been gone."""
        scores = [entry.relative for entry in units]
        target = 1 - (1 - self.fraction) * progress
        places = scores if self.scope == "global" else [_places(values) for values in scores]
        order = np.argsort(np.concatenate(places), kind="stable")
        sizes = [values.size for values in scores]
        layer = np.repeat(np.arange(len(sizes)), sizes)

        def counts(cut: int) -> np.ndarray:
            return np.bincount(layer[order[cut:]], minlength=len(sizes))

        fewest = flops(counts(order.size))
        if fewest > target:
            fixed = getattr(flops, "fixed", "")
            reason = f" No cut can reach: {fixed}." if fixed else ""
            raise ValueError(
                f"{target:.1%} of the multiply-adds cannot be reached: with the fewest channels "
                f"that may stay, {fewest:.1%} are left.{reason} Raise `fraction`, or choose more "
                "layers or a smaller `min_channels`."
            )
        cut = bisect.bisect_left(range(order.size), True, key=lambda n: flops(counts(n)) <= target)
        stay = np.ones(order.size, bool)
        stay[order[:cut]] = False
        kept, full = counts(cut), np.zeros(len(sizes), bool)
        alive = np.concatenate(scores) > 0
        for unit in order[:cut][::-1]:
            # One channel of a layer takes as much as any other of it.
            if alive[unit] and not full[layer[unit]]:
                kept[layer[unit]] += 1
                stay[unit] = flops(kept) <= target
                if not stay[unit]:
                    kept[layer[unit]] -= 1
                    full[layer[unit]] = True
        return np.split(stay, np.cumsum(sizes)[:-1])


def _keep_largest(scores: Sequence[np.ndarray], sparsity: float) -> list[np.ndarray]:
    count = round(sparsity * sum(values.size for values in scores))
    if count == 0:
        return [np.ones(values.shape, bool) for values in scores]
    threshold, ties = _smallest(scores, count)
    if np.isinf(threshold):
        ties = 0  # these must stay
    keep = []
    for values in scores:
        stay = values > threshold
        # `reshape` of these contiguous arrays gives views.
        for piece, stay_piece in zip(
            _pieces(values.reshape(-1)), _pieces(stay.reshape(-1)), strict=True
        ):
            equal = np.flatnonzero(piece == threshold)
            stay_piece[equal[ties:]] = True
            ties = max(0, ties - equal.size)
        keep.append(stay)
    return keep


def _smallest(scores: Sequence[np.ndarray], count: int) -> tuple[np.float32, int]:
    """Value of the `count`-th smallest score, and how many scores of that value are to go.

    Without sorting or copying: the bits of nonnegative floats sort like the floats, so a histogram
    of their upper halves and one of the lower halves below the right upper half find the value.
    """
    pieces = [piece for values in scores for piece in _pieces(_halves(values))]
    upper, left = _bucket((piece[:, 1] for piece in pieces), count)
    lower, left = _bucket((piece[piece[:, 1] == upper, 0] for piece in pieces), left)
    return np.array([lower, upper], "<u2").view("<f4")[0], left


def _bucket(pieces: Iterable[np.ndarray], count: int) -> tuple[int, int]:
    """The `count`-th smallest of 16-bit numbers, and its place among the equal ones."""
    histogram = np.zeros(1 << 16, np.int64)
    for piece in pieces:
        histogram += np.bincount(piece, minlength=1 << 16)
    smaller = np.cumsum(histogram)
    bucket = int(np.searchsorted(smaller, count))
    return bucket, count - int(smaller[bucket] - histogram[bucket])


def _halves(values: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(values, dtype="<f4").reshape(-1).view("<u2").reshape(-1, 2)


def _pieces(array: np.ndarray) -> Iterator[np.ndarray]:
    # `bincount` and `flatnonzero` make 64-bit integers of what they are given.
    return (array[start : start + (1 << 20)] for start in range(0, len(array), 1 << 20))


def _places(values: np.ndarray) -> np.ndarray:
    """Place of each value in the order of all, from 0 for the smallest up to 1."""
    places = np.empty(values.size)
    places[np.argsort(values, kind="stable")] = np.arange(1, values.size + 1) / values.size
    return places


def _check_scope(scope: object) -> None:
    if scope not in ("global", "layer"):
        raise ValueError(
            'Invalid value for argument `scope`. Expected "global" or "layer". '
            f"Received: scope={scope!r}"
        )


def _check_positive(name: str, value: object) -> None:
    valid = isinstance(value, (int, float, np.number)) and not isinstance(value, bool)
    if not valid or not math.isfinite(value) or value <= 0:
        raise ValueError(
            f"Invalid value for argument `{name}`. Expected a positive number. "
            f"Received: {name}={value!r}"
        )
