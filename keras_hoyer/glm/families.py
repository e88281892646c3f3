"""What the response is like: a loss of the linear predictor, with its derivatives."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = Any  # of float64


@dataclass(frozen=True)
class Family:
    """A loss of each response `y` at a linear predictor `eta`.

    Attributes:
        loss: The loss, up to what does not depend on `eta`.
        slope: Its first derivative by `eta`.
        curvature: Its second derivative; 1 everywhere where `constant`.
        mean: The mean of the response.
        link: The predictor of a mean.
        constant: Whether the curvature is 1 everywhere.
    """

    loss: Callable[[Array, Array], Array]
    slope: Callable[[Array, Array], Array]
    curvature: Callable[[Array], Array]
    mean: Callable[[Array], Array]
    link: Callable[[float], float]
    constant: bool = False


def _sigmoid(eta: Array) -> Array:
    return 0.5 * (1 + np.tanh(0.5 * eta))


FAMILIES = {
    "gaussian": Family(
        loss=lambda eta, y: 0.5 * (eta - y) ** 2,
        slope=lambda eta, y: eta - y,
        curvature=np.ones_like,
        mean=lambda eta: eta,
        link=float,
        constant=True,
    ),
    "binomial": Family(
        loss=lambda eta, y: np.logaddexp(0.0, eta) - y * eta,
        slope=lambda eta, y: _sigmoid(eta) - y,
        curvature=lambda eta: _sigmoid(eta) * _sigmoid(-eta),
        mean=_sigmoid,
        link=lambda mean: float(np.log(mean / (1 - mean))),
    ),
    "poisson": Family(
        loss=lambda eta, y: np.exp(np.minimum(eta, 700.0)) - y * eta,
        slope=lambda eta, y: np.exp(np.minimum(eta, 700.0)) - y,
        curvature=lambda eta: np.exp(np.minimum(eta, 700.0)),
        mean=lambda eta: np.exp(np.minimum(eta, 700.0)),
        link=lambda mean: float(np.log(mean)),
    ),
}
