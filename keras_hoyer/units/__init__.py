"""The units of a pattern in a model: how they score, and which weights go with each."""

from keras_hoyer.units.finding import FlopsShare, ModelUnits, find_units
from keras_hoyer.units.kinds import ChannelUnits, CoupledWeights, KernelUnits, Units

__all__ = [
    "ChannelUnits",
    "CoupledWeights",
    "FlopsShare",
    "KernelUnits",
    "ModelUnits",
    "Units",
    "find_units",
]
