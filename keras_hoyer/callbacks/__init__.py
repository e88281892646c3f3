"""Pruning and training by proximal operators inside `model.fit`, and watching it."""

from keras_hoyer.callbacks.activations import ActivationSparsity
from keras_hoyer.callbacks.admm import ADMM
from keras_hoyer.callbacks.budget import BudgetPruning
from keras_hoyer.callbacks.proximal_step import ProximalStep
from keras_hoyer.callbacks.pruning import Pruning
from keras_hoyer.callbacks.sparsity_logger import SparsityLogger

__all__ = [
    "ADMM",
    "ActivationSparsity",
    "BudgetPruning",
    "ProximalStep",
    "Pruning",
    "SparsityLogger",
]


def __dir__() -> list[str]:
    return __all__
