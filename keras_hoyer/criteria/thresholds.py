"""Criteria that cut what scores below a threshold of its own kernel."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from keras_hoyer import measures
from keras_hoyer._checks import check_number
from keras_hoyer._values import serializable
from keras_hoyer.criteria.base import Criterion, FlopsLeft, UnitScores


class _LayerThreshold(Criterion):
    """Cuts what scores below a threshold that is computed kernel by kernel."""

    fixes_amount = False

    def threshold(self, units: UnitScores) -> float:
        """The threshold of one kernel."""
        raise NotImplementedError

    def keep(
        self, units: Sequence[UnitScores], progress: float = 1.0, flops: FlopsLeft | None = None
    ) -> list[np.ndarray]:
        """Returns what is not below the threshold, which rises with the progress."""
        # Zeros go even below a threshold of zero, so that what was cut once stays cut.
        return [
            (entry.values >= np.float32(self.threshold(entry) * progress)) & (entry.values > 0)
            for entry in units
        ]


@serializable
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


@serializable
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


@serializable
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


def _check_positive(name: str, value: float) -> None:
    check_number(name, value, "a positive number", lambda number: number > 0)
