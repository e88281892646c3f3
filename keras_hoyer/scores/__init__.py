"""How much a weight matters: importances, which a pattern puts together for its units."""

from keras_hoyer.scores.base import Score
from keras_hoyer.scores.weights import Magnitude
from keras_hoyer.weights import Weight

__all__ = ["Magnitude", "Score", "Weight"]


def __dir__() -> list[str]:
    return __all__
