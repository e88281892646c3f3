"""Weights times factors that were found before: what most scores come to."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from keras_hoyer.scores.base import Score
from keras_hoyer.weights import Weight


class Scaled(Score):
    """The magnitude of a weight, or its square, times a factor.

    Args:
        factors: From the id of each kernel's variable to an array that broadcasts to its shape.
        power: 1 or 2.
        additive: Whether these importances add up.
        of_outputs: Whether they concern only the channels that a kernel makes.
    """

    def __init__(
        self,
        factors: Mapping[int, np.ndarray],
        power: int = 1,
        additive: bool = False,
        of_outputs: bool = False,
    ) -> None:
        self._factors = factors
        self._power = power
        self.additive = additive
        self.of_outputs = of_outputs

    def importance(self, weight: Weight) -> np.ndarray:
        """The product, in float32 unless the kernel is of float64."""
        values: Any = weight.read()
        values = values if values.dtype == np.float64 else values.astype("float32", copy=False)
        for _ in range(self._power - 1):
            values = np.square(values, out=values)
        factor = self._factors[id(weight.variable)].astype(values.dtype, copy=False)
        return np.asarray(np.multiply(values, factor, out=values))
