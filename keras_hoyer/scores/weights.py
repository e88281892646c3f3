"""Scores that need nothing but the weights."""

from dataclasses import dataclass

import numpy as np

from keras_hoyer._values import serializable
from keras_hoyer.scores.base import Score
from keras_hoyer.weights import Weight


@serializable
@dataclass(frozen=True)
class Magnitude(Score):
    """A weight matters by its magnitude.

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2, use_bias=False)])
    >>> model.set_weights([np.array([[0.5, -2.0], [1.0, 0.1]])])
    >>> report = keras_hoyer.prune(
    ...     model, keras_hoyer.criteria.TargetSparsity(0.5), score=keras_hoyer.scores.Magnitude())
    >>> model.get_weights()[0]
    array([[ 0., -2.],
           [ 1.,  0.]], dtype=float32)
    """

    marks_zeros = True

    def importance(self, weight: Weight) -> np.ndarray:
        """The weights themselves, of which only the magnitude counts."""
        return weight.read()
