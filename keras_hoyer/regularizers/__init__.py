"""Penalties as Keras regularizers."""

from keras_hoyer.regularizers.base import Penalty
from keras_hoyer.regularizers.concave import GroupMCP, GroupSCAD, GroupTransformedL1
from keras_hoyer.regularizers.groups import GroupHoyer, GroupHoyerSquare, GroupLasso, GroupPenalty
from keras_hoyer.regularizers.images import TotalVariation
from keras_hoyer.regularizers.paths import PathNorm
from keras_hoyer.regularizers.weights import L1, Hoyer, HoyerSquare, TransformedL1

__all__ = [
    "L1",
    "GroupHoyer",
    "GroupHoyerSquare",
    "GroupLasso",
    "GroupMCP",
    "GroupPenalty",
    "GroupSCAD",
    "GroupTransformedL1",
    "Hoyer",
    "HoyerSquare",
    "PathNorm",
    "Penalty",
    "TotalVariation",
    "TransformedL1",
]
