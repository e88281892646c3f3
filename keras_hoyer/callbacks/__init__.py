"""Pruning inside `model.fit`."""

from keras_hoyer.callbacks.budget import BudgetPruning
from keras_hoyer.callbacks.pruning import Pruning

__all__ = ["BudgetPruning", "Pruning"]


def __dir__() -> list[str]:
    return __all__
