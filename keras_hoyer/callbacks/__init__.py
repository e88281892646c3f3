"""Pruning, and training by proximal operators, inside `model.fit`."""

from keras_hoyer.callbacks.admm import ADMM
from keras_hoyer.callbacks.budget import BudgetPruning
from keras_hoyer.callbacks.proximal_step import ProximalStep
from keras_hoyer.callbacks.pruning import Pruning

__all__ = ["ADMM", "BudgetPruning", "ProximalStep", "Pruning"]


def __dir__() -> list[str]:
    return __all__
