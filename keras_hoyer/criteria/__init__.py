"""How much to cut: from unit scores to the units that stay.

A criterion sees one `UnitScores` a kernel (or group of kernels that are cut together) and returns
a boolean array for each, true where a unit stays. `progress` is the schedule's part of the way.
"""

from keras_hoyer.criteria.base import Criterion, UnitScores
from keras_hoyer.criteria.effective import EffectiveNumber
from keras_hoyer.criteria.files import Measured, TargetBytes, TargetLatency
from keras_hoyer.criteria.flops import TargetFlops
from keras_hoyer.criteria.sparsity import TargetSparsity
from keras_hoyer.criteria.thresholds import HoyerThreshold, StdThreshold, Threshold

__all__ = [
    "Criterion",
    "EffectiveNumber",
    "HoyerThreshold",
    "Measured",
    "StdThreshold",
    "TargetBytes",
    "TargetFlops",
    "TargetLatency",
    "TargetSparsity",
    "Threshold",
    "UnitScores",
]


def __dir__() -> list[str]:
    return __all__
