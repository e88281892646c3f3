"""Scores that need nothing but the weights."""

import zlib
from dataclasses import dataclass

import numpy as np

from keras_hoyer._checks import check_count
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


@serializable
@dataclass(frozen=True)
class Random(Score):
    """A unit matters by chance: what any other score has to be better than.

    The same seed gives the same scores again, so that a gradual cut goes on as it began.

    Args:
        seed: Int, 0 or more. Defaults to 0.

    Raises:
        ValueError: If `seed` is no such number.

    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10)])
    >>> target = keras_hoyer.criteria.TargetSparsity(0.9)
    >>> keras_hoyer.prune(model, target, score=keras_hoyer.scores.Random(seed=1)).nonzero
    20
    """

    seed: int = 0

    def __post_init__(self) -> None:
        check_count("seed", self.seed, 0)

    def importance(self, weight: Weight) -> np.ndarray:
        """Numbers between 0 and 1."""
        return self._draw(weight.path, weight.shape)

    def of_units(self, values: np.ndarray, name: str) -> np.ndarray:
        """Numbers of their own, since sums of many are all alike."""
        return np.where(np.isfinite(values) & (values > 0), self._draw(name, values.shape), values)

    def _draw(self, name: str, shape: tuple[int, ...]) -> np.ndarray:
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        return rng.random(shape, "float32")
