"""The criterion that cuts a share of the units."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import get_args

import numpy as np

from keras_hoyer._checks import check_choice, check_number
from keras_hoyer._literals import Scope
from keras_hoyer._values import serializable
from keras_hoyer.criteria.base import Criterion, FlopsLeft, UnitScores
from keras_hoyer.criteria.ranking import keep_largest
from keras_hoyer.patterns import Pattern


@serializable
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
    scope: Scope = "global"

    def __post_init__(self) -> None:
        check_number("sparsity", self.sparsity, "a number in [0, 1)", lambda value: 0 <= value < 1)
        check_choice("scope", self.scope, get_args(Scope))

    def check(self, pattern: Pattern) -> None:
        """Refuses a pattern, such as N:M, that leaves more weights than the target."""
        super().check(pattern)
        if self.sparsity > pattern.max_sparsity + 1e-12:
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
            return [keep_largest([values], sparsity)[0] for values in scores]
        return keep_largest(scores, sparsity)
