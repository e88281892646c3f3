"""What a score answers: how much does each weight matter, and how do weights add up."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from keras_hoyer._values import Value
from keras_hoyer.weights import Weight


class Score(Value):
    """Base class of the scores.

    Writing your own: give each weight an importance. It counts by its magnitude; a pattern puts it
    together for its units. An importance is never zero where the weight is not, and always
    zero where the weight is: what was cut stays the first to be cut. That is seen to for you.

    >>> class FromStart(keras_hoyer.scores.Score):
    ...     "How far a weight has moved away from zero since training began."
    ...
    ...     def __init__(self, start):
    ...         self.start = start  # from the path of each kernel to its first values
    ...
    ...     def importance(self, weight):
    ...         return np.abs(weight.read()) - np.abs(self.start[weight.path])
    >>> model = keras.Sequential([keras.Input((20,)), keras.layers.Dense(10, name="out")])
    >>> start = {"out/kernel": model.get_layer("out").kernel.numpy()}
    >>> target = keras_hoyer.criteria.TargetSparsity(0.9)
    >>> keras_hoyer.prune(model, target, score=FromStart(start)).nonzero
    20

    A score that looks at data, or at several layers together, does so in `measured`, once before
    each cut, and returns a score that knows what was found.

    Attributes:
        additive: Whether importances add up over a unit, as what the loss loses by a cut does.
            Then a unit scores their mean; else the root mean square. Defaults to `False`.
        of_outputs: Whether only the kernels that make a channel say what it matters, and not those
            that read it. Defaults to `False`.
        marks_zeros: Whether importances are zero exactly where weights are, so that nobody needs
            to look. Defaults to `False`.
    """

    additive: bool = False
    of_outputs: bool = False
    marks_zeros: bool = False

    def importance(self, weight: Weight) -> np.ndarray:
        """What each entry of a kernel matters: a float array of its shape.

        Args:
            weight: The kernel: `weight.read()` copies its values, `weight.layer` is its layer,
                `weight.path` its name in the model, `weight.variable` its `keras.Variable`.
        """
        raise NotImplementedError

    def measured(self, model: keras.Model, weights: Sequence[Weight]) -> Score:
        """The score as the model is now; asked for before each cut. Defaults to the score itself.

        Args:
            model: The model that is about to be cut.
            weights: All kernels whose importance will be asked for.
        """
        return self

    def of_units(self, values: np.ndarray, name: str) -> np.ndarray:
        """What units score, given what their importances come to. Defaults to just that.

        Args:
            values: What a pattern made of the importances; zero for what was cut, infinite for
                what must stay.
            name: The kernel's path, or the name of a group of coupled channels.
        """
        return values

    def check(self, model: keras.Model, weights: Sequence[Weight]) -> None:
        """Raises a `ValueError` if the score cannot be had of `model`, before time is spent."""


def check_score(score: Any) -> None:
    """Raises a `ValueError` if `score` is none."""
    if not isinstance(score, Score):
        raise ValueError(
            "Invalid value for argument `score`. Expected a score of `keras_hoyer.scores`, such as "
            f"`Magnitude()`. Received: score={score!r}"
        )
