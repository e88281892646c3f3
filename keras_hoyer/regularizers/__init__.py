"""Penalties as Keras regularizers."""

from keras_hoyer.regularizers.base import Penalty
from keras_hoyer.regularizers.groups import GroupHoyer, GroupHoyerSquare, GroupLasso, GroupPenalty
from keras_hoyer.regularizers.weights import Hoyer, HoyerSquare, TransformedL1

__all__ = [
    "GroupHoyer",
    "GroupHoyerSquare",
    "GroupLasso",
    "GroupPenalty",
    "Hoyer",
    "HoyerSquare",
    "Penalty",
    "TransformedL1",
]
