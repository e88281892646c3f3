"""Penalties as Keras regularizers."""

from keras_hoyer.regularizers.weights import (
    GroupHoyer,
    GroupHoyerSquare,
    GroupLasso,
    GroupPenalty,
    Hoyer,
    HoyerSquare,
    Penalty,
    TransformedL1,
)

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
