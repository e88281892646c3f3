"""The criterion that asks the scores themselves how many units there are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from keras_hoyer import measures
from keras_hoyer._checks import check_choice, check_number
from keras_hoyer._literals import Scope
from keras_hoyer._values import serializable
from keras_hoyer.criteria.base import Criterion, FlopsLeft, UnitScores
from keras_hoyer.criteria.ranking import keep_largest


def effective_number(units: Sequence[UnitScores], scope: Scope = "global") -> float:
    """The effective number of units, those that must stay left out.

    Args:
        units: Scores of the units.
        scope: `"global"` takes them all together; `"layer"` adds the numbers of the kernels.
    """
    if scope == "layer":
        return sum(effective_number([entry]) for entry in units)
    return measures.effective_count_of(_free(units))


def _free(units: Sequence[UnitScores]) -> list[np.ndarray]:
    free = (entry.relative[np.isfinite(entry.relative)] for entry in units)
    return [values for values in free if values.size]


@serializable
@dataclass(frozen=True)
class EffectiveNumber(Criterion):
    """Keeps a few times the effective number of units: the cut that needs no target.

    The effective number, `S**2 / Q` from the sum of the scores and that of their squares, is the
    value of the Hoyer-Square penalty, and what it brings down: so many units of equal score would
    make the same. Without a penalty it is more than half of all weights, and nothing is cut.

    The units of the largest scores stay, `round(ratio * effective number)` of them; those that a
    pattern keeps anyway do not count.

    Source: the measure is that of Yang, Wen and Li, "DeepHoyer" (ICLR 2020), equation 2.

    Args:
        ratio: Positive float: how many times the effective number stays. Defaults to 6.
        scope: `"global"` takes one number for all layers, whose units are ranked together;
            `"layer"` that of each kernel, or group of coupled channels. Defaults to `"global"`.

    Raises:
        ValueError: If an argument is out of its range.

    >>> units = UnitScores("kernel", np.array([9.0, 0.1, 0.2, 0.1, 0.1], "float32"), std=1.0)
    >>> EffectiveNumber(2.0).keep([units])  # the effective number is 1.1
    [array([ True, False,  True, False, False])]
    """

    ratio: float = 6.0
    scope: Scope = "global"

    fixes_amount = False

    def __post_init__(self) -> None:
        check_number("ratio", self.ratio, "a positive number", lambda value: value > 0)
        check_choice("scope", self.scope, get_args(Scope))

    def count(self, units: Sequence[UnitScores]) -> int:
        """How many of these units, ranked together, stay beside those that must."""
        total = sum(values.size for values in _free(units))
        return int(min(total, max(1, round(self.ratio * effective_number(units)))))

    def keep(
        self, units: Sequence[UnitScores], progress: float = 1.0, flops: FlopsLeft | None = None
    ) -> list[np.ndarray]:
        """Returns what stays when `progress` of the way to the number has been gone."""
        if self.scope == "layer":
            return [self._keep([entry], progress)[0] for entry in units]
        return self._keep(units, progress)

    def _keep(self, units: Sequence[UnitScores], progress: float) -> list[np.ndarray]:
        scores = [entry.relative for entry in units]
        total = sum(values.size for values in scores)
        free = sum(int(np.isfinite(values).sum()) for values in scores)
        cut = round((free - self.count(units)) * progress)
        return keep_largest(scores, cut / total if total else 0.0)
