"""How much a weight matters: importances, which a pattern puts together for its units."""

from keras_hoyer.scores.activation import Activation
from keras_hoyer.scores.base import Score
from keras_hoyer.scores.norms import BatchNormScale
from keras_hoyer.scores.saliency import Fisher, Taylor
from keras_hoyer.scores.weights import Magnitude, Random
from keras_hoyer.weights import Weight

__all__ = [
    "Activation",
    "BatchNormScale",
    "Fisher",
    "Magnitude",
    "Random",
    "Score",
    "Taylor",
    "Weight",
]


def __dir__() -> list[str]:
    return __all__
