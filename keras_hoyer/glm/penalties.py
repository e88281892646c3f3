"""The penalties of the groups' norms, with the operators of `keras_hoyer.proximal`."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from keras_hoyer.proximal import concave, ratios

Array = Any  # of float64


@dataclass(frozen=True)
class NormPenalty:
    """A penalty of the vector of the groups' norms.

    Attributes:
        shrink: From norms, a step and the groups' strengths to the minimizer of
            `sum((t - norms)**2) / 2 + step * p(t)`.
        concavity: From strengths to a bound of how concave `p` is: the `rho` of ADMM has to be
            larger. Zero also where there is no bound.
        convex: Whether `p` is convex.
    """

    shrink: Callable[[Array, float, Array], Array]
    concavity: Callable[[Array], float] = lambda strengths: 0.0
    convex: bool = False


def make(name: str, strength: float, gamma: float, a: float | None, epsilon: float) -> NormPenalty:
    """The penalty of a name, with its own parameters; `strength` is that of a group of weight 1."""
    return _MAKERS[name](gamma, a, epsilon, strength)


def _lasso(*_: Any) -> NormPenalty:
    return NormPenalty(lambda norms, step, s: np.maximum(norms - step * s, 0.0), convex=True)


def _mcp(gamma: float, *_: Any) -> NormPenalty:
    def shrink(norms: Array, step: float, s: Array) -> Array:
        # As `grpreg` has it: the strength is the slope at zero, and sets where the penalty ends.
        return concave.mcp_of(norms, np.full_like(norms, step), s, gamma, xp=np)

    return NormPenalty(shrink, lambda s: 1 / gamma)


def _scad(gamma: float, a: float | None, *_: Any) -> NormPenalty:
    knee = 3.7 if a is None else a

    def shrink(norms: Array, step: float, s: Array) -> Array:
        return concave.scad_of(norms, np.full_like(norms, step), s, knee, xp=np)

    return NormPenalty(shrink, lambda s: 1 / (knee - 1))


def _transformed_l1(gamma: float, a: float | None, *_: Any) -> NormPenalty:
    width = 1.0 if a is None else a

    def shrink(norms: Array, step: float, s: Array) -> Array:
        return concave.transformed_l1_of(norms, step * s, width, xp=np)

    return NormPenalty(shrink, lambda s: float(2 * (width + 1) / width**2 * s.max()))


def _log_sum(gamma: float, a: float | None, epsilon: float, *_: Any) -> NormPenalty:
    def shrink(norms: Array, step: float, s: Array) -> Array:
        return concave.log_sum_of(norms, step * s, epsilon, xp=np)

    return NormPenalty(shrink, lambda s: float(s.max() / epsilon**2))


def _l_half(*_: Any) -> NormPenalty:
    def shrink(norms: Array, step: float, s: Array) -> Array:
        return concave.l_half_of(norms, step * s, xp=np)

    return NormPenalty(shrink)


def _hoyer_square(gamma: float, a: float | None, epsilon: float, strength: float) -> NormPenalty:
    def shrink(norms: Array, step: float, s: Array) -> Array:
        # The ratio has the weights inside.
        return ratios.hoyer_square_of(norms, np.float64(step * strength), s / strength, xp=np)

    return NormPenalty(shrink)


_MAKERS: dict[str, Callable[..., NormPenalty]] = {
    "lasso": _lasso,
    "adaptive_lasso": _lasso,
    "mcp": _mcp,
    "scad": _scad,
    "transformed_l1": _transformed_l1,
    "log_sum": _log_sum,
    "l_half": _l_half,
    "hoyer_square": _hoyer_square,
}
NAMES = tuple(_MAKERS)
